"""A training step that a GPU replays as one CUDA graph. Knows nothing of what the step computes.

A step of a small network is two hundred kernels of a few microseconds. Launched one by one they keep the CPU busy for
longer than the GPU; captured once, they are launched at one go (PyTorch's notes, "CUDA semantics", CUDA Graphs).
"""

from collections.abc import Callable
from functools import cached_property, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from support.compute.layer_table import operations

Step = Callable[[nn.Module, Optimizer, Tensor, Tensor], tuple[Tensor, Tensor]]
EAGER_STEPS = 3  # before the capture: in them the optimizer makes its state, and libraries take their memory
# what is known to have static shapes, to stay on the GPU and to draw no random numbers
LAYERS = (nn.Conv2d, nn.MaxPool2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.Identity)
FUNCTIONS = (F.relu, "flatten")


def graphed(step: Step) -> Step:
    """The training step `step(network, optimizer, images, labels)`, replayed where the network is a GraphedStep."""

    @wraps(step)
    def run(network: nn.Module, *given: Any) -> tuple[Tensor, Tensor]:
        return network.run(step, *given) if isinstance(network, GraphedStep) else step(network, *given)

    return run


class GraphedStep(nn.Sequential):
    """GraphedStep(network): the network, whose training steps a GPU replays.

    The step must have static shapes, stay on the GPU and draw no random numbers; only learning rates may change. Load
    states before the first step: a replay works where the tensors lay at the capture.

    The first batches run eagerly, and so do those of another shape than the captured one, all on other devices, and all
    of a network that calls anything but LAYERS and FUNCTIONS.
    """

    steps = 0
    graph: torch.cuda.CUDAGraph | None = None

    @cached_property
    def replayable(self) -> bool:
        layers, calls = dict(self.named_modules()), operations(self[0])
        known = [call.target in FUNCTIONS or type(layers.get(str(call.target))) in LAYERS for call in calls]
        return bool(known) and all(known)

    def run(self, step: Step, optimizer: Optimizer, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A training step, always the same and by the same optimizer; what it returns, the next one overwrites."""
        self.steps += 1
        if self.graph is None and self.steps > EAGER_STEPS and images.is_cuda and self.replayable:
            self.graph = self.capture(step, optimizer, images, labels)
        if self.graph is None or images.shape != self.batch[0].shape:
            return step(self[0], optimizer, images, labels)
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
            self.returned = step(self[0], optimizer, *self.batch)
        for group, number in zip(groups, numbers, strict=True):
            group["lr"] = number
        return graph
