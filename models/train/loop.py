"""The training loop: phases in order, periodic checkpoints, a log that can be plotted, exact resumption."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TextIO

import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.binarize.base import BinaryActivation, BinaryConv2d, set_phase
from models.train import checkpoint
from models.train.device import device_of, moved
from models.train.optim import learning_rate, make_optimizer
from models.train.recipe import PhaseSpec, Recipe
from models.train.settings import settings_of

LOG_EVERY = 25  # steps


class DivergedError(ValueError):
    """The loss is infinite or not a number."""


class TrainingTask(Protocol):
    """The interface that the loop needs from a task."""

    metric: str

    def steps_per_epoch(self) -> int: ...
    def batches(self, spec: PhaseSpec, epoch: int, first_step: int) -> Iterator[tuple[Tensor, ...]]: ...
    def loss(self, network: nn.Module, batch: tuple[Tensor, ...], spec: PhaseSpec) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's mean loss, and detached scalar tensors to log (converting them to numbers would sync a GPU)."""
        ...

    def evaluate(self, network: nn.Module) -> dict[str, float]: ...


class SignFlips:
    """Fraction of binary weights whose sign changed since the last call of `share`.

    Counting restarts with every phase and resumption, because checkpoints do not contain the previous signs.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [m for m in network.modules() if isinstance(m, BinaryConv2d)]
        self._signs = self._now()

    def _now(self) -> list[Tensor]:
        return [layer.weight.detach() < 0 for layer in self._layers]

    def share(self) -> float:
        """Fraction 0..1 of all binary weights; 0 for a full-precision network."""
        before, self._signs = self._signs, self._now()
        total = sum(s.numel() for s in before)
        changed = sum(int((a != b).sum()) for a, b in zip(before, self._signs, strict=True))
        return changed / total if total else 0.0


class ActivationsInside:
    """Fraction of the 1-bit layers' inputs inside [-1, 1], where the gradient of the sign does not vanish (Eq. 3, 5).

    Args:
        network: the network whose binarised activations are counted in forward passes between `watch` and `share`.
    """

    def __init__(self, network: nn.Module) -> None:
        self._watching = False
        self._inside = self._all = 0
        layers = [m for m in network.modules() if isinstance(m, BinaryActivation)]
        self._hooks = [layer.register_forward_pre_hook(self._count) for layer in layers]

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._watching:
            x = inputs[0].detach()
            self._inside += int((x.abs() <= 1.0).sum())
            self._all += x.numel()

    def watch(self) -> None:
        """Start counting."""
        self._watching, self._inside, self._all = True, 0, 0

    def share(self) -> float | None:
        """Stop counting and return the fraction 0..1 since `watch`; None for a network without 1-bit layers."""
        self._watching = False
        return self._inside / self._all if self._all else None

    def close(self) -> None:
        """Remove the hooks from the network."""
        for hook in self._hooks:
            hook.remove()


def _write(log: TextIO, record: dict[str, Any]) -> None:
    """Append a line of JSON; NaN and infinity, which JSON lacks, become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(one) for key, one in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    log.write(json.dumps(finite(record), allow_nan=False) + "\n")
    log.flush()


def cut_log(path: Path, epoch: int, step: int) -> None:
    """Drop records that a run resumed at (``epoch`` counted over all phases, ``step``) will repeat, and partial lines.

    The file is replaced atomically.
    """
    if not path.is_file():
        return

    def written_before(line: str) -> bool:
        try:
            record = json.loads(line)
        except ValueError:
            return False
        # held-out records, written after an epoch, carry the number of the next epoch, whose first step is 1
        return (record["epoch"], record.get("step", 0)) <= (epoch, step)

    lines = [line for line in path.read_text().splitlines() if written_before(line)]
    temporary = path.with_suffix(".part")
    temporary.write_text("".join(f"{line}\n" for line in lines))
    temporary.replace(path)


