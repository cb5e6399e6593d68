"""Opens and runs ONNX Runtime sessions, and implements `LoadedModel` on one."""

import contextlib
import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.backends.base import Description
from service.card import Card
from service.errors import BadParameterError, ModelBrokenError, OpUnavailableError, VariantNotServedError
from service.host import resident_memory_bytes

OUTPUT_NAMES = {"classify": "logits", "depth": "depth"}
"""Name of the graph's only output, by task."""

SPIN_US = 20
"""Microseconds that an intra-op thread spins for the next operator's work before it sleeps; 0 (no spinning) where this
version of ONNX Runtime cannot limit the time. See docs/adr/0053."""
if tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 26):
    SPIN_US = 0

_FATAL = 4  # ORT's severities: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal
_ERROR = 3

ort.set_default_logger_severity(_ERROR)


def open_session(
    model: Path | bytes,
    *,
    name: str,
    intra_op_threads: int,
    op_library: Path | None = None,
    optimise: bool = True,
) -> ort.InferenceSession:
    """Opens a session on the CPU.

    Args:
        model: path of the model's file, or the serialised model.
        name: the model's name in error messages.
        intra_op_threads: number of threads that one run may use.
        op_library: library of custom operators to register.
        optimise: whether ONNX Runtime may optimise the graph; if not, every node runs as written.

    Raises:
        ModelBrokenError: the graph cannot be loaded.
        OpUnavailableError: the library cannot be registered.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1  # the graphs are chains, so there are no operators to run in parallel
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Nodes run soon after their inputs are written, which are then still in the cache. The default order leaves side
    # branches, such as the score maps of depth networks, until the main chain has ended.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # Waking a sleeping thread takes as long as a whole 1-bit operator, so threads spin between operators. They spin
    # only briefly, and never between runs, because spinning threads take CPU time from other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if SPIN_US else "0")
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Errors are raised and reported by the caller; ONNX Runtime would also print them.
    options.log_severity_level = _FATAL
    if op_library is not None:
        try:
            options.register_custom_ops_library(str(op_library))
        except Exception as error:  # ONNX Runtime's exceptions have no other common base
            raise OpUnavailableError(
                f"ONNX Runtime {ort.__version__} cannot register {op_library.name}: {_message(error, op_library)}."
            ) from error
    try:
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions have no other common base
        raise _load_error(name, model, error) from error
    # The Python wrapper keeps the serialised graph for a retry with another execution provider. Only one provider is
    # used here, so free this copy of all the weights.
    if getattr(session, "_model_bytes", None):
        session._model_bytes = b""  # noqa: SLF001
    return session


def run_session(
    session: ort.InferenceSession, outputs: list[str], feeds: Mapping[str, NDArray[np.generic]], *, name: str
) -> list[NDArray[np.generic]]:
    """Runs a session.

    Args:
        session: the session to run.
        outputs: names of the outputs to return.
        feeds: the inputs, by name.
        name: the model's name in error messages.

    Returns:
        The outputs, in the order of `outputs`.

    Raises:
        ModelBrokenError: a node failed.
    """
    try:
        results: list[NDArray[np.generic]] = session.run(outputs, dict(feeds))
    except Exception as error:  # ONNX Runtime's exceptions have no other common base
        raise ModelBrokenError(name, f"the network failed: {_message(error)}.") from error
    return results


def run_images(
    session: ort.InferenceSession, output: str, images: NDArray[np.uint8], most: int | None, *, name: str
) -> NDArray[np.float32]:
    """Runs a batch, split into parts of at most `most` images.

    Args:
        session: the session to run; its input is `image`.
        output: name of the output to return.
        images: uint8 [N,H,W,3], N >= 1.
        most: maximum number of images per run; None for no limit.
        name: the model's name in error messages.

    Returns:
        The output for all images, in order, float32 [N,...].

    Raises:
        ModelBrokenError: a node failed.
    """
    step = most or len(images)
    parts = [
        run_session(session, [output], {"image": np.ascontiguousarray(images[i : i + step])}, name=name)[0]
        for i in range(0, len(images), step)
    ]
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return joined.astype(np.float32, copy=False)


class OrtModel:
    """A `LoadedModel` on an ONNX Runtime session.

    Args:
        card: the model's card.
        session: the model's session; concurrent runs are allowed.
        description: the result of `describe`; `session_bytes` is that of opening the session.
        images_a_run: maximum number of images per run of the session; None for no limit.

    Raises:
        ModelBrokenError: the graph's inputs and outputs are not those of the card's task.
    """

    def __init__(
        self, card: Card, session: ort.InferenceSession, description: Description, *, images_a_run: int | None = None
    ) -> None:
        self._name = f"{card.name} ({description['variant']})"
        self._rows = (card.input.height, card.input.width, 3)
        self._session: ort.InferenceSession | None = session
        self._description = description
        self._images_a_run = images_a_run
        self._output = OUTPUT_NAMES[card.task]
        _check_interface(self._name, card, session)

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `LoadedModel.run`."""
        session = self._session  # keeps the session alive if another thread closes the model
        if session is None:
            raise ModelBrokenError(self._name, "the model was unloaded.", remedy="Request a model that is loaded.")
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != self._rows or batch.shape[0] < 1:
            raise BadParameterError(
                "image",
                f"{self._name} takes uint8 [N, {', '.join(map(str, self._rows))}] with N >= 1; "
                f"this is {batch.dtype} {list(batch.shape)}.",
                remedy="Scale and crop the image to that size before you send it as a tensor.",
            )
        return run_images(session, self._output, batch, self._images_a_run, name=self._name)

    def warm_up(self) -> None:
        """See `LoadedModel.warm_up`."""
        with ResidentGrowth() as growth:
            self.run(np.zeros((1, *self._rows), np.uint8))
        before = self._description["session_bytes"]
        if before is not None and growth.bytes is not None:
            self._description["session_bytes"] = before + growth.bytes

    def describe(self) -> Description:
        """See `LoadedModel.describe`."""
        return self._description.copy()

    def close(self) -> None:
        """See `LoadedModel.close`."""
        self._session = None


