"""The three networks: their sizes, what they compute; the table of layers, and the check for logits."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import MODELS, LeNet5, count_parameters
from support.compute import check_logits, describe
from support.terminal import UserError

SHAPE = (1, 32, 32)


def reference(images: Tensor, state: dict[str, Tensor], training: bool) -> Tensor:
    """The layers in their order, each a matrix product, each but the last with pooling, normalization and ReLU."""
    x, layers = images, [key.removesuffix(".weight") for key in state if key[0] != "n" and key.endswith(".weight")]
    for name in layers:
        weight, bias, norm = state[f"{name}.weight"], state[f"{name}.bias"], f"norm{name[1]}"
        if name in ("c1", "c3"):
            x = F.max_pool2d(F.conv2d(x, weight, bias), 2)
        else:  # C5's kernels see the whole of S4
            x = x.flatten(1) @ weight.flatten(1).T + bias
        if f"{norm}.weight" in state:
            kinds = ("running_mean", "running_var", "weight", "bias")
            x = F.batch_norm(x, *(state[f"{norm}.{kind}"] for kind in kinds), training=training)
        x = x if name == layers[-1] else F.relu(x)
    return x


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("name", "total"), [("lenet", 61_706), ("mlp", 61_514), ("lenet_bn", 62_158)])
def test_parameter_counts(name, total):
    model = MODELS[name]()
    assert count_parameters(model) == total
    assert count_parameters(MODELS[name](classes=26)) == total + 16 * 85, "a class more is 85 parameters more"
    model.requires_grad_(False)
    assert count_parameters(model) == 0, "trainable ones are counted"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_its_layers(name, training):
    model = MODELS[name]().train(training)
    for key, value in model.state_dict().items():
        if key.startswith("norm") and value.is_floating_point():
            value.uniform_(0.5, 1.5)  # away from the first values, so that a wrong one would show
    state = {key: value.clone() for key, value in model.state_dict().items()}
    weights = [state[key].requires_grad_() for key, _ in model.named_parameters()]
    images, labels = torch.randn(12, 1, 32, 32), torch.randint(0, 10, (12,))
    ours, theirs = model(images), reference(images, state, training)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(F.cross_entropy(ours, labels), list(model.parameters()))
    expected = torch.autograd.grad(F.cross_entropy(theirs, labels), weights)
    # a bias that batch normalization takes away again has a gradient of nothing but rounding: hence atol
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_lenets_weights_are_drawn_in_the_order_of_the_layers_and_a_seed_gives_the_same():
    torch.manual_seed(3)
    model = LeNet5(batch_norm=True)
    torch.manual_seed(3)
    for layer in (model.c1, model.c3, model.c5, model.f6, model.f7):
        sizes = layer.weight.shape[1::-1]
        kind = nn.Linear(*sizes) if isinstance(layer, nn.Linear) else nn.Conv2d(*sizes, 5)
        assert layer.weight.equal(kind.weight)


def table(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> tuple[list[list[str]], int]:
    """The rows of the table, each split into its cells, and the total."""
    _, *rows, total = describe(model, shape).splitlines()
    return [row.split() for row in rows], int(total.split()[1].replace(",", ""))


LENET_TABLE = """\
layer kind        output params
c1    Conv2d     6x28x28    156
s2    MaxPool2d  6x14x14      0
c3    Conv2d    16x10x10  2,416
s4    MaxPool2d   16x5x5      0
c5    Conv2d     120x1x1 48,120
f6    Linear          84 10,164
f7    Linear          10    850
total                    61,706"""


def test_the_table_of_lenet_is_in_the_order_in_which_an_image_passes():
    assert describe(MODELS["lenet"](), SHAPE) == LENET_TABLE
    rows, _ = table(LeNet5(batch_norm=True))
    assert " ".join(row[0] for row in rows) == "c1 s2 norm1 c3 s4 norm3 c5 norm5 f6 norm6 f7"


def test_images_of_another_shape_and_precision():
    network = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.Flatten(), nn.Linear(6 * 28 * 28, 10)).double()
    network[0].requires_grad_(False)
    rows, total = table(network, (1, 28, 28))
    assert rows[0] == ["0", "Conv2d", "6x28x28", "0"], "what is not trained does not count"
    assert total == 47_050
    check_logits(network, (1, 28, 28), 10)


def test_a_network_is_as_before_also_where_it_fails():
    model = LeNet5(batch_norm=True)
    model.norm3.eval()
    before = copy.deepcopy(model.state_dict())
    describe(model, SHAPE)
    check_logits(model, SHAPE, 10)
    with pytest.raises(RuntimeError):
        describe(model, (1, 7, 7))
    assert [name for name, layer in model.named_modules() if not layer.training] == ["norm3"]
    assert all(model.state_dict()[key].equal(value) for key, value in before.items())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_lazy_layers_get_their_shapes():
    model = nn.Sequential(nn.LazyConv2d(4, 5), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))
    rows, total = table(model)
    assert [row[1:3] for row in rows][::3] == [["Conv2d", "4x28x28"], ["Linear", "10"]]
    assert total == count_parameters(model) == 104 + 8 + 31_370
    assert model[1].running_var.equal(torch.ones(4))
    assert all(layer.training for layer in model)


class Unusual(nn.Module):
    """A block, a parameter of its own, a layer called twice, two outputs, tied weights, a layer never called."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.unused = nn.Linear(5, 5)
        self.block = nn.Sequential(nn.Flatten(), nn.Linear(1024, 8))
        self.twice, self.tied = nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied.weight = self.twice.weight
        self.recurrent = nn.GRU(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tied(self.twice(self.twice(self.block(x))))
        return self.recurrent(x[None])[0][0] * self.scale


def test_the_table_of_an_unusual_network():
    rows, total = table(Unusual())
    names = ["block.0", "block.1", "twice", "twice", "tied", "recurrent", "model", "unused"]
    assert [row[0] for row in rows] == names
    gru = 3 * 4 * (8 + 4 + 2)
    assert [int(row[-1].replace(",", "")) for row in rows] == [0, 1024 * 8 + 8, 72, 0, 8, gru, 4, 30]
    assert [row[2] for row in rows][-3:] == ["-", "4", "-"]
    assert total == count_parameters(Unusual())


class Fork(nn.Module):
    """It gives one thing in training mode, and another in evaluation mode."""

    def __init__(self, training, evaluation) -> None:
        super().__init__()
        self.layer, self.ways = nn.Linear(1024, 10), (evaluation, training)

    def forward(self, images: Tensor):
        return self.ways[self.training](self.layer(images.flatten(1)))


logits, softmax = nn.Identity(), nn.Softmax(1)


@pytest.mark.parametrize(
    ("training", "evaluation", "named"),
    [
        (logits, lambda x: x[:, :9], r"\(2, 9\) .* evaluation mode; expected logits \(2, 10\)"),
        (logits, lambda x: x.mean(), r"\(\) .* evaluation mode"),
        (lambda x: (x, x), logits, "tuple .* training mode"),
        (lambda x: x[:, None], logits, r"\(2, 1, 10\) .* training mode"),
        (logits, softmax, "probabilities in evaluation mode only"),
    ],
)
def test_what_is_no_logits_in_one_of_the_modes_is_refused(training, evaluation, named):
    with pytest.raises(UserError, match=named):
        check_logits(Fork(training, evaluation), SHAPE, 10)


@pytest.mark.parametrize("network", [Fork(logits, logits), Fork(nn.Dropout(), logits), Fork(softmax, softmax)])
def test_logits_of_a_class_each_are_fine(network):
    check_logits(network, SHAPE, 10)
