"""What looks wrong about data that load: said once, in a line each, before they are trained on."""

from typing import Protocol

import torch
from torch import Tensor

from support.data.images import suspicious

LISTED = 10  # absent classes that are named


class Images(Protocol):
    """A data set: images uint8 (N, 28, 28) and labels int64 (N,), on any device; the names of its classes."""

    images: Tensor
    labels: Tensor
    classes: list[str]


def doubts(why_sample: str | None, train_set: Images, test_set: Images) -> list[str]:
    """Warnings about both sets. why_sample: why they are the bundled sample, if they are."""
    found, counts = [], [len(one.labels) for one in (train_set, test_set)]
    if why_sample:
        found.append(f"THIS IS NOT MNIST but the bundled sample of {sum(counts):,} digits: {why_sample}.")
        found.append(
            "Its figures mean little. For MNIST, put train.tar and test.tar in data/ or name their --data-dir."
        )
    for split, one in (("training", train_set), ("test", test_set)):
        there = one.labels.bincount(minlength=len(one.classes)).tolist()
        if absent := [name for name, count in zip(one.classes, there, strict=True) if count == 0]:
            more = f" and {len(absent) - LISTED} more" if len(absent) > LISTED else ""
            found.append(f"the {split} set holds no {', '.join(absent[:LISTED])}{more}")
        found += [f"the {split} set: {problem}" for problem in suspicious(one.images.cpu().numpy())]
    if counts[1] > counts[0]:
        found.append(f"the test set ({counts[1]:,}) is larger than the training set ({counts[0]:,}): swapped?")
    if torch.equal(train_set.images, test_set.images) and torch.equal(train_set.labels, test_set.labels):
        found.append("the test set is the training set: its figures say nothing about new images")
    return found
