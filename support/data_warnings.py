"""What looks wrong about data that load: said once, in a line each, before they are trained on."""

import torch
from torch import Tensor


def doubts(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int) -> list[str]:
    """Warnings about images uint8 (N, 28, 28) and labels int64 (N,) of both sets, on any device."""
    found = []
    for split, (images, labels) in (("training", train), ("test", test)):
        counts = labels.bincount(minlength=classes).tolist()
        if absent := [str(label) for label, count in enumerate(counts) if count == 0]:
            found.append(f"the {split} set holds no {', '.join(absent)}")
        found += [f"the {split} set: {problem}" for problem in _odd_pixels(images)]
    if len(test[1]) > len(train[1]):
        found.append(f"the test set ({len(test[1]):,}) is larger than the training set ({len(train[1]):,}): swapped?")
    if all(torch.equal(one, other) for one, other in zip(train, test, strict=True)):
        found.append("the test set is the training set: its figures say nothing about new images")
    return found


def _odd_pixels(images: Tensor) -> list[str]:
    highest = int(images.max())
    if highest <= 1:
        return [f"the brightest pixel is {highest}, not 255: were the values scaled to [0, 1]? The networks see black"]
    border = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    if border.float().mean() > 127:  # MNIST's border is 0
        return ["the images are dark on light, the reverse of MNIST's light on dark: was that meant?"]
    return []
