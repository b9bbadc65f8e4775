"""The table of layers that a run prints, of any network that takes images (B, 1, 32, 32)."""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from support.terminal import UserError


def describe(model: nn.Module) -> str:
    """A table of the layers in the order in which an image passes them: name, kind, output shape, parameters.

    One image goes through in evaluation mode, which also gives lazy layers their parameters; modes and statistics stay
    as they were. Parameters count in the row of their first use. Layers that are never called come last.
    """
    rows = [("layer", "kind", "output", "params")]
    names = {layer: name or "model" for name, layer in model.named_modules() if not isinstance(layer, nn.Identity)}
    counted: set[nn.Parameter] = set()

    def note(layer: nn.Module, _inputs: object, output: object) -> None:
        own = {parameter for parameter in layer.parameters(recurse=False) if parameter.requires_grad} - counted
        if own or not list(layer.children()):  # a block of layers has no row: its layers have
            count = sum(parameter.numel() for parameter in own)
            rows.append((names[layer], type(layer).__name__, _shapes(output) or "-", f"{count:,}"))
        counted.update(own)

    with torch.no_grad(), ExitStack() as undo:
        for module in model.modules():
            undo.callback(setattr, module, "training", module.training)
            for name, buffer in module.named_buffers(recurse=False):
                undo.callback(setattr, module, name, buffer)
                if not nn.parameter.is_lazy(buffer):
                    undo.callback(buffer.copy_, buffer.clone())
        for layer in names:
            undo.enter_context(layer.register_forward_hook(note))
        like = next(model.parameters(), torch.empty(0))
        model.eval()(torch.zeros(1, 1, 32, 32, device=like.device, dtype=like.dtype))

    for layer in names:
        if any(parameter.requires_grad and parameter not in counted for parameter in layer.parameters(recurse=False)):
            note(layer, None, None)
    rows.append(("total", "", "", f"{sum(parameter.numel() for parameter in counted):,}"))
    a, b, c, d = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{name:<{a}} {kind:<{b}} {shape:>{c}} {count:>{d}}" for name, kind, shape, count in rows)


@torch.no_grad()
def check_logits(model: nn.Module, classes: int) -> None:
    """Raises UserError unless the model gives a logit a class for images (B, 1, 32, 32)."""
    training, like = model.training, next(model.parameters(), torch.empty(0))
    logits = model.eval()(torch.zeros(2, 1, 32, 32, device=like.device, dtype=like.dtype))
    model.train(training)
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"the network gives {found} for 2 images; expected logits (2, {classes}), one for each class")


def _shapes(output: object) -> str:
    """The shape of each tensor that a layer returns, without the batch: "6x28x28"; "1" for one number an image."""
    if isinstance(output, Tensor):
        return "x".join(map(str, output.shape[1:])) or "1"
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return " ".join(filter(None, map(_shapes, parts)))
