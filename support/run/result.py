"""What a finished run keeps beside its history: what the network said of each test image, and pictures to look at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from support import files
from support.run.history import DRAWS, mistakes
from support.terminal import printable, warn


def answers(logits: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Of logits (N, classes) and labels (N,): the arrays that every result holds, see `history`."""
    logarithms, labels = logits.float().cpu().log_softmax(1), labels.cpu()
    confidence, predictions = logarithms.exp().max(1)
    right = logarithms.gather(1, labels[:, None])[:, 0].half()
    arrays = {"labels": labels.byte(), "predictions": predictions.byte(), "confidence": confidence}
    return {name: values.numpy() for name, values in (arrays | {"log_probability": right}).items()}


def pictures(network: nn.Module, images: Tensor, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The test images (N, 28, 28) that were read wrong, and the filters of a C1 that sees one map."""
    found = {"mistake_images": images.cpu().numpy()[mistakes(arrays)]}
    c1 = getattr(network, "c1", None)
    if isinstance(c1, nn.Conv2d) and c1.in_channels == 1:
        found["c1"] = c1.weight.detach().float().cpu().contiguous().numpy()
    return found


def draws(dataset: Any, classes: int, warp: Callable[[Tensor], Tensor]) -> dict[str, np.ndarray]:
    """The first image of each class, blank where there is none, and what `warp` makes of its copies (B, 1, 28, 28)."""
    originals = torch.zeros(classes, *dataset.images.shape[1:], dtype=torch.uint8)
    for label in dataset.labels.unique().tolist():
        originals[label] = dataset.images[dataset.labels == label][0].cpu()
    warped = warp(originals.repeat_interleave(DRAWS, 0)[:, None].float()).round().byte()
    return {"originals": originals.numpy(), "warped": warped.view(-1, DRAWS, *originals.shape[1:]).numpy()}


def save_picture(path: Path, draw: Callable[[BinaryIO], object]) -> None:
    """Save the curves and say where; whatever goes wrong costs the picture only."""
    try:
        files.replace(path, draw)
    except Exception as error:  # of a user's own settings and fonts matplotlib raises any kind
        warn(f"the curves could not be drawn: {printable(error)}; python plot.py draws them later")
        path.unlink(missing_ok=True)  # what stands there is of another training
    else:
        print(f"plot  {printable(path)}")
