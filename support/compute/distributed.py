"""Which device a run uses, and how several processes share it: torchrun, each one's part of a batch, sums over all.

With a single process every function here does nothing, or the plain thing. It knows nothing of networks, data or files.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from support.seeds import ORDER, seed_of
from support.terminal import UserError, check_signals

Result = TypeVar("Result")
IMAGES_AT_ONCE = 1024  # made together, for several batches: the calls that make 128 cost more than the work on them


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


# --- joining and leaving ----------------------------------------------------------------------------------------------


def choose_device(name: str) -> torch.device:
    """The device of that name; of several GPUs, the one that torchrun's LOCAL_RANK counts to. Raises UserError."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    if not there[name]:
        raise UserError(f"--device {name}: not available on this machine; leave --device out")
    if name == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """As a history names it: a GPU by its model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that torchrun started, if it did, and leave it at the end.

    Where another process of the run is gone, PyTorch says that a connection broke: this raises Stopped if a signal was
    behind it, else UserError.
    """
    if "RANK" not in os.environ:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "gloo":
        take_turns()
    dist.init_process_group(backend)
    try:
        yield
    except RuntimeError as error:
        check_signals()
        raise UserError(f"another process of this run has ended: {str(error).splitlines()[0]}") from None
    finally:
        dist.destroy_process_group()


def take_turns() -> None:
    """Have no thread that is started from now on push another off its core before that one's turn is over.

    Where all cores are busy, gloo's receiving thread would otherwise wake up in the middle of a send, take the sender's
    core, and wait in a busy loop for the lock that the sender holds until its own turn of 3 ms is over. Two processes
    on two cores so lost 2 to 3 ms in each step. SCHED_BATCH of sched(7); only Linux has it.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step, not give it back to the system and ask for it anew.

    The first epoch would otherwise take a third longer: every step would fault its memory in, page by page. glibc's
    limits rise to the largest block freed so far, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD).
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def command_line(argv: list[str] | None) -> list[str]:
    """The words that start this run: those of the shell, or of main.py called with `argv`."""
    launcher = ["torchrun", "--nproc-per-node", os.environ["WORLD_SIZE"]] if "RANK" in os.environ else ["python"]
    return [*launcher, *(sys.argv if argv is None else ["main.py", *argv])]


# --- the first process, and the others --------------------------------------------------------------------------------


def main_goes_first(action: Callable[[], Result]) -> Result:
    """Let the first process act, then the others: what is wrong is said once, and a download is made once."""
    if is_main():
        return _tell_outcome(action, lambda result: None)
    _hear_outcome()
    return action()


def main_decides(action: Callable[[], Result]) -> Result:
    """What the first process's action gives, for all."""
    return _tell_outcome(action, lambda result: result) if is_main() else _hear_outcome()


def _tell_outcome(action: Callable[[], Result], told: Callable[[Result], Any]) -> Result:
    try:
        result = action()
    except BaseException:
        _share_from_first((False, None))
        raise
    _share_from_first((True, told(result)))
    return result


def _hear_outcome() -> Any:
    """Leaves without a word where the first process failed: it says what is wrong."""
    well, result = _share_from_first(None)
    if not well:
        raise SystemExit(2)
    return result


def _share_from_first(value: Any) -> Any:
    """The first process's value, for all."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


# --- batches ----------------------------------------------------------------------------------------------------------


class Batches:
    """The shuffled batches of an epoch, as (images, labels) of the data set; of each, this process's share.

    dataset: gives a batch for a tensor of indices; it is asked for several batches at once. batch_size: images a step,
    over all processes; the last batch may be smaller. seed and `epoch`, to be set before each epoch, decide the order.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int = 0) -> None:
        self.dataset, self.batch_size, self.seed, self.epoch = dataset, batch_size, seed, 1
        self.part = 1.0  # of the batch that was handed out last, what share this process has

    def __len__(self) -> int:
        """Steps an epoch."""
        return math.ceil(len(self.dataset) / self.batch_size)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        share = self.batch_size // world_size()
        order = self.order()
        mine = order[rank() :: world_size()]
        for indices in mine.split(max(1, IMAGES_AT_ONCE // share) * share):
            images, labels = self.dataset[indices]
            for batch in zip(images.split(share), labels.split(share), strict=True):
                here, everywhere = len(batch[1]), min(self.batch_size, len(order))
                self.part = here / everywhere
                order = order[everywhere:]
                yield batch

    def order(self) -> Tensor:
        """Every index once: int64 (N,)."""
        generator = torch.Generator().manual_seed(seed_of(ORDER, self.seed, self.epoch))
        return torch.randperm(len(self.dataset), generator=generator)  # type: ignore[arg-type]


def check_batch_size(batch_size: int, images: int, network: nn.Module) -> None:
    """Raises UserError if the last batch would be too small to share out, or for batch normalization."""
    if batch_size % world_size():
        raise UserError(f"--batch-size {batch_size}: expected a multiple of the {world_size()} processes")
    normalizes = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())
    least = world_size() * (2 if normalizes else 1)
    last = images % batch_size or min(images, batch_size)
    if last < least:
        raise UserError(
            f"--batch-size {batch_size}: of {images:,} images it leaves {last} for the last batch; "
            f"expected at least {least}, so that each process has {least // world_size()}\nchoose another --batch-size"
        )


# --- networks and figures ---------------------------------------------------------------------------------------------


def wrap(network: nn.Module, batches: Batches) -> nn.Module:
    """The network as all processes train it: its gradients are of the mean over the global batch.

    On CUDA batch normalization is synchronized; PyTorch cannot do that on CPUs.
    """
    if not dist.is_initialized():
        return network
    if next(network.parameters()).is_cuda:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # running statistics are not sent around: `average_buffers` measures them anew
    shared = DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)
    shared.register_comm_hook(batches, _add_weighted)
    return shared


def _add_weighted(batches: Batches, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Add the processes' gradients, each by its share of the batch, which is not the same for all in the last one."""
    gradient = bucket.buffer().mul_(batches.part)
    return dist.all_reduce(gradient, async_op=True).get_future().then(lambda done: done.value()[0])


def all_reduce_mean(losses: list[Tensor], correct: list[Tensor], count: int) -> tuple[float, float]:
    """Mean loss and accuracy of sums over batches, `count` images in this process. Waits for the device."""
    totals = torch.stack([torch.stack(losses).sum(), torch.stack(correct).sum().float()])
    if dist.is_initialized():
        totals = torch.cat([totals, totals.new_tensor([count])])
        dist.all_reduce(totals)
        count = int(totals[2])
    loss, right = totals[:2].tolist()
    return loss / count, right / count


def shard(count: int) -> range:
    """The indices below `count` that are this process's: every world-size-th."""
    return range(rank(), count, world_size())


def average_buffers(network: nn.Module, weight: float) -> None:
    """Replace all buffers of real numbers by the mean over the processes; the weights add up to 1."""
    if dist.is_initialized():
        for statistic in (buffer for buffer in network.buffers() if buffer.is_floating_point()):
            statistic.mul_(weight)
            dist.all_reduce(statistic)
