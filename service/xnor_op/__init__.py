"""The bit-packed custom operator: where its library lies and which kernel it chose.

The operator itself is C++ (the sources beside this file) and is loaded twice from one shared library: by ONNX Runtime,
which calls `RegisterCustomOps`, and here through ctypes, which only asks for names. Both share one copy in memory, so
the name reported here is the kernel that runs there.
"""

import ctypes
import functools
import importlib.metadata
import sys
from pathlib import Path

from service.errors import OpUnavailableError

LIBRARY_NAME = "libbireal_op.dylib" if sys.platform == "darwin" else "libbireal_op.so"
"""File name of the shared library, as CMake's target `bireal_op` is called on this system."""

KERNEL_VARIABLE = "BIREAL_KERNEL"
"""Environment variable that overrides the choice of instruction set; read by the library, not here."""

_DISTRIBUTION = "bireal-serve"
_BUILD_HINT = "Build and install it with `make setup` (or `pip install .`), which needs a C++ compiler."


def library_path() -> Path:
    """Finds the operator's shared library.

    It lies beside this file in a wheel. In an editable install the Python files stay in the working copy while the
    compiled library goes to site-packages, so the files of the installed distribution are searched next.

    Returns:
        Absolute path of the library.

    Raises:
        OpUnavailableError: the library was found in none of these places.
    """
    beside = Path(__file__).resolve().parent / LIBRARY_NAME
    if beside.is_file():
        return beside
    try:
        files = importlib.metadata.distribution(_DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == LIBRARY_NAME:
            path = Path(file.locate()).resolve()
            if path.is_file():
                return path
    raise OpUnavailableError(
        f"The operator library {LIBRARY_NAME} was found neither beside service/xnor_op nor among the files of the "
        f"installed distribution {_DISTRIBUTION}.",
        remedy=_BUILD_HINT,
    )


def kernel_name() -> str:
    """Name of the kernel that the library chose on this CPU, for example `avx512vpopcnt`.

    Raises:
        OpUnavailableError: the library is missing, cannot be loaded, or the override names no kernel usable here.
    """
    name: bytes | None = _library().bireal_kernel_name()
    if not name:
        raise OpUnavailableError(
            f"What {KERNEL_VARIABLE} (or --kernel) names is no kernel that this CPU can run.",
            remedy=f"Leave it out, or name one of: {', '.join(usable_kernels())}.",
        )
    return name.decode("ascii")


def usable_kernels() -> list[str]:
    """Names of the kernels that this CPU can run, as `BIREAL_KERNEL` accepts them.

    Raises:
        OpUnavailableError: the library is missing or cannot be loaded.
    """
    names: bytes = _library().bireal_kernel_names() or b""  # null where memory has run out
    return [name for name in names.decode("ascii").split(",") if name]


@functools.cache
def _library() -> ctypes.CDLL:
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
        for symbol in ("bireal_kernel_name", "bireal_kernel_names"):
            function = getattr(library, symbol)
            function.restype = ctypes.c_char_p
            function.argtypes = []
    except (OSError, AttributeError) as error:  # not loadable here, or a library of another build
        raise OpUnavailableError(
            f"The operator library {path.name} cannot be loaded: {_without_folder(error, path)}.", remedy=_BUILD_HINT
        ) from error
    return library


def _without_folder(error: Exception, path: Path) -> str:
    """The loader's words; clients are told them, and need not know where the library lies."""
    return str(error).replace(str(path), path.name)
