"""Where training blows up, said in words."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from support.terminal import UserError


class DivergedError(UserError):
    """The loss is no longer finite."""


def check_finite(mean: float, scheduler: LRScheduler, steps: int, losses: Sequence[Tensor] = ()) -> None:
    """Raises DivergedError unless the mean loss after an epoch of so many steps is finite.

    losses: of each step, to tell which was the first that was not; else it was the last. The message says which option
    to lower: of a learning rate and a weight decay whose product is above 1, so that decay alone may make weights grow,
    the larger one.
    """
    if math.isfinite(mean):
        return
    step = next((place for place, loss in enumerate(losses, 1) if not loss.isfinite()), steps)
    group, rate = scheduler.optimizer.param_groups[0], scheduler.base_lrs[0]  # type: ignore[attr-defined]
    decay = group.get("weight_decay", 0)
    option = "--weight-decay" if float(rate) * decay > 1 and decay > rate else "--lr"
    raise DivergedError(
        f"the loss is no longer finite: epoch {-(-scheduler.last_epoch // steps)}, step {step} of {steps}, "
        f"highest learning rate {rate:g}, weight decay {decay:g}\n"
        f"try a lower {option}; the epochs before this one are kept"
    )
