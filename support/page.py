"""The page to draw on: a network's weights put into draw.html, which computes the network in plain JavaScript.

It knows nothing of files of weights, of runs or of data: it is handed a network. What the page computes stands in
draw.html, layer by layer; `page_logits` here is the same in PyTorch, so that a network that computes anything else is
refused rather than shown wrongly.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support import files
from support.command import UserError

TEMPLATE = Path(__file__).with_name("draw.html")
PLACE = "WEIGHTS"  # stands once in the template
LENET = ("c1", "c3", "c5", "f6", "f7")
NORMS = ("norm1", "norm3", "norm5", "norm6")
MLP = ("f1", "f2", "f3", "f4")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "silu": F.silu}  # by their names in draw.html
CLASSES = 10
AGREEMENT = 1e-3  # logits of a hundred inputs: float32 rounds to 1e-5, another activation or layer differs by over 0.1


def write_page(path: str | Path, name: str, network: nn.Module) -> None:
    """Write one self-contained HTML file, whole or not at all, with which one draws digits and the network reads them.

    `name` is shown as the weights' name. The network takes float32 (B, 1, 32, 32); it is LeNet-5, with or without batch
    normalization, or the MLP, on any device. Raises UserError if the page lacks one of its layers, OSError.
    """
    parameters = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    data = {"name": name, "activation": find_activation(name, network), "layers": _encode(parameters)}
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no text in it may end the script element
    page = TEMPLATE.read_text(encoding="utf-8").replace(f">{PLACE}<", f">{text}<")
    files.replace(path, lambda file: file.write(page.encode("utf-8")))


def find_activation(name: str, network: nn.Module) -> str:
    """The activation with which the page computes what `network` does. Raises UserError if it cannot."""
    parameters = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in parameters))
    wanted = MLP if "f1" in layers else LENET
    known = {*wanted, *(NORMS if wanted is LENET else ())}
    foreign = [layer for layer in layers if layer not in known]
    missing = [layer for layer in wanted if layer not in layers]
    if foreign or missing:
        found = [f"has {', '.join(foreign[:3])}, which the page lacks"] if foreign else []
        found += [f"lacks {', '.join(missing)}"] if missing else []
        raise UserError(f"--page: {name} {' and '.join(found)}\n{_KNOWN}")
    images = torch.randn(100, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    with torch.no_grad():
        logits = network(images.to(device)).cpu()
    network.train(training)
    if logits.shape[1:] != (CLASSES,):
        raise UserError(f"--page: {name} has outputs {tuple(logits.shape[1:])}; the page shows ten digits")
    for activation, function in ACTIVATIONS.items():
        try:
            shown = page_logits(parameters, function, images)
        except RuntimeError:  # a shape that the layers of the page do not lead to
            break
        if (shown - logits).abs().max() < AGREEMENT * max(1, logits.abs().max().item()):
            return activation
    raise UserError(f"--page: {name} has the layers' names but computes something else with them\n{_KNOWN}")


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
