"""MNIST: uint8 images in memory -> augmented, normalized batches.

The batch is the unit of work: an archive is decoded once into one uint8 tensor, and everything after that (padding,
augmenting, normalizing) happens to a whole batch at a time, on the device where the tensor lies.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from support.data import read_images
from support.terminal import UserError

SIZE = 28  # pixels a side of an MNIST image
PADDING = 2  # pixels of background on each side: 32x32, as the networks take it (LeCun et al. 1998, II.B)
MEAN, STD = 0.1307, 0.3081  # of the 60,000 training images, scaled to [0, 1]

ROTATION = 20  # degrees, either way
TRANSLATION = 0.1  # of width and height, either way
MIN_CROP = 0.8  # of the area; the largest is the whole image

MNIST_SHA256 = {  # of the decoded images and labels, see MNIST.sha256
    "train": "edc0d1098aa497be14ace79ddd5171e5a3dcf9c4d196c015389203eb3ba1f59b",
    "test": "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
}

Loader = Iterable[tuple[Tensor, Tensor]]  # images (B, 1, 32, 32) and labels (B,), as a DataLoader gives them
Strength = bool | float | tuple[float, float]
Augment = Strength | Callable[[Tensor], Tensor]


class MNIST(Dataset):
    """Images and labels of whatever `read_images` reads: a tar of PNGs, a folder of them, or IDX files.

    `dataset[i]` is (image, label): float32 (1, 32, 32), normalized, and an int. `dataset[[i, j, ...]]` is a batch:
    float32 (B, 1, 32, 32) and int64 (B,), on the device of `images`; so is a slice, or a mask as in
    `dataset[dataset.labels == 5]`. `DataLoader(dataset, 128, shuffle=True)` is as fast as that.

    augment: a bool, a strength (`draw_affine`), or a function that takes and gives float32 (B, 1, 28, 28), 0 to 255.
    Draws come from torch's default generator, which a DataLoader seeds anew in each of its workers.

    Attributes: `images` uint8 (N, 28, 28) and `labels` int64 (N,), also called `targets` as in torchvision; `classes`,
    the names of the labels from 0 to the highest; `augment`, to be changed at will. Raises DataError, a UserError.
    """

    def __init__(self, path: str | Path, augment: Augment = False) -> None:
        self.path = Path(path)
        self.augment = augment
        self.images, self.labels = map(torch.from_numpy, read_images(self.path))
        self.classes = [str(label) for label in range(int(self.labels.max()) + 1)]

    @property
    def augment(self) -> Augment:
        return self._augment

    @augment.setter
    def augment(self, augment: Augment) -> None:
        ends: Any = augment if isinstance(augment, tuple | list) else (augment, augment)
        is_range = len(ends) == 2 and all(isinstance(end, Real) for end in ends) and 0 <= ends[0] <= ends[1] <= 1
        if not (is_range or callable(augment)):
            raise ValueError(
                f"augment: expected False, True, a strength in [0, 1], a pair or a function, not {augment!r}"
            )
        self._augment: Augment = (float(ends[0]), float(ends[1])) if isinstance(augment, tuple | list) else augment

    targets = property(lambda self: self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"MNIST({str(self.path)!r}, augment={self.augment}): {len(self):,} images"

    def __getitem__(self, index: Any) -> tuple[Tensor, Any]:
        if isinstance(index, Tensor):
            chosen = torch.arange(len(self), device=index.device)[index]
        else:  # numpy takes reversed slices and read-only arrays, too
            index = list(index) if isinstance(index, tuple) else index
            chosen = torch.from_numpy(np.array(np.arange(len(self))[index]))
        if chosen.ndim > 1:
            raise IndexError(f"expected integers, or a mask of {len(self)}, not {index!r:.40}")
        images, labels = self._batch(chosen.flatten())
        return (images, labels) if chosen.ndim else (images[0], int(labels[0]))

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """The samples of a batch, made together, for a DataLoader to stack."""
        images, labels = self[indices]
        return list(zip(images, labels.tolist(), strict=True))

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = index.to(self.images.device, non_blocking=True)
        images = self.images.index_select(0, index)[:, None].float()  # `self.images[index]` takes five times as long
        if callable(self.augment):
            pixels, images = images, self.augment(images)
            if getattr(images, "shape", None) != pixels.shape or images.dtype != pixels.dtype:
                found = f"{getattr(images, 'dtype', type(images).__name__)} {tuple(getattr(images, 'shape', ()))}"
                raise ValueError(f"augment: the function returned {found}; expected float32 {tuple(pixels.shape)}")
            images = images.clone()  # `network_input` overwrites it, and the function may have kept its own
        elif self.augment:
            images = warp(images, draw_affine(len(index), self.augment, images.device))
        return network_input(images), self.labels[index]

    def in_order(self, indices: range, batch_size: int) -> Loader:
        """These images in batches of one size, at most `batch_size`: one left over would have no variance."""
        batches = max(1, math.ceil(len(indices) / batch_size))
        return map(self.__getitem__, torch.tensor(indices).tensor_split(batches))

    def split(self, last: int) -> tuple["MNIST", "MNIST"]:
        """All images but the `last`, and these, held out, never augmented, in the same memory. Raises UserError."""
        if not 0 < last < len(self):
            raise UserError(f"--validation {last}: of {len(self):,} images, expected 1 to {len(self) - 1}")
        parts = copy.copy(self), copy.copy(self)
        for part, images in zip(parts, (slice(None, -last), slice(-last, None)), strict=True):
            part.images, part.labels = self.images[images], self.labels[images]
        parts[1].augment = False
        return parts

    def to(self, device: torch.device | str) -> "MNIST":
        """Move images and labels to `device`, so that batches are made there."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self

    def sha256(self) -> str:
        """Hexadecimal digest of the images, then the labels as bytes: the same for the same data in any archive."""
        digest = hashlib.sha256(self.images.cpu().contiguous().numpy().data)
        digest.update(self.labels.to("cpu", torch.uint8).numpy().data)
        return digest.hexdigest()


