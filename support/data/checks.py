"""What looks wrong about data that load: said in a line each, before they are trained on."""

from typing import Any

import numpy as np


def data_warnings(train_set: Any, test_set: Any, test_name: str = "test") -> list[str]:
    """Warnings, mostly none, about data sets: tensors `images` uint8 (N, 28, 28) and `labels` (N,), on any device."""
    sets = {"training": train_set, test_name: test_set}
    images = [one.images.cpu().numpy() for one in sets.values()]
    labels = [one.labels.cpu().numpy() for one in sets.values()]
    found, every = [], set(range(max(2, *(1 + some.max() for some in labels))))
    for name, pixels, some in zip(sets, images, labels, strict=True):
        if absent := sorted(every.difference(some.tolist())):
            found.append(f"the {name} set holds no {', '.join(map(str, absent[:10]))}{', ...' if absent[10:] else ''}")
        found += [f"the {name} set: {problem}" for problem in _problems(pixels)]
    train, test = map(len, labels)
    if test > train:
        found.append(f"the {test_name} set ({test:,}) is larger than the training set ({train:,}): swapped?")
    known = {hash(image.tobytes()) for image in images[0]}
    if again := sum(hash(image.tobytes()) in known for image in images[1]):
        found.append(f"{again:,} of {test:,} {test_name} images are in the training set, too: they test nothing new")
    return found


def _problems(images: np.ndarray) -> list[str]:
    """In what images differ from MNIST's, which are light, up to 255, on dark: a phrase each."""
    darkest, lightest = images.min((1, 2)), images.max((1, 2))
    rim = (images[:, [0, -1]].mean() + images[:, :, [0, -1]].mean()) / 2
    found = []
    if blank := int((darkest == lightest).sum()):
        found.append(f"{blank:,} of {len(images):,} images are blank, without any ink")
    if blank < len(images) and np.median(lightest) < 128:
        found.append(f"the brightest pixel is mostly {np.median(lightest):.0f}, not 255: scale the images to 0 to 255")
    elif blank < len(images) and rim > 127:
        found.append("the images are dark on light, where MNIST is light on dark: subtract them from 255")
    return found