def accumulate_gradients(
    task: TrainingTask,
    network: nn.Module,
    batch: tuple[Tensor, ...],
    spec: PhaseSpec,
    micro_batches: int = 1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Accumulate a batch's gradient in the network over ``micro_batches`` successive parts of the batch.

    Parts are weighted by their size. The sum equals the gradient of the whole batch if the loss is a mean over images
    and no layer mixes images; BatchNorm, however, uses the statistics of each part.

    Returns:
        The loss and the metrics to log, averaged over the parts with the same weights.
    """
    device, total = device_of(network), len(batch[0])
    losses: list[Tensor] = []
    means: dict[str, Tensor] = {}
    for part in zip(*(tensor.tensor_split(micro_batches) for tensor in batch), strict=True):
        share = len(part[0]) / total
        loss, figures = task.loss(network, moved(part, device), spec)
        loss = share * loss
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        losses.append(loss.detach())
        for name, value in figures.items():
            means[name] = share * value + means.get(name, 0.0)
    return torch.stack(losses).sum(), means


def _tell(bar: tqdm, line: str) -> None:  # type: ignore[type-arg]  # generic only in its stubs
    if not bar.disable:
        bar.write(line)


def _start(
    recipe: Recipe, network: nn.Module, out: Path, accumulate: int, *, resume: bool
) -> tuple[checkpoint.Progress, dict[str, Any] | None]:
    """Start or resume a run: load the weights, cut the log, and return the progress and the optimiser's state."""
    if not 1 <= accumulate <= recipe.batch:
        size = recipe.batch
        raise ValueError(f"--accumulate {accumulate}: must be 1 to {size}, the batch size of recipe {recipe.name}")
    if not resume:
        checkpoint.check_unused(out)
    progress, state = checkpoint.Progress(accumulate=accumulate), None
    last = out / "last.pt"
    if resume and last.is_file():
        payload = checkpoint.load_resumable(last, recipe, accumulate)
        checkpoint.fill(network, payload["network"], last)
        progress, state = checkpoint.Progress(**payload["progress"]), payload["optimizer"]
    earlier = sum(spec.epochs for spec in recipe.phases[: progress.phase])
    cut_log(out / "log.jsonl", earlier + progress.epoch, progress.step)
    return progress, state


class _Keeper:
    """Keeps the time of a run, over all its resumptions, and its checkpoints."""

    def __init__(self, recipe: Recipe, network: nn.Module, progress: checkpoint.Progress) -> None:
        self._recipe, self._network, self._progress = recipe, network, progress
        self._wall_s = progress.wall_s - time.monotonic()
        self._cpu_s = progress.cpu_s - time.process_time()

    def measure(self) -> None:
        """Bring the times of the progress up to date."""
        self._progress.wall_s = self._wall_s + time.monotonic()
        self._progress.cpu_s = self._cpu_s + time.process_time()

    def save(self, path: Path, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Write a checkpoint with the settings of the recipe, from which the run can be resumed."""
        recipe, settings = self._recipe, settings_of(self._recipe)
        checkpoint.save(path, self._network, recipe.arch, recipe.name, self._progress, optimizer, settings)


def _check_finite(loss: float, title: str, step: int, rate: float) -> None:
    """Stop a run that has diverged, since its weights cannot recover.

    Raises:
        DivergedError: the loss is infinite or not a number.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"{title}, step {step}: the loss is {loss} (learning rate {rate:g}): the run diverged in the last "
            f"{LOG_EVERY} steps; start again in another folder with a lower learning rate or other initial weights"
        )


def run(
    recipe: Recipe,
    task: TrainingTask,
    network: nn.Module,
    out: Path,
    *,
    resume: bool = False,
    save_every_s: float = 300.0,
    max_steps: int | None = None,
    quiet: bool = False,
    accumulate: int = 1,
) -> checkpoint.Progress:
    """Train ``network`` by ``recipe``; write ``last.pt``, ``best.pt`` and ``log.jsonl`` to ``out``.

    Checkpoints are written between steps and batches depend only on (seed, epoch, step), so a resumed run takes exactly
    the same steps as an uninterrupted one.

    Args:
        recipe: the recipe.
        task: data, loss and evaluation.
        network: the network, trained in place.
        out: folder for checkpoints and log, created if missing.
        resume: continue from ``out/last.pt`` if it exists.
        save_every_s: seconds between checkpoints.
        max_steps: stop after this many steps, with a checkpoint; for tests and time budgets.
        quiet: show no progress bars.
        accumulate: number of micro-batches per step, for devices that cannot hold the whole batch, see
            `accumulate_gradients`; it must not change when a run is resumed.

    Raises:
        DivergedError: the loss is not finite at a logged step.
        ValueError: ``accumulate`` is below 1 or above the recipe's batch size.
        ValueError: ``out`` already holds a run and ``resume`` is False.
        FileNotFoundError, ValueError: see `checkpoint.load_resumable`.
    """
    out.mkdir(parents=True, exist_ok=True)
    last = out / "last.pt"
    progress, optimizer_state = _start(recipe, network, out, accumulate, resume=resume)
    per_epoch = task.steps_per_epoch()
    taken = 0
    saved = time.monotonic()
    keeper = _Keeper(recipe, network, progress)
    log = (out / "log.jsonl").open("a")
    with log:
        while progress.phase < len(recipe.phases):
            spec = recipe.phases[progress.phase]
            set_phase(network, spec.phase)
            optimizer = make_optimizer(network, spec)
            if optimizer_state is not None:
                optimizer.load_state_dict(optimizer_state)
                optimizer_state = None
            flips, inside = SignFlips(network), ActivationsInside(network)
            earlier = sum(p.epochs for p in recipe.phases[: progress.phase])
            while progress.epoch < spec.epochs:
                network.train()
                title = f"{recipe.name} {spec.phase.value} {progress.epoch + 1}/{spec.epochs}"
                bar = tqdm(total=per_epoch, initial=progress.step, desc=title, mininterval=5.0, disable=quiet)
                for batch in task.batches(spec, earlier + progress.epoch, progress.step):
                    position = progress.epoch * per_epoch + progress.step
                    rate = learning_rate(spec, position, spec.epochs * per_epoch, per_epoch)
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    logged = (progress.step + 1) % LOG_EVERY == 0 or progress.step + 1 == per_epoch
                    if logged:
                        inside.watch()
                    optimizer.zero_grad(set_to_none=True)
                    loss, figures = accumulate_gradients(task, network, batch, spec, accumulate)
                    optimizer.step()
                    progress.step += 1
                    taken += 1
                    bar.update()
                    keeper.measure()
                    if logged:
                        _check_finite(loss.item(), title, progress.step, rate)
                        record = {
                            "phase": spec.phase.value,
                            "epoch": earlier + progress.epoch,
                            "step": progress.step,
                            "lr": rate,
                            "loss": loss.item(),
                            "flipped_signs": flips.share(),
                            "activations_inside": inside.share(),
                            "wall_s": round(progress.wall_s, 1),
                            **{name: value.item() for name, value in figures.items()},
                        }
                        _write(log, record)
                    stop = max_steps is not None and taken >= max_steps
                    if stop or time.monotonic() - saved > save_every_s:
                        keeper.save(last, optimizer)
                        saved = time.monotonic()
                    if stop:
                        bar.close()
                        inside.close()
                        return progress
                bar.close()
                progress.epoch += 1
                progress.step = 0
                progress.metrics = task.evaluate(network)
                keeper.measure()
                _write(log, {"epoch": earlier + progress.epoch, "held_out": progress.metrics})
                _tell(bar, f"{title}: {progress.metrics}")
                if spec.final_form(recipe.phases[-1]) and progress.metrics[task.metric] >= progress.best:
                    progress.best = progress.metrics[task.metric]
                    keeper.save(out / "best.pt")
                keeper.save(last, optimizer)
            inside.close()
            progress.phase += 1
            progress.epoch = 0
            keeper.save(last)
    return progress
