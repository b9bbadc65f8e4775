"""What a network's `forward` calls, as torch.fx follows it without computing anything."""

import copy

from torch import fx, nn


def operations(network: nn.Module) -> list[fx.Node]:
    """The calls in training and in evaluation mode; none where torch.fx cannot follow, as in `if x.sum() > 0`."""
    nodes: list[fx.Node] = []
    for training in (True, False):
        try:
            nodes += fx.Tracer().trace(copy.deepcopy(network).train(training)).nodes
        except Exception:  # whatever the code of `forward` raises when it gets no tensors
            return []
    return [node for node in nodes if node.op != "placeholder"]
