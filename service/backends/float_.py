"""The variants that run in stock float32 operators: `full`, and `reference`, derived from the packed file.

`full` is the graph in a full-precision model's file. Its weights may be stored as float16 with Cast nodes, which ONNX
Runtime folds, so that it computes in float32. `reference` never exists as a file.
"""

from pathlib import Path

from service.backends.base import Description, LoadedModel
from service.backends.session import OrtModel, ResidentGrowth, check_variant, open_session
from service.card import Card
from service.errors import ModelBrokenError


class FloatBackend:
    """Runs float graphs with ONNX Runtime's own kernels."""

    def load(self, card: Card, variant: str, *, intra_op_threads: int) -> LoadedModel:
        """See `Backend.load`."""
        check_variant(card, variant)
        name = f"{card.name} ({variant})"
        real_bytes = card.weights.real_bytes
        with ResidentGrowth() as growth:
            graph: Path | bytes = card.path
            if variant == "reference":
                graph, real_bytes = _derived(card, name)
            session = open_session(graph, name=name, intra_op_threads=intra_op_threads)
            del graph  # tens of megabytes, which must not count towards the session
        description: Description = {
            "variant": variant,
            "kernel": "onnxruntime",
            "binary_weight_bytes": 0,
            "real_weight_bytes": real_bytes,
            "artefact_bytes": card.path.stat().st_size,
            "session_bytes": growth.bytes,
        }
        return OrtModel(card, session, description)


def _derived(card: Card, name: str) -> tuple[bytes, int]:
    """Returns the serialised reference of a binary model, and the size of its weights in bytes.

    Raises:
        ModelBrokenError: the packed file cannot be read or breaks the dialect's rules.
    """
    # Imported here, so that a service that only runs `binary` does not load `onnx`.
    from service.backends.derive import derive_reference
    from service.backends.dialect import GraphError, read_model
    from service.backends.weights import count_weights

    try:
        model = derive_reference(read_model(card.path)).model
    except GraphError as error:
        raise ModelBrokenError(name, str(error)) from error
    return model.SerializeToString(), count_weights(model).real_bytes
