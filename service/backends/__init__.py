"""The backends that run a model's variants, one per file, behind the protocols of `base`.

- `binary` (bitpacked.py): the packed graph on the bit-packed operator.
- `reference` (float_.py): the same weights in stock float32 operators, derived at load time (derive.py).
- `full` (float_.py): the graph of a full-precision model.
"""

import os

# ONNX Runtime's Linux wheel contains a telemetry client, which reads this variable on import, so set it first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from service.backends.base import Backend, Description, LoadedModel
from service.backends.bitpacked import BitPackedBackend
from service.backends.float_ import FloatBackend
from service.errors import UnknownVariantError

__all__ = ["Backend", "BitPackedBackend", "Description", "FloatBackend", "LoadedModel", "backend_for"]

_BACKENDS: dict[str, Backend] = {"binary": BitPackedBackend(), "reference": FloatBackend(), "full": FloatBackend()}


def backend_for(variant: str) -> Backend:
    """The backend that runs a variant.

    Raises:
        UnknownVariantError: there is no such variant.
    """
    try:
        return _BACKENDS[variant]
    except KeyError:
        raise UnknownVariantError(variant, _BACKENDS) from None
