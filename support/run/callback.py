"""The seam of a run: what somebody else wants to see, keep or decide while `main.run` trains."""

from typing import Any

from torch import nn


class Callback:
    """Sees nothing and keeps nothing; override what you need.

    The figures that the methods return, by their names, are kept in the run's history. They must leave networks and
    data sets as they were and draw no random numbers from torch's default generator.
    """

    pictures = True  # whether the result holds images and is drawn
    stop = False  # set it, in `on_epoch_end`, to end the run there as a finished one

    def on_train_begin(self, network: nn.Module, average: nn.Module, train_set: Any) -> dict[str, float]:
        """A number each."""
        return {}

    def on_epoch_end(self, network: nn.Module, average: nn.Module, train_set: Any) -> dict[str, float]:
        """A list each, of a number an epoch: the same names after every epoch."""
        return {}

    def on_train_end(self, average: nn.Module, test_set: Any) -> dict[str, float]:
        """A number each."""
        return {}
