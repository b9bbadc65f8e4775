"""What a network does with an image, found out on a copy of it: its layers, whether it gives logits, what it calls.

`shape` is that of an image as the data set gives it: (1, 32, 32).
"""

import copy

import torch
from torch import Tensor, fx, nn

from support.terminal import UserError


def describe(network: nn.Module, shape: tuple[int, ...]) -> str:
    """A table of the layers in the order in which an image passes them: name, kind, output shape, parameters.

    Lazy layers get their parameters. Parameters count where they are used first; unused layers come last.
    """
    if any(map(nn.parameter.is_lazy, network.parameters())):
        _output(network.eval(), shape)
        network.train()
    tried = copy.deepcopy(network).eval()
    names = {layer: name or "model" for name, layer in tried.named_modules() if not isinstance(layer, nn.Identity)}
    outputs: dict[nn.Module, object] = {}

    def note(layer: nn.Module, _inputs: object, output: object) -> None:
        outputs[layer] = output

    for layer in names:
        layer.register_forward_hook(note)
    _output(tried, shape)
    uncounted = {parameter for parameter in tried.parameters() if parameter.requires_grad}
    total = sum(parameter.numel() for parameter in uncounted)
    rows = [("layer", "kind", "output", "params")]
    for layer in (*outputs, *(layer for layer in names if layer not in outputs)):
        own = uncounted.intersection(layer.parameters(recurse=False))
        uncounted -= own
        if own or not list(layer.children()):  # a block of layers has no row: its layers have
            output = outputs.get(layer)
            size = "x".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else "-"
            rows.append((names[layer], type(layer).__name__, size, f"{sum(p.numel() for p in own):,}"))
    rows.append(("total", "", "", f"{total:,}"))
    a, b, c, d = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{name:<{a}} {kind:<{b}} {size:>{c}} {count:>{d}}" for name, kind, size, count in rows)


def check_logits(network: nn.Module, shape: tuple[int, ...], classes: int) -> None:
    """Raises UserError unless the network gives logits (B, classes), in training mode as in evaluation mode."""
    for mode in ("evaluation", "training"):
        logits = _output(copy.deepcopy(network).train(mode == "training"), shape)
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if found != (2, classes):
            expected = f"expected logits (2, {classes}), one for each class"
            raise UserError(f"the network gives {found} for 2 images in {mode} mode; {expected}")


def operations(network: nn.Module) -> list[fx.Node]:
    """What nn.Sequential(network) calls in training and in evaluation mode; nothing where torch.fx cannot follow it."""
    try:
        graphs = [fx.Tracer().trace(nn.Sequential(copy.deepcopy(network)).train(mode)) for mode in (True, False)]
    except Exception:  # whatever the code of `forward` raises when it gets no tensors, as in `if x.sum() > 0`
        return []
    return [node for graph in graphs for node in graph.nodes if node.op not in ("placeholder", "output")]


@torch.no_grad()
def _output(network: nn.Module, shape: tuple[int, ...]) -> object:
    """What the network gives for two black images, on its device and in its precision."""
    like = next(network.parameters(), torch.empty(0))
    return network(torch.zeros(2, *shape, device=like.device, dtype=like.dtype))
