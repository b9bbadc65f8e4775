"""Which device a run uses, and how several processes share it: torchrun, each one's part of a batch, sums over all.

With a single process every function here does nothing, or the plain thing. It knows nothing of networks, data or files.
"""

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from support.seeds import ORDER, seed_of
from support.terminal import UserError, warn

Result = TypeVar("Result")
IMAGES_AT_ONCE = 1024  # made together, for several batches: the calls that make 128 cost more than the work on them


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


def choose_device(name: str) -> torch.device:
    """The device of that name; of several GPUs, the one that torchrun's LOCAL_RANK counts to. Raises UserError."""
    there = [kind for kind in ("cuda", "mps", "cpu") if getattr(torch, kind).is_available()]
    if name not in ("auto", *there):
        raise UserError(f"--device {name}: not available on this machine; leave --device out")
    device = torch.device(there[0] if name == "auto" else name)
    if device.type == "cuda" and dist.is_torchelastic_launched():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return device


def device_name(device: torch.device) -> str:
    """As a history names it: a GPU by its model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that torchrun started, if it did; at the end wait for the others and leave it.

    Where a process was killed, the first two say that --resume goes on, since one of them may be the one.
    """
    if not dist.is_torchelastic_launched():  # not RANK: a scheduler may set it for a process that is alone
        yield
        return
    if device.type == "cpu" and hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        # sched(7): a woken gloo thread then does not preempt a running one, which cost 2 to 3 ms a step on two cores
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # nobody leaves while the main process still writes
    except (RuntimeError, KeyboardInterrupt) as error:  # torchrun ends all when one has failed
        if not (isinstance(error, dist.DistError) or "gloo" in str(error) or error.args == (signal.SIGTERM,)):
            raise
        if rank() < 2:
            warn("the processes of this run have ended; the same command with --resume goes on", "error")
        raise SystemExit(1) from None
    finally:
        dist.destroy_process_group()


def main_decides(action: Callable[[], Result]) -> Result:
    """What the main process's action gives, for all. Where it fails the others leave without a word: it says why."""
    told: list[list[Result]] = [[]]
    try:
        if is_main():
            told[0].append(action())
    finally:
        if dist.is_initialized():
            dist.broadcast_object_list(told)
    if not told[0]:
        raise SystemExit(2)
    return told[0][0]


class Batches:
    """The shuffled batches of an epoch, as (images, labels) of the data set; of each, this process's share.

    dataset: gives a batch for a tensor of indices; it is asked for several batches at once. batch_size: images a step,
    over all processes; the last batch may be smaller. Shares are equal: what cannot be shared out waits for another
    epoch. seed and `epoch`, to be set before each epoch, decide the order.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int = 0) -> None:
        self.dataset, self.share, self.seed, self.epoch = dataset, batch_size // world_size(), seed, 1

    def __len__(self) -> int:
        """Steps an epoch."""
        return math.ceil(len(self.dataset) // world_size() / self.share)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.order()
        mine = order[rank() : len(order) - len(order) % world_size() : world_size()]
        for indices in mine.split(max(1, IMAGES_AT_ONCE // self.share) * self.share):
            images, labels = self.dataset[indices]
            yield from zip(images.split(self.share), labels.split(self.share), strict=True)

    def order(self) -> Tensor:
        """Every index once: int64 (N,)."""
        generator = torch.Generator().manual_seed(seed_of(ORDER, self.seed, self.epoch))
        return torch.randperm(len(self.dataset), generator=generator)


def check_batch_size(batch_size: int, images: int, network: nn.Module) -> None:
    """Raises UserError if batches cannot be shared out, or the last one is too small for batch normalization."""
    normalizes = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())
    least, share = 2 if normalizes else 1, batch_size // world_size()
    last = images // world_size() % max(share, 1) or share
    if batch_size % world_size() or last < least:
        raise UserError(
            f"--batch-size {batch_size}: of {images:,} images it leaves {last} for each of {world_size()} processes in "
            f"the last batch; expected a multiple of the processes, and at least {least}\nchoose another --batch-size"
        )


def wrap(network: nn.Module) -> nn.Module:
    """The network as all processes train it: its gradients are of the mean over the global batch.

    On CUDA batch normalization is synchronized; PyTorch cannot do that on CPUs.
    """
    if not dist.is_initialized():
        return network
    if next(network.parameters()).is_cuda:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # running statistics are not sent around: they are measured anew before each test
    return DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)


def all_reduce_mean(losses: list[Tensor], correct: list[Tensor], count: int) -> tuple[float, float]:
    """Mean loss and accuracy of sums over batches, `count` images in this process. Waits for the device."""
    sums = torch.stack(losses).sum(), torch.stack(correct).sum().float(), losses[0].new_tensor(count)
    totals = torch.stack(sums)
    if dist.is_initialized():
        dist.all_reduce(totals)
    loss, right, images = totals.tolist()
    return loss / images, right / images


def shard(count: int) -> range:
    """The indices below `count` that are this process's: every world-size-th."""
    return range(rank(), count, world_size())


def average_buffers(network: nn.Module, weight: float) -> None:
    """Replace all buffers of real numbers by the mean over the processes; the weights add up to 1."""
    if dist.is_initialized():
        for statistic in (buffer for buffer in network.buffers() if buffer.is_floating_point()):
            statistic.mul_(weight)
            dist.all_reduce(statistic)
