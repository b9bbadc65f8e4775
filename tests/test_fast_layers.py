"""The fast layers equal the plain ones, in value and in every derivative, and an edited LeNet-5 computes as edited."""

import copy
from contextlib import suppress
from functools import partial
from types import MethodType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from model import LeNet5
from support.compute import fast_layers_in
from support.compute.fast_layers import PooledConv2d, ThinConv2d, WholeConv2d

assert_equal = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
FAST = {"c1": PooledConv2d, "s2": nn.Identity, "c3": ThinConv2d, "c5": WholeConv2d}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def kinds(network: nn.Module) -> dict[str, type]:
    return {name: type(getattr(network, name)) for name in FAST}


def some(batch: int, dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 1, 32, 32, dtype=dtype), torch.randint(0, 10, (batch,))


def both(network: nn.Module, action, fits: bool = True) -> tuple[list[Tensor], list[Tensor]]:
    """What an action gives for copies of a network where the fast layers are asked for, and where not."""
    fast, plain = copy.deepcopy(network), copy.deepcopy(network)
    with fast_layers_in(fast):
        assert (kinds(fast) == FAST) == fits
        found = action(fast)
    return found, action(plain)


def step(network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """The logits, the gradients of the loss by images and parameters, and statistics, as double precision."""
    images = images.clone().requires_grad_()
    logits = network(images)
    F.cross_entropy(logits, labels).backward()
    gradients = [values.grad for values in (images, *network.parameters())]
    return [values.double() for values in (logits, *gradients, *network.buffers())]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_logits_statistics_and_gradients_are_those_of_the_plain_layers(batch_norm, training, memory_format):
    images, labels = some(17)
    images = images.contiguous(memory_format=memory_format)
    network = LeNet5(batch_norm).double().train(training).to(memory_format=memory_format)
    assert_equal(*both(network, lambda network: step(network, images, labels)))


def test_images_of_other_shapes_are_convolved_too():
    images = torch.randn(3, 1, 33, 40, dtype=torch.double)
    assert_equal(*both(LeNet5().double(), lambda n: [n.c3(F.relu(n.s2(n.c1(x)))) for x in (images, images[0])]))


def penalty(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The gradient of a gradient's norm, and of one with respect to the weights, two orders higher."""
    at = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(at).pow(3).sum(), at, create_graph=True)
    weights = [network.c1.weight, network.c3.weight, network.c5.weight]
    second = torch.autograd.grad(gradient.square().sum(), weights, create_graph=True)
    return [*second, *torch.autograd.grad(sum(x.square().sum() for x in second), [at, *weights])]


DERIVATIVES = {
    "penalty": penalty,
    "forward mode": lambda n, x: torch.func.jvp(n, (x,), (x.cos(),)),
    "each image by itself": lambda n, x: [torch.func.vmap(lambda image: n(image[None]))(x)],
    "batched gradients": lambda n, x: torch.autograd.grad(
        n(x).sum(0), list(n.parameters()), torch.eye(10, dtype=x.dtype), is_grads_batched=True
    ),
    "compiled": lambda n, x: torch.autograd.grad(
        torch.compile(n, backend="aot_eager")(x).square().sum(), list(n.parameters())
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_a_derivative_is_right_or_an_error(derivative):
    images, network = some(4)[0], LeNet5().double()
    expected = DERIVATIVES[derivative](network, images)
    with fast_layers_in(network):
        try:
            found = DERIVATIVES[derivative](network, images)
        except (RuntimeError, NotImplementedError):
            assert derivative not in ("penalty", "compiled")
            return
    assert_equal(found, expected)


def test_under_autocast_they_are_the_plain_layers_to_the_bit():
    images, labels = some(8, torch.float32)

    def action(network):
        with torch.autocast("cpu", torch.bfloat16):
            return step(network, images, labels)

    torch.testing.assert_close(*both(LeNet5(batch_norm=True), action), rtol=0, atol=0)


def test_behind_the_block_all_is_as_before_also_where_it_failed():
    networks = nn.ModuleList([LeNet5(), LeNet5(batch_norm=True, classes=26), nn.Linear(2, 2)])
    networks[1].c5.eval().weight.requires_grad_(False)
    text, modules, parameters = str(networks), list(networks.modules()), list(networks.parameters())
    state = torch.get_rng_state()
    with suppress(KeyboardInterrupt), fast_layers_in(*networks):
        with fast_layers_in(networks[0]):
            pass
        assert [kinds(network) for network in networks[:2]] == [FAST, FAST], "the inner block had nothing to change"
        raise KeyboardInterrupt
    assert torch.get_rng_state().equal(state)
    assert (str(networks), list(networks.modules())) == (text, modules)
    assert all(ours is other for ours, other in zip(networks.parameters(), parameters, strict=True))
    assert [layer for layer in modules if not layer.training] == [networks[1].c5]


CHANGES = {
    "padding": lambda n: setattr(n, "c1", nn.Conv2d(1, 6, 5, padding=2)),
    "another weight": lambda n: setattr(n.c3, "weight", nn.Parameter(torch.ones(16, 6, 3, 3))),
    "a subclass": lambda n: setattr(n, "c3", type("Mine", (nn.Conv2d,), {})(6, 16, 5)),
    "pruned": lambda n: prune.l1_unstructured(n.c5, "weight", 0.5),
    "a hook": lambda n: n.s2.register_forward_hook(lambda *_: None),
    "a forward of the network's own": lambda n: setattr(n, "forward", MethodType(lambda n, x: n.s2(-n.c1(x)), n)),
    "no such layer": lambda n: delattr(n, "s2"),
    "another device": lambda n: n.to("meta"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_layers_stay_where_one_of_them_is_not_lenets_plain_one(change):
    network = LeNet5()
    CHANGES[change](network)
    before = [type(layer) for layer in network.modules()]
    with fast_layers_in(network):
        assert [type(layer) for layer in network.modules()] == before


FORWARDS = {  # what comes behind C1, and whether C1 may then pool
    "tanh": (lambda n, x: torch.tanh(n.s2(n.c1(x))), True),
    "twice": (lambda n, x: n.s2(n.c1(x)) + n.s2(n.c1(x.flip(3))), True),
    "a way around": (lambda n, x: n.s2(n.c1(x)) + F.avg_pool2d(n.c1(x), 2), False),
    "only in training": (lambda n, x: n.s2(n.c1(x).abs() if n.training else n.c1(x)), False),
    "only in evaluation": (lambda n, x: n.s2(n.c1(x) if n.training else n.c1(x).abs()), False),
    "pooling of another": (lambda n, x: n.s2(n.c1(x)) + n.s2(x).mean(), False),
    "a branch on values": (lambda n, x: n.s2(n.c1(x)) if x.sum() > 1e9 else n.s2(n.c1(x).abs()), False),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FORWARDS)
def test_an_edited_forward_computes_as_it_was_edited(name, training):
    head, pools = FORWARDS[name]

    class Edited(LeNet5):
        def forward(self, images: Tensor) -> Tensor:
            x = F.relu(self.s4(self.c3(head(self, images))))
            return self.f7(F.relu(self.f6(F.relu(self.c5(x).flatten(1)))))

    images, labels = some(6)
    assert_equal(*both(Edited().double().train(training), lambda network: step(network, images, labels), pools))
