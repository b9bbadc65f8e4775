"""A training step that a GPU replays as one CUDA graph. Knows nothing of what the step computes.

A step of a small network is two hundred kernels of a few microseconds. Launched one by one they keep the CPU busy for
longer than the GPU; captured once, they are launched at one go (PyTorch's notes, "CUDA semantics", CUDA Graphs).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

Step = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
LAUNCHED = 3  # steps before the capture: in them the optimizer makes its state, and libraries take their memory


class ReplayedStep:
    """`step(images, labels)`: on a GPU launched for the first batches, then captured, then replayed.

    step: trains one network by `optimizer`; what it returns is tensors. Whoever calls this knows that it computes the
    same for every batch of one shape, on the GPU alone: no value is read on the CPU, no random number drawn. Only
    learning rates may change. Load states before the first step: a replay works where the tensors lay at the capture.

    Batches of another shape than the first's are launched; on other devices all are. What is returned is overwritten by
    the next step.
    """

    def __init__(self, step: Step, optimizer: Optimizer) -> None:
        self.step, self.optimizer = step, optimizer
        self.shape: torch.Size | None = None
        self.launched = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        self.shape = self.shape or images.shape
        if not images.is_cuda or images.shape != self.shape:
            return self.step(images, labels)
        if self.launched < LAUNCHED:
            self.launched += 1
            return self.step(images, labels)
        if self.graph is None:
            self.graph = self.capture(images, labels)
        for kept, given in zip(self.batch, (images, labels), strict=True):
            kept.copy_(given)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self.graph.replay()
        return self.returned

    def capture(self, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
        """Nothing is computed yet. Learning rates are tensors for its time, so that a replay reads them anew."""
        groups, graph = self.optimizer.param_groups, torch.cuda.CUDAGraph()
        numbers = [group["lr"] for group in groups]
        self.batch, self.rates = (images.clone(), labels.clone()), [images.new_tensor(number) for number in numbers]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
        with torch.cuda.graph(graph):
            self.returned = self.step(*self.batch)
        for group, number in zip(groups, numbers, strict=True):
            group["lr"] = number
        return graph