class ResidentGrowth:
    """Measures the growth of the process's resident memory in a `with` block; read `bytes` afterwards.

    The allocator's free pages are returned to the system before and after, so that memory that was allocated and freed
    in the block, such as a derived graph, does not count. Never negative; None where the system does not report it.
    """

    bytes: int | None = None

    def __enter__(self) -> "ResidentGrowth":
        release_free_pages()
        self._before = resident_memory_bytes()
        return self

    def __exit__(self, *_: object) -> None:
        release_free_pages()
        after = resident_memory_bytes()
        if self._before is not None and after is not None:
            self.bytes = max(0, after - self._before)


def check_variant(card: Card, variant: str) -> None:
    """Checks that a card lists a variant.

    Raises:
        VariantNotServedError: it does not.
    """
    if variant not in card.variants:
        raise VariantNotServedError(card.name, variant, card.variants, counterpart=card.full)


def _check_interface(name: str, card: Card, session: ort.InferenceSession) -> None:
    """Raises ModelBrokenError unless the graph is image u8 [N,H,W,3] -> logits [N,classes] or depth [N,H,W]."""
    expected_output = OUTPUT_NAMES[card.task]
    sizes: list[int | str] = [len(card.classes)] if card.task == "classify" else [card.input.height, card.input.width]
    wanted: dict[str, tuple[str, str, list[int | str]]] = {
        "input": ("image", "tensor(uint8)", ["N", card.input.height, card.input.width, 3]),
        "output": (expected_output, "tensor(float)", ["N", *sizes]),
    }
    for what, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        wanted_name, wanted_type, wanted_shape = wanted[what]
        found = [(value.name, value.type, list(value.shape)) for value in values]
        if len(found) != 1 or found[0][:2] != (wanted_name, wanted_type) or not _fits(found[0][2], wanted_shape):
            given = "; ".join(f"{value[0]} {value[1]} {value[2]}" for value in found) or "none"
            raise ModelBrokenError(
                name, f"the graph's {what} must be {wanted_name} {wanted_type} {wanted_shape}; it is {given}."
            )


def _fits(shape: list[int | str | None], wanted: list[int | str]) -> bool:
    """Whether a shape, whose unknown sizes are not int, matches the wanted one; the batch size must not be fixed."""
    if len(shape) != len(wanted) or isinstance(shape[0], int):
        return False
    return all(not isinstance(n, int) or n == m for n, m in zip(shape[1:], wanted[1:], strict=True))


def _load_error(name: str, model: Path | bytes, error: Exception) -> ModelBrokenError:
    """Translates a load error of ONNX Runtime into a message for the operator of the service."""
    what = "the derived graph" if isinstance(model, bytes) else model.name
    kind, message = type(error).__name__, _message(error, *([model] if isinstance(model, Path) else []))
    missing = re.search(r"(\S+?)(?:\(-?\d+\))? is not a registered function/op", message)
    if isinstance(model, Path) and not model.is_file():
        return ModelBrokenError(name, f"{what} does not exist, or is not a file.")
    if kind == "InvalidProtobuf" or "No graph was found in the protobuf" in message:
        return ModelBrokenError(name, f"{what} is not an ONNX file, or is truncated.")
    if missing:
        return ModelBrokenError(
            name,
            f"{what} needs the operator {missing[1]}, which ONNX Runtime {ort.__version__} and this service lack.",
            remedy="Export the model with this version of the service, or install the version that exported it.",
        )
    return ModelBrokenError(name, f"{what} cannot be loaded: {message}.")


def _message(error: Exception, *files: Path) -> str:
    """Returns ONNX Runtime's message in one line, without its prefix and the final full stop.

    Clients see it, so the folders of `files` and of ONNX Runtime's own sources are removed.
    """
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    for file in files:
        text = text.replace(f"{file.parent}{os.sep}", "")
    text = re.sub(r"(?:/[\w.+-]+)+/(?=[\w-]+\.(?:cc|h|hpp)\b)", "", text)
    return " ".join(text.split()).rstrip(".")


def release_free_pages() -> None:
    """Returns the allocator's free pages to the system, so that resident memory is what is in use (glibc only)."""
    with contextlib.suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
