"""What a finished run keeps beside its history: what the network said of each test image, and pictures to look at."""

import io
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from support import files
from support.run.checkpoint import RunFiles
from support.run.history import DRAWS, mistakes
from support.terminal import printable, warn

MAX_FILTERS, MAX_FILTER_SIDE = 1024, 31  # of a first convolution that is drawn


def answers(logits: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Of logits (N, classes) and labels (N,): the arrays that every result holds, see `history`."""
    logarithms, labels = logits.detach().float().cpu().log_softmax(1), labels.cpu()
    confidence, predictions = logarithms.exp().max(1)
    right = logarithms.gather(1, labels[:, None])[:, 0]
    arrays = {"labels": labels.byte(), "predictions": predictions.byte()}
    arrays |= {"confidence": confidence, "log_probability": right.half()}
    return {name: values.numpy() for name, values in arrays.items()}


def pictures(network: nn.Module, images: Tensor, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The test images (N, 28, 28) that were read wrong, and the filters of a C1 that sees one map, if square."""
    found = {"mistake_images": images.cpu().numpy()[mistakes(arrays)]}
    first = getattr(network, "c1", None)
    if isinstance(first, nn.Conv2d) and first.in_channels == 1:
        (height, width), filters = first.kernel_size, first.out_channels
        if height == width <= MAX_FILTER_SIDE and filters <= MAX_FILTERS:  # else nobody draws it
            found["c1"] = first.weight.detach().float().cpu().contiguous().numpy()
    return found


def draws(dataset: Any, classes: int, warp: Callable[[Tensor], Tensor]) -> dict[str, np.ndarray]:
    """The first image of each class, blank where there is none, and what `warp` makes of its copies (B, 1, 28, 28)."""
    originals = torch.zeros(classes, *dataset.images.shape[1:], dtype=torch.uint8)
    for label in dataset.labels.unique().tolist():
        originals[label] = dataset.images[dataset.labels == label][0].cpu()
    warped = warp(originals.repeat_interleave(DRAWS, 0)[:, None].float()).round().byte()
    return {"originals": originals.numpy(), "warped": warped.view(-1, DRAWS, *originals.shape[1:]).numpy()}


def save_picture(run: RunFiles, draw: Callable[[BinaryIO], object]) -> bool:
    """Save NAME.png; one that cannot be drawn costs the picture only, and False says so. Raises OSError."""
    drawn = io.BytesIO()
    try:
        draw(drawn)
    except Exception as error:  # of a user's own settings and fonts matplotlib raises any kind
        warn(f"the curves could not be drawn: {printable(error)}; python plot.py draws them later")
        run.result(".png").unlink(missing_ok=True)  # what stands there is of another training
        return False
    files.replace(run.result(".png"), lambda file: file.write(drawn.getbuffer()))
    return True