def network_input(images: Tensor) -> Tensor:
    """Pixels (B, 1, 28, 28), float32, 0 to 255, overwritten -> (B, 1, 32, 32), normalized; the border is background."""
    images.sub_(255 * MEAN).div_(255 * STD)
    return F.pad(images, 4 * [PADDING], value=-MEAN / STD)


def draw_affine(count: int, strength: Strength = 1.0, device: torch.device | str = "cpu") -> Tensor:
    """Matrices (count, 2, 3) of `compose_affine`, one draw each, where torchvision draws once for a whole batch.

    strength in [0, 1] scales the ranges: 1 is ROTATION, TRANSLATION and crops of MIN_CROP to 1 of the area, 0 is
    no change. Of a pair (low, high) each image draws its own strength. A crop of area a is a**u wide and a**(1 - u)
    high, u uniform in [0, 1]: its aspect ratio lies between a and 1/a, uniform in its logarithm as in torchvision's
    RandomResizedCrop. Its position is uniform over where it fits.
    """
    low, high = strength if isinstance(strength, tuple) else (strength, strength)
    scale = torch.empty(count, device=device).uniform_(low, high) if low < high else float(low)
    draws = torch.rand(7, count, device=device)
    either_way = scale * (2 * draws[:3] - 1)
    area = 1 - scale * (1 - MIN_CROP) * draws[3]
    width, height = area ** draws[4], area ** (1 - draws[4])
    crop = torch.stack([draws[5] * (1 - width), draws[6] * (1 - height), width, height], dim=1)
    return compose_affine(ROTATION * either_way[0], TRANSLATION * either_way[1], TRANSLATION * either_way[2], crop)


def compose_affine(angle: Tensor, shift_x: Tensor, shift_y: Tensor, crop: Tensor) -> Tensor:
    """Rotation, then translation, then resized crop, as one matrix an image for `warp`.

    angle: (B,) degrees, counter-clockwise. shift_x, shift_y: (B,) fractions of width and height, right and down.
    crop: (B, 4), left, top, width and height as fractions of the image. Returns float32 (B, 2, 3): it maps a position
    in the result to the one in the original, both in [-1, 1]; so each step is inverted, and the last comes first.
    """
    left, top, width, height = crop.unbind(1)
    x = 2 * left + width - 1 - 2 * shift_x  # the crop's centre, before the translation
    y = 2 * top + height - 1 - 2 * shift_y
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    rows = [cos * width, -sin * height, cos * x - sin * y, sin * width, cos * height, sin * x + cos * y]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Warp images (B, C, H, W), float, by matrices (B, 2, 3): bilinear, 0 outside the image."""
    height, width = images.shape[2:]
    x, y = (torch.linspace(1 / n - 1, 1 - 1 / n, n, device=images.device) for n in (width, height))
    # affine_grid(align_corners=False) multiplies pixel by pixel, in 20 times the time
    of_x, of_y, shift = matrices[:, :, None, None].unbind(-1)  # (B, 2, 1, 1), for the result's two coordinates
    grid = of_x * x + (of_y * y[:, None] + shift)  # (B, 2, H, W)
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros", align_corners=False)
