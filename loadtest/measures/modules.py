"""Times of a network's modules, 1-bit against 32-bit, as in the paper's Tables 6 and 7: first convolution, 3x3, ...

ONNX Runtime's profiler times every node of both networks. In normal builds BatchNorm, shortcut and activation are fused
into the convolution; a second build of each network keeps them separate.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from loadtest.measures.interleave import Output, Run, check
from loadtest.options import progress
from loadtest.peers.onnx_runtime import ROUNDING, SIGN_FLIPS, Workload, run_front
from loadtest.peers.photos import Images, photos
from loadtest.peers.unfused import BEHIND, CONVOLUTION, unfused_full, unfused_packed
from loadtest.records.schema_costs import Module
from service import xnor_op

FIRST, BLOCKS, DOWN, LAST, OTHER = "first", "blocks", "downsampling", "fully connected", "other"
NAMES = {
    FIRST: "first convolution and max-pooling",
    DOWN: "downsampling",
    LAST: "global pooling and fully-connected layer",
}
# Optimisers that fold BatchNorm into a convolution. Without them, shortcut and ReLU are still fused into BatchNorm.
NO_FUSION = ("ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "ConvActivationFusion")

Times = dict[str, float]
"""Median seconds by node."""


class Profiled:
    """A session that times its nodes.

    Args:
        name: name of the session.
        model: the graph.
        folder: folder for the profiler's file.
        feeds: the inputs.
        disabled: names of optimisers to disable.
    """

    def __init__(
        self,
        name: str,
        model: onnx.ModelProto,
        folder: str,
        feeds: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
        disabled: Sequence[str] = (),
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, name.replace("/", "-")))
        if any(node.domain == "bireal" for node in model.graph.node):
            options.register_custom_ops_library(str(xnor_op.library_path()))
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
        )
        self._feeds = {value.name: feeds[value.name] for value in self._session.get_inputs()}
        self._runs = 0
        self._timed: list[int] = []
        self.run = Run(name, "onnxruntime's profiler", self._call, self._output)

    def _call(self) -> list[object]:
        self._runs += 1
        outputs: list[object] = self._session.run(None, self._feeds)
        return outputs

    def _output(self) -> Output:
        (output,) = self._call()
        return np.asarray(output, np.float32)

    def take_turn(self) -> None:
        """Runs twice; only the second run counts, because the first brings the weights back into the caches."""
        self._call()
        self._timed.append(self._runs)
        self._call()

    def times(self) -> Times:
        """Ends profiling and returns the median seconds by node, over the counted runs."""
        path = Path(self._session.end_profiling())
        samples: defaultdict[str, list[float]] = defaultdict(list)
        for event in json.loads(path.read_text()):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                samples[event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e6)
        return {node: float(np.median([values[run] for run in self._timed])) for node, values in samples.items()}


def module_of(model: onnx.ModelProto) -> dict[str, str]:
    """The module of each node, by node name and by output name (some nodes of ONNX Runtime are named after outputs).

    Convolutions are recognised by the exporter's names; the nodes that follow a convolution belong to its module.
    """
    found: dict[str, str] = {}
    of_value: dict[str, str] = {}
    for node in model.graph.node:
        module = of_value.get(node.input[0], FIRST)
        if node.name.startswith("stem"):
            module = FIRST
        elif "_down" in node.name or node.name.startswith("pool_"):
            module = DOWN
        elif node.name.startswith("stage"):
            module = BLOCKS
        elif node.op_type in ("ReduceMean", "GlobalMean", "GlobalAveragePool"):
            module = LAST
        found[node.name] = module
        of_value.update(dict.fromkeys(node.output, module))
    return of_value | found


def by_module(times: Times, modules: Mapping[str, str], *, apart: bool) -> Times:
    """Seconds by module.

    Args:
        times: seconds by node.
        modules: module by node.
        apart: whether the nodes after a block's convolution count as `BEHIND` (in an unfused build).
    """
    total: defaultdict[str, float] = defaultdict(float)
    for node, seconds in times.items():
        name = node.removesuffix("_nchwc").removesuffix("_bn")
        module = modules.get(name, OTHER)
        behind = apart and module == BLOCKS and not name.endswith(CONVOLUTION)
        total[BEHIND if behind else module] += seconds
    return dict(total)


def measure_modules(workload: Workload, repetitions: int) -> list[Module]:
    """Measures the rows of a pair of networks of basic blocks.

    Args:
        workload: the pair.
        repetitions: interleaved runs of each build.

    Raises:
        ParityError: a build's output differs from the network's.
    """
    pair = workload.pair
    progress(f"{pair.binary_name}: times of modules")
    images = photos(1, pair.height, pair.width)
    with tempfile.TemporaryDirectory() as folder:
        builds, models = _builds(workload, images, folder)
        oracles = {"full": workload.oracle("full", images), "binary": workload.oracle("binary", images)}
        for name, build in builds.items():
            side = name.partition(" ")[0]
            least = ROUNDING if side == "full" else SIGN_FLIPS
            check(build.run, oracles[side], against="the network, unoptimised", min_correlation=least)
        for _ in range(repetitions):
            for build in builds.values():
                build.take_turn()
        seconds = {name: build.times() for name, build in builds.items()}
    sides = ("binary", "full")
    fused = {side: by_module(seconds[side], module_of(models[side]), apart=False) for side in sides}
    unfused = {side: f"{side} unfused" for side in sides}
    apart = {side: by_module(seconds[name], module_of(models[name]), apart=True) for side, name in unfused.items()}

    def row(module: str, times: Mapping[str, Times], key: Sequence[str], *, unfused: bool) -> Module:
        binary, full = (sum(times[side].get(part, 0.0) for part in key) * 1e3 for side in ("binary", "full"))
        return Module(
            network=pair.binary_name,
            module=module,
            binary_ms=round(binary, 4),
            full_ms=round(full, 4),
            ratio=round(full / binary, 3),
            unfused=unfused,
        )

    return [
        row("3x3 convolutions", apart, [BLOCKS], unfused=True),
        row("BatchNorm, shortcut, sign or ReLU", apart, [BEHIND], unfused=True),
        row("3x3 convolutions with all that follows them", fused, [BLOCKS], unfused=False),
        *(row(name, fused, [module], unfused=False) for module, name in NAMES.items()),
        row("all modules", fused, [FIRST, BLOCKS, DOWN, LAST, OTHER], unfused=False),
    ]


def _builds(workload: Workload, images: Images, folder: str) -> tuple[dict[str, Profiled], dict[str, onnx.ModelProto]]:
    front, body = workload.full_parts
    models = {
        "binary": workload.packed,
        "full": body,
        "binary unfused": unfused_packed(workload.packed),
        "full unfused": unfused_full(body),
    }
    feeds: Mapping[str, np.ndarray] = {"image": images, body.graph.input[0].name: run_front(front, images)}
    builds = {}
    for name, model in models.items():
        disabled = NO_FUSION if name == "full unfused" else ()
        builds[name] = Profiled(name, model, folder, feeds, disabled)
    return builds, models
