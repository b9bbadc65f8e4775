"""Seeds that have nothing to do with one another: for first weights, orders of images, and draws."""

import numpy as np

WEIGHTS, ORDER, DRAWS = 1, 2, 3


def seed_of(purpose: int, seed: int, epoch: int = 0, process: int = 0) -> int:
    """A seed for a generator of torch, from 0 to 2**64 - 1. Any other arguments give an independent one.

    NumPy's SeedSequence sees to that: seed 1 does not have the orders of seed 0, moved by an epoch.
    """
    return int(np.random.SeedSequence((purpose, epoch, process, seed)).generate_state(1, np.uint64)[0])
