"""The three networks: their sizes, what they compute; the table of layers, and the check for logits."""

import copy

import pytest
import torch
from torch import Tensor, nn

from model import MODELS, LeNet5, count_parameters
from support.compute import check_logits, describe
from support.digits.page import page_logits
from support.terminal import UserError

SHAPE = (1, 32, 32)


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


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_its_layers(name):
    """As the page to draw on computes them, one function after the other."""
    model = MODELS[name]().eval()
    for key, value in model.state_dict().items():
        if key.startswith("norm") and value.is_floating_point():
            value.uniform_(0.5, 1.5)  # away from the first values, so that a wrong one would show
    images = torch.randn(12, 1, 32, 32)
    torch.testing.assert_close(model(images), page_logits(model.state_dict(), images), rtol=1e-4, atol=1e-5)


def test_lenets_weights_are_drawn_in_the_order_of_the_layers_and_a_seed_gives_the_same():
    torch.manual_seed(3)
    model = LeNet5(batch_norm=True)
    torch.manual_seed(3)
    for layer in (model.c1, model.c3, model.c5, model.f6, model.f7):
        sizes = layer.weight.shape[1::-1]
        kind = nn.Linear(*sizes) if isinstance(layer, nn.Linear) else nn.Conv2d(*sizes, 5)
        assert layer.weight.equal(kind.weight)


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


class Unusual(nn.Module):
    """Of other images, in double precision: a block of lazy layers, one that is not trained, tied weights, a layer
    called twice, one never called, one of two outputs, a parameter of the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.unused, self.none, self.recurrent = nn.Linear(5, 200), nn.Identity(), nn.GRU(8, 4)
        self.twice, self.tied = nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied.weight = self.twice.weight
        self.block = nn.Sequential(nn.Conv2d(1, 2, 28), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(8))
        self.block[0].requires_grad_(False)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.tied(self.twice(self.twice(self.none(self.block(x)))))
        return self.recurrent(x[None])[0][0] * self.scale


TABLE = """\
layer     kind        output params
block.0   Conv2d       2x1x1      0
block.1   BatchNorm2d  2x1x1      4
block.2   Flatten          2      0
block.3   Linear           8     24
twice     Linear           8     72
tied      Linear           8      8
recurrent GRU              -    168
model     Unusual          4      4
unused    Linear           -  1,200
total                         1,480"""


def test_the_table_is_in_the_order_in_which_an_image_passes_and_lazy_layers_get_their_shapes():
    model = Unusual()
    assert describe(model, (1, 28, 28)) == TABLE
    assert count_parameters(model) == 1_480
    assert all(layer.training for layer in model.modules())
    assert model.block[1].running_var.equal(torch.ones(2).double()), "nothing was measured"
    check_logits(model, (1, 28, 28), 4)


class Fork(nn.Module):
    """It gives one thing in training mode, and another in evaluation mode."""

    def __init__(self, training, evaluation) -> None:
        super().__init__()
        self.layer, self.ways = nn.Linear(1024, 10), (evaluation, training)

    def forward(self, images: Tensor):
        return self.ways[self.training](self.layer(images.flatten(1)))


logits = nn.Identity()


@pytest.mark.parametrize(
    ("training", "evaluation", "named"),
    [
        (logits, lambda x: x[:, :9], r"\(2, 9\) .* evaluation mode; expected logits \(2, 10\)"),
        (lambda x: (x, x), logits, "tuple .* training mode"),
        (lambda x: x[:, None], logits, r"\(2, 1, 10\) .* training mode"),
    ],
)
def test_what_is_no_logits_in_one_of_the_modes_is_refused(training, evaluation, named):
    with pytest.raises(UserError, match=named):
        check_logits(Fork(training, evaluation), SHAPE, 10)
