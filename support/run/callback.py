"""What somebody else wants to see, keep or decide while `main.run` trains."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # this room's doors do without torch
    from torch import nn


class Callback:
    """Sees nothing and keeps nothing; override what you need.

    The numbers that the methods return, by their names, are kept in the run's history, whose own names they cannot
    take. A method that returns nothing keeps nothing. They must leave networks and data sets as they were and draw no
    random numbers from torch's default generator.
    """

    pictures = True  # whether the result holds images and is drawn
    history: dict[str, Any] = {}  # noqa: RUF012 - of the run so far, with the epoch that `on_epoch_end` is called after
    stop = False  # set it, in `on_epoch_end`, to end the run there as a finished one

    def on_train_begin(self, network: "nn.Module", average: "nn.Module", train_set: Any) -> dict[str, float] | None:
        """A number each. It is not called where a run is resumed."""

    def on_epoch_end(self, network: "nn.Module", average: "nn.Module", train_set: Any) -> dict[str, float] | None:
        """A list each, of a number an epoch: the same names after every epoch, also of a run that is resumed."""

    def on_train_end(self, average: "nn.Module", test_set: Any) -> dict[str, float] | None:
        """A number each."""
