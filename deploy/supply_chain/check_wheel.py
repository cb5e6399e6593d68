"""Runs the operator of an installed wheel inside ONNX Runtime, with every kernel that this CPU can run.

    python -P deploy/supply_chain/check_wheel.py

cibuildwheel runs this where the wheel and its dependencies are installed, and nothing else. -P keeps this folder off
Python's path. Ends with an error if a kernel does not load, does not run or computes something else than NumPy.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from service import xnor_op
from service.backends.bits import pack_signs
from service.backends.session import open_session, run_session

SIDE, CHANNELS, OUT_CHANNELS = 9, 70, 100  # beside the words and blocks of every kernel
DOMAIN = "bireal"


def check() -> None:
    """Compares signs and a binary convolution, by the kernel of this process, with NumPy.

    Raises:
        AssertionError: they differ.
    """
    random = np.random.default_rng(0)
    x = random.standard_normal((1, SIDE, SIDE, CHANNELS)).astype(np.float32)
    weight = random.random((OUT_CHANNELS, 3, 3, CHANNELS)) < 0.5  # true: -1
    constants = {
        "weight": pack_signs(weight),
        "scale": np.full(OUT_CHANNELS, 0.5, np.float32),
        "bias": np.ones(OUT_CHANNELS, np.float32),
    }
    nodes = [
        helper.make_node("Pack", ["x"], ["bits"], domain=DOMAIN),
        helper.make_node("BConv", ["bits", *constants], ["y"], domain=DOMAIN, channels=CHANNELS, kernel=3, stride=1),
    ]
    graph = helper.make_graph(
        nodes,
        "check",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, SIDE, SIDE, OUT_CHANNELS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    session = open_session(model, name="check", intra_op_threads=1, op_library=xnor_op.library_path())
    (y,) = run_session(session, ["y"], {"x": x}, name="check")
    signs = np.pad(np.where(x < 0, -1, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    sums = sum(
        signs[:, row : row + SIDE, column : column + SIDE] @ np.where(weight[:, row, column], -1, 1).T
        for row in range(3)
        for column in range(3)
    )
    np.testing.assert_array_equal(y, sums * 0.5 + 1)


def main() -> int:
    """Checks each kernel in a process of its own, because a process chooses once."""
    if len(sys.argv) > 1:
        check()
        return 0
    print(f"{xnor_op.library_path()} would choose {xnor_op.kernel_name()}")
    wrong = 0
    for kernel in xnor_op.usable_kernels():
        environment = os.environ | {xnor_op.KERNEL_VARIABLE: kernel}
        run = subprocess.run([sys.executable, "-P", __file__, "one"], env=environment, check=False)  # noqa: S603  # itself
        print(f"{kernel}: {'exact' if run.returncode == 0 else f'failed with {run.returncode}'}", flush=True)
        wrong += run.returncode != 0
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
