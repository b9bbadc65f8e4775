"""A training step that a GPU replays as one CUDA graph. Knows nothing of what the step computes.

A step of a small network is two hundred kernels of a few microseconds. Launched one by one they keep the CPU busy for
longer than the GPU; captured once, they are launched at one go (PyTorch's notes, "CUDA semantics", CUDA Graphs).
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Step = Callable[[nn.Module, Optimizer, Tensor, Tensor], tuple[Tensor, Tensor]]
LAUNCHED = 3  # steps before the capture: in them the optimizer makes its state, and libraries take their memory


def graphed(step: Step) -> Step:
    """The training step `step(network, optimizer, images, labels)`, replayed where the network is a GraphedStep."""

    @wraps(step)
    def run(network: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(network, GraphedStep):
            return network.run(step, optimizer, images, labels)
        return step(network, optimizer, images, labels)

    return run


class GraphedStep(nn.Module):
    """`network`, whose training steps a GPU replays: launched for the first batches, then captured, then replayed.

    Whoever wraps a network knows that a step computes the same for every batch of one shape, on the GPU alone: no value
    is read on the CPU, no random number drawn. Only learning rates may change. Load states before the first step: a
    replay works where the tensors lay at the capture.

    Batches of another shape than the first's are launched; on other devices all are.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.shape: torch.Size | None = None
        self.steps = 0  # on batches of that shape
        self.graph: torch.cuda.CUDAGraph | None = None

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.network(images)
        return result

    def run(self, step: Step, optimizer: Optimizer, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A training step, always the same and by the same optimizer; what it returns, the next one overwrites."""
        self.shape = self.shape or images.shape
        fits = images.is_cuda and images.shape == self.shape
        self.steps += fits
        if not fits or self.steps <= LAUNCHED:
            return step(self.network, optimizer, images, labels)
        if self.graph is None:
            self.graph = self.capture(step, optimizer, images, labels)
        for kept, given in zip(self.batch, (images, labels), strict=True):
            kept.copy_(given)
        for rate, group in zip(self.rates, optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self.graph.replay()
        return self.returned

    def capture(self, step: Step, optimizer: Optimizer, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
        """Nothing is computed yet. Learning rates are tensors for its time, so that a replay reads them anew."""
        groups, graph = optimizer.param_groups, torch.cuda.CUDAGraph()
        numbers = [group["lr"] for group in groups]
        self.batch, self.rates = (images.clone(), labels.clone()), [images.new_tensor(number) for number in numbers]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
        with torch.cuda.graph(graph):
            self.returned = step(self.network, optimizer, *self.batch)
        for group, number in zip(groups, numbers, strict=True):
            group["lr"] = number
        return graph
