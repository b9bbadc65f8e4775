"""The page to draw on: a network's weights put into draw.html, which computes the network in plain JavaScript.

It knows nothing of files of weights, of runs or of data: it is handed a network. What the page computes stands in
draw.html, layer by layer; `page_logits` here is the same in PyTorch, so that a network that computes anything else is
refused rather than shown wrongly.
"""

import base64
import copy
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support import files
from support.terminal import UserError, printable

TEMPLATE = Path(__file__).with_name("draw.html")
SLOT = ">WEIGHTS<"  # stands once in the template
CONVOLUTIONS, POOLED = ("c1", "c3", "c5"), ("c1", "c3")
LENET = (*CONVOLUTIONS, "f6", "f7")
NORMS = {"c1": "norm1", "c3": "norm3", "c5": "norm5", "f6": "norm6"}
MLP = ("f1", "f2", "f3", "f4")
CLASSES = 10
AGREEMENT = 1e-4  # of the largest logit: float32 rounds to 1e-6 of it, another activation changes half of it


def write_page(path: str | Path, name: str, network: nn.Module) -> None:
    """Write one self-contained HTML file, whole or not at all, with which one draws digits and the network reads them.

    `name` is shown as the weights' name. The network takes float32 (B, 1, 32, 32); it is LeNet-5, with or without batch
    normalization, or the MLP. It stays as it is, in training mode or on a GPU. Raises UserError if the page lacks one
    of its layers or computes something else, OSError if the file cannot be written.
    """
    network = copy.deepcopy(network).cpu().eval()
    if not _page_computes(network):
        layers = dict.fromkeys(key.rpartition(".")[0] for key in network.state_dict())
        raise UserError(
            f"--page: the page cannot compute {printable(name)}, whose layers are {printable(', '.join(layers))}\n"
            f"expected LeNet-5 ({', '.join(LENET)}, with or without {', '.join(NORMS.values())}) "
            f"or the MLP ({', '.join(MLP)}), with ReLU and {CLASSES} logits"
        )
    data = {"name": name, "layers": _encode(network.state_dict())}
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no text in it may end the script element
    page = TEMPLATE.read_text(encoding="utf-8").replace(SLOT, f">{text}<")
    files.replace(path, lambda file: file.write(page.encode("utf-8")))


@torch.no_grad()
def _page_computes(network: nn.Module) -> bool:
    """Whether the page's logits are those of a network in evaluation mode, tried on random images."""
    images = torch.randn(100, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    try:
        logits = network(images)
        difference = page_logits(network.state_dict(), images) - logits
    except (KeyError, RuntimeError):  # a layer that is lacking, shapes that do not fit each other
        return False
    return logits.shape[1:] == (CLASSES,) and bool(difference.abs().max() <= AGREEMENT * logits.abs().max())


def page_logits(parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    """What `network` in draw.html computes: float32 (B, 1, 32, 32) -> (B, 10)."""

    def of(layer: str, *names: str) -> list[Tensor]:
        return [parameters[f"{layer}.{name}"] for name in names]

    x, layers = images, LENET if "c1.weight" in parameters else MLP
    for layer in layers:
        weight, bias = of(layer, "weight", "bias")
        x = F.conv2d(x, weight, bias) if layer in CONVOLUTIONS else F.linear(x.flatten(1), weight, bias)
        if layer in POOLED:
            x = F.max_pool2d(x, 2)
        if f"{NORMS.get(layer)}.weight" in parameters:
            mean, variance, scale, shift = of(NORMS[layer], "running_mean", "running_var", "weight", "bias")
            x = F.batch_norm(x, mean, variance, scale, shift)
        if layer != layers[-1]:
            x = F.relu(x)
    return x


def _encode(parameters: dict[str, Tensor]) -> dict[str, dict[str, dict]]:
    """By layer and parameter its shape and its float32 values, lowest byte first, as base64."""
    layers: dict[str, dict[str, dict]] = {}
    for key, value in parameters.items():
        layer, _, parameter = key.rpartition(".")
        if parameter != "num_batches_tracked":
            data = value.contiguous().numpy().astype("<f4").tobytes()
            text = base64.b64encode(data).decode("ascii")
            layers.setdefault(layer, {})[parameter] = {"shape": list(value.shape), "base64": text}
    return layers
