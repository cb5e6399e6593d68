"""A copy of the operator's sources whose AVX-512 kernels run on any CPU with AVX2, for the unit tests.

The kernels' own code is built, all of it but the instructions: those are unit/emulated_avx512.h's. The copy is
rewritten, instead of the names being macros, because the compiler's header declares them, and because assembly that
names 512-bit registers does not compile without them.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.xnor_op import opkit

UNIT = Path(__file__).resolve().parent / "unit"
HEADER = "emulated_avx512.h"
# In files of kernels: what stands there, and what does in the copy.
_KERNEL = (
    (r"#include <immintrin\.h>", f'#include "{HEADER}"'),
    (r"_mm512_", "emulated::"),
    (r"_mm_mask_storeu_epi8", "emulated::mask_storeu_epi8"),
    (r"_cvtmask32_u32", "static_cast<uint32_t>"),
    (r'__asm__\("(v\w+) %2, %1, %0" : "\+v"\((\w+)\) : "v"\((\w+)\), "v"\((\w+)\)\);', r"emulated::\1(\2, \3, \4);"),
    (r'__asm__ volatile\("" : [^;]*"\+?v"[^;]*\);', ";"),  # the roofline's: values that it does not want foretold
)
_BUILD = (
    (r"(-mavx512\w+ ?)+", "-mavx2 -mfma -mf16c -Wno-psabi"),
    (r"PRIVATE -O1 ", "PRIVATE -O0 "),  # a quarter of the compiling, for code that is called a few times
)
_DISPATCH = ((r"return x86\(\)\.avx512\w+;", "return x86().avx2;"),)
_LEFT = re.compile(r'_mm512_|"\+?v"|_mm\w*_mask|-mavx512|x86\(\)\.avx512')


def emulated_sources(folder: Path) -> Path:
    """Copies the operator's sources and the unit tests that its build asks for.

    Args:
        folder: where to.

    Returns:
        The copy of service/xnor_op, to build with CMake.

    Raises:
        AssertionError: something of AVX-512 was left; the patterns above do not know how it is written.
    """
    sources = folder / "service" / "xnor_op"
    shutil.copytree(opkit.SOURCE, sources, ignore=shutil.ignore_patterns("*.so", "*.dylib", "*.py", "__pycache__"))
    shutil.copytree(UNIT, folder / "tests" / "xnor_op" / "unit")
    shutil.copy(UNIT / HEADER, sources / "kernels" / HEADER)
    rewritten = dict.fromkeys(sources.glob("kernels/avx512*"), _KERNEL)
    rewritten |= {sources / "CMakeLists.txt": _BUILD, sources / "dispatch.cc": _DISPATCH}
    for path, patterns in rewritten.items():
        text = path.read_text()
        for pattern, by in patterns:
            text = re.sub(pattern, by, text)
        left = _LEFT.search(text)
        assert left is None, f"{path.name} has {left[0]!r}, for which {Path(__file__).name} has no stand-in."
        path.write_text(text)
    return sources
