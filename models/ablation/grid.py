"""The cells of the grid: what each one trains, what it starts from and which table of the paper it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from models.arch.config import STRUCTURES, ArchConfig
from models.binarize.base import Phase
from models.train.recipe import PhaseSpec, Recipe

CLASSES = 10

#: Techniques that the paper does not use, measured in addition.
EXTRAS = {
    "smoothing": "label smoothing",
    "distillation": "distillation from the ReLU network",
    "scaled": "streams scaled first",
}
SMOOTHING = 0.1
DISTILLATION = 0.5  # weight of the teacher's loss
STREAM_RMS = 0.9  # of what the signs read, before the first step (models.train.streams)


@dataclass(frozen=True)
class Budget:
    """The training budget, the same for all cells. It is stored with the results.

    Attributes:
        width: width multiplier on the paper's channel counts.
        images: number of training images, the first of each class in equal numbers.
        size: side in pixels that images are scaled up to; the last stage sees 1/32 of it.
        relu_epochs: epochs of the real-valued ReLU networks, from random weights.
        clip_epochs: epochs of leaky clip and of clip each, starting from the ReLU networks.
        binary_epochs: epochs of every 1-bit network.
        lr: peak learning rate. SGD with momentum 0.9 as in the paper, but Nesterov; cosine schedule to zero.
        batch: batch size.
    """

    width: float = 0.25
    images: int = 10_000
    size: int = 64
    relu_epochs: int = 4
    clip_epochs: int = 1
    binary_epochs: int = 4
    lr: float = 0.05
    batch: int = 32


@dataclass(frozen=True)
class Cell:
    """One network to train.

    Attributes:
        depth: 18, 34 or 50.
        structure: bireal, res or plain.
        phase: the last training phase.
        method: binarisation method.
        init: the real-valued network it starts from, ``relu`` or ``clip``; empty if the cell itself is real-valued.
        options: options of the method.
        seed: seed of the data order, augmentation and random weights.
        extra: a technique besides the paper's in the last phase, a key of `EXTRAS`; empty for none.
    """

    depth: int
    structure: str
    phase: Phase
    method: str = "bireal"
    init: str = ""
    options: tuple[tuple[str, object], ...] = field(default=())
    seed: int = 1
    extra: str = ""

    @property
    def key(self) -> str:
        """Name of the cell in the results, and of its folder."""
        parts = [f"{self.structure}{self.depth}", self.method if self.init else f"real-{self.phase.value}"]
        parts += [f"from-{self.init}"] if self.init else []
        parts += [str(value) for _, value in self.options]
        parts += [self.extra] if self.extra else []
        return "-".join([*parts, f"seed{self.seed}"])

    @property
    def teacher(self) -> Cell | None:
        """The cell whose network this one is distilled from, if any: the ReLU network that its weights come from."""
        return real(self.depth, self.structure, Phase.RELU, self.seed) if self.extra == "distillation" else None

    @property
    def start(self) -> Cell | None:
        """The cell whose weights this one starts from, if any."""
        if self.init:
            return real(self.depth, self.structure, Phase(self.init), self.seed)
        if self.phase is Phase.CLIP:
            return real(self.depth, self.structure, Phase.RELU, self.seed)
        return None

    @property
    def twin(self) -> Cell | None:
        """The cell that trains the very same network, if any: BinaryNet is Table 1's Res without our techniques.

        BinaryNet also clips its weights to [-1, 1], which changes nothing as long as none leaves that range.
        """
        if self.method != "binarynet" or self.depth >= 50:
            return None
        return combination(self.depth, self.structure, self.init, "original", "clip", self.seed)

    def epochs(self, budget: Budget) -> int:
        """Epochs that the cell's weights have been trained for, with those of the cells they come from."""
        own = sum(phase.epochs for phase in self.recipe(budget).phases)
        return own + (self.start.epochs(budget) if self.start else 0)

    @property
    def needs(self) -> list[Cell]:
        """The cells whose weights are needed to train this one."""
        return [cell for cell in (self.start, self.teacher) if cell is not None]

    def recipe(self, budget: Budget) -> Recipe:
        """The cell's training recipe; clip pre-training passes through the leaky clip, as in Sec. 4.1."""
        if self.init:
            steps = [(Phase.BINARY, budget.binary_epochs)]
            if self.depth >= 50 and self.method == "bireal":
                half = max(1, budget.binary_epochs // 2)  # the two-step scheme, in the same number of epochs
                steps = [(Phase.BINARY_1X1, half), (Phase.BINARY, max(1, budget.binary_epochs - half))]
        elif self.phase is Phase.CLIP:
            steps = [(Phase.LEAKY_CLIP, budget.clip_epochs), (Phase.CLIP, budget.clip_epochs)]
        else:
            steps = [(Phase.RELU, budget.relu_epochs)]
        arch = ArchConfig(
            depth=self.depth,
            method=self.method,
            structure=self.structure,
            num_classes=CLASSES,
            width=budget.width,
            options=dict(self.options),
        )
        distill = DISTILLATION if self.teacher else 0.0
        return Recipe(
            name=self.key,
            arch=arch,
            phases=tuple(
                PhaseSpec(phase, epochs, budget.lr, "sgd", warmup=0.1, distill=distill) for phase, epochs in steps
            ),
            batch=budget.batch,
            source="the ablation grid",
            data="CIFAR-10",
            terms="cite Krizhevsky 2009",
            seed=self.seed,
            size=budget.size,
            label_smoothing=SMOOTHING if self.extra == "smoothing" else 0.0,
            stream_rms=STREAM_RMS if self.extra == "scaled" else 0.0,
            bf16=False,
        )


def real(depth: int, structure: str, phase: Phase, seed: int = 1) -> Cell:
    """A real-valued row of Table 1: the structure's network with ReLU or clip."""
    return Cell(depth, structure, phase, seed=seed)


def binary(
    depth: int, structure: str = "bireal", init: str = "clip", method: str = "bireal", seed: int = 1, **options: object
) -> Cell:
    """A 1-bit network."""
    return Cell(depth, structure, Phase.BINARY, method, init, tuple(sorted(options.items())), seed)


def combination(depth: int, structure: str, init: str, update: str, gradient: str, seed: int = 1) -> Cell:
    """A cell of Table 1."""
    return binary(depth, structure, init, seed=seed, update=update, gradient=gradient)


#: Rows of Table 1, in its order: initialisation, weight update, activation gradient.
COMBINATIONS = [
    (init, update, gradient)
    for init in ("relu", "clip")
    for update in ("original", "magnitude")
    for gradient in ("clip", "approxsign")
]

#: Baselines of Tables 3 and 4. Each is trained in the ResNet structure, starting from its ReLU network.
OTHERS = {"binarynet": {}, "xnornet": {}, "abcnet": {"weight_bases": 3, "activation_bases": 1}}


def other(depth: int, method: str) -> Cell:
    """A baseline's cell of Table 3 or 4."""
    return binary(depth, "res", "relu", method, **OTHERS[method])


def third_order() -> Cell:
    """The cell of Table 2 that Table 1 does not have."""
    return combination(18, "bireal", "clip", "magnitude", "approxsign3")


def extras(seed: int = 1) -> list[Cell]:
    """Bi-Real-18 with each of `EXTRAS`."""
    best = combination(18, "bireal", "clip", "magnitude", "approxsign", seed=seed)
    return [replace(best, extra=extra) for extra in EXTRAS]


def scaled(depth: int, init: str, seed: int = 1) -> tuple[Cell, Cell]:
    """A Bi-Real Net with all techniques that its initialisation allows, and the same with its streams scaled first."""
    best = binary(50) if depth == 50 else combination(depth, "bireal", init, "magnitude", "approxsign", seed)
    return best, replace(best, extra="scaled")


#: Depth, initialisation and seeds of the networks that are trained with and without scaled streams.
SCALED = [(34, "clip", (1, 2)), (18, "clip", (1, 2)), (34, "relu", (1, 2)), (18, "relu", (1, 2)), (50, "clip", (1,))]


def cells() -> list[Cell]:
    """All cells, the most informative first, each after those it needs and after its twin."""

    def wanted() -> Iterator[Cell]:
        best, base = COMBINATIONS[-1], COMBINATIONS[0]
        yield from (combination(18, structure, *best) for structure in STRUCTURES)
        yield from (other(18, method) for method in OTHERS)
        yield from (combination(18, "bireal", *row) for row in COMBINATIONS)
        yield third_order()
        yield from (combination(18, structure, *base) for structure in STRUCTURES)
        yield binary(50)
        yield other(50, "binarynet")
        yield from (combination(34, structure, *best) for structure in STRUCTURES)
        for structure in STRUCTURES:
            yield from (combination(18, structure, *row) for row in COMBINATIONS)
        yield from (combination(18, "bireal", *row, seed=2) for row in COMBINATIONS)
        for seed in (1, 2):
            yield from extras(seed)
        for depth, init, seeds in SCALED:
            for seed in seeds:
                yield from scaled(depth, init, seed)
        yield from (other(34, method) for method in OTHERS)
        for structure in STRUCTURES:
            yield from (combination(34, structure, *row) for row in COMBINATIONS)
        yield other(50, "xnornet")

    ordered: dict[str, Cell] = {}

    def put(cell: Cell) -> None:
        for needed in (*cell.needs, *([cell.twin] if cell.twin else [])):
            put(needed)
        ordered.setdefault(cell.key, cell)

    for cell in wanted():
        put(cell)
    return list(ordered.values())
