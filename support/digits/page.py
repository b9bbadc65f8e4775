"""The page to draw on: a network's weights put into draw.html, which computes the network in plain JavaScript.

It knows nothing of files of weights, of runs or of data: it is handed a network. What the page computes stands in
draw.html, layer by layer; `page_logits` here is the same in PyTorch, so that a network that computes anything else is
refused rather than shown wrongly.
"""

import base64
import copy
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support import files
from support.terminal import UserError, printable

TEMPLATE = Path(__file__).with_name("draw.html")
PLACE = "WEIGHTS"  # stands once in the template
LENET = ("c1", "c3", "c5", "f6", "f7")
NORMS = ("norm1", "norm3", "norm5", "norm6")
MLP = ("f1", "f2", "f3", "f4")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "silu": F.silu}  # by their names in draw.html
CLASSES = 10
AGREEMENT = 1e-4  # of the largest logit: float32 rounds to 1e-6 of it, another activation changes half of it


def write_page(path: str | Path, name: str, network: nn.Module) -> None:
    """Write one self-contained HTML file, whole or not at all, with which one draws digits and the network reads them.

    `name` is shown as the weights' name. The network takes float32 (B, 1, 32, 32); it is LeNet-5, with or without batch
    normalization, or the MLP. It stays as it is, in training mode or on a GPU. Raises UserError if the page lacks one
    of its layers or computes something else, OSError if the file cannot be written.
    """
    network = copy.deepcopy(network).cpu().eval()
    _check_layers(name, network)
    activation = _find_activation(name, network)
    data = {"name": name, "activation": activation, "layers": _encode(network.state_dict())}
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no text in it may end the script element
    page = TEMPLATE.read_text(encoding="utf-8").replace(f">{PLACE}<", f">{text}<")
    files.replace(path, lambda file: file.write(page.encode("utf-8")))


def _check_layers(name: str, network: nn.Module) -> None:
    """Raise UserError unless the layers that have parameters are those of one of the page's two functions."""
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in network.state_dict()))
    needed, possible = (MLP, MLP) if "f1" in layers else (LENET, LENET + NORMS)
    foreign = [layer or "a parameter of its own" for layer in layers if layer not in possible]
    missing = [layer for layer in needed if layer not in layers]
    found = [f"has {', '.join(foreign[:3])}, which the page lacks"] if foreign else []
    found += [f"lacks {', '.join(missing)}"] if missing else []
    if found:
        raise UserError(f"--page: {printable(name)} {' and '.join(found)}\n{_KNOWN}")


@torch.no_grad()
def _find_activation(name: str, network: nn.Module) -> str:
    """The activation with which the page computes what the network does. Raises UserError if there is none."""
    images = torch.randn(100, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    try:
        logits = network(images)
        if logits.shape[1:] != (CLASSES,):
            shape = "x".join(map(str, logits.shape[1:]))
            raise UserError(f"--page: {printable(name)} gives {shape} values; the page shows ten digits")
        for activation, function in ACTIVATIONS.items():
            difference = page_logits(network.state_dict(), function, images) - logits
            if difference.abs().max() <= AGREEMENT * logits.abs().max():
                return activation
    except RuntimeError:  # shapes that do not fit each other
        pass
    raise UserError(f"--page: {printable(name)} has the page's layers but computes something else with them\n{_KNOWN}")


_KNOWN = (
    f"the page computes LeNet-5 ({', '.join(LENET)}, with or without {', '.join(NORMS)}) and the MLP ({', '.join(MLP)})"
)


def page_logits(parameters: dict[str, Tensor], activation: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What `network` in draw.html computes: float32 (B, 1, 32, 32) -> (B, 10)."""

    def convolution(x: Tensor, layer: str) -> Tensor:
        return F.conv2d(x, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"])

    def linear(x: Tensor, layer: str) -> Tensor:
        return F.linear(x, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"])

    def norm(x: Tensor, layer: str) -> Tensor:
        if f"{layer}.weight" not in parameters:
            return x
        mean, variance, weight, bias = (
            parameters[f"{layer}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-5)

    if "f1.weight" in parameters:
        x = images.flatten(1)
        for layer in MLP[:-1]:
            x = activation(linear(x, layer))
        return linear(x, MLP[-1])
    x = activation(norm(F.max_pool2d(convolution(images, "c1"), 2), "norm1"))
    x = activation(norm(F.max_pool2d(convolution(x, "c3"), 2), "norm3"))
    x = activation(norm(convolution(x, "c5").flatten(1), "norm5"))
    x = activation(norm(linear(x, "f6"), "norm6"))
    return linear(x, "f7")


def _encode(parameters: dict[str, Tensor]) -> dict[str, dict[str, dict]]:
    """By layer and parameter its shape and its float32 values, lowest byte first, as base64."""
    layers: dict[str, dict[str, dict]] = {}
    for key, value in parameters.items():
        layer, _, parameter = key.rpartition(".")
        if parameter == "num_batches_tracked":
            continue
        data = value.contiguous().numpy().astype("<f4").tobytes()
        text = base64.b64encode(data).decode("ascii")
        layers.setdefault(layer, {})[parameter] = {"shape": list(value.shape), "base64": text}
    return layers
