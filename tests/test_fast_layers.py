"""The fast layers equal the plain ones, in value and in every derivative, and an edited LeNet-5 computes as edited."""

import copy
from contextlib import suppress
from types import MethodType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from model import LeNet5
from support.compute import fast_layers_in
from support.compute.fast_layers import PooledConv2d, ThinConv2d, WholeConv2d

FAST = {"c1": PooledConv2d, "s2": nn.Identity, "c3": ThinConv2d, "c5": WholeConv2d}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def kinds(network: nn.Module) -> dict[str, type]:
    return {name: type(getattr(network, name)) for name in FAST}


def lenet(batch_norm: bool = False, dtype: torch.dtype = torch.double) -> LeNet5:
    """With biases away from zero, so that a wrong one would show."""
    network = LeNet5(batch_norm).to(dtype)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
    return network


def some(batch: int = 4, dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 1, 32, 32, dtype=dtype), torch.randint(0, 10, (batch,))


def both(network: nn.Module, action) -> tuple[list[Tensor], list[Tensor]]:
    """What an action gives for copies of a network with the fast layers and with the plain ones."""
    fast, plain = copy.deepcopy(network), copy.deepcopy(network)
    with fast_layers_in(fast):
        assert kinds(fast) == FAST
        found = action(fast)
    return list(found), list(action(plain))


def assert_equal(found: list[Tensor], expected: list[Tensor], limit: float = 1e-12) -> None:
    """Each tensor of the one is that of the other, within a limit that is relative to its largest value."""
    for ours, reference in zip(found, expected, strict=True):
        scale = reference.abs().max().item() or 1.0
        torch.testing.assert_close(ours, reference, rtol=0, atol=limit * max(scale, 1e-3))


# --- the same functions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_logits_statistics_and_gradients_are_those_of_the_plain_layers(batch_norm, training, memory_format):
    images, labels = some(17)

    def action(network):
        at = images.contiguous(memory_format=memory_format).requires_grad_()
        logits = network.train(training)(at)
        F.cross_entropy(logits, labels).backward()
        statistics = [buffer.double() for buffer in network.buffers()]
        return [logits.detach(), at.grad, *(p.grad for p in network.parameters()), *statistics]

    assert_equal(*both(lenet(batch_norm).to(memory_format=memory_format), action), limit=1e-9)


@pytest.mark.parametrize("shape", [(28, 28), (33, 32), (32, 33), (36, 40)])
def test_images_of_other_shapes_are_convolved_too(shape):
    class AnySize(LeNet5):
        def forward(self, images: Tensor) -> Tensor:
            return self.c3(F.relu(self.s2(self.c1(images))))

    images = torch.randn(3, 1, *shape, dtype=torch.double)
    assert_equal(*both(AnySize().double(), lambda network: [network(images), network(images[0])]))


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
    "jacobian, forward": lambda n, x: [torch.func.jacfwd(lambda s: n(s * x))(torch.ones((), dtype=x.dtype))],
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
    images, _ = some()
    network = lenet()
    expected = list(DERIVATIVES[derivative](network, images))
    with fast_layers_in(network):
        try:
            found = list(DERIVATIVES[derivative](network, images))
        except (RuntimeError, NotImplementedError):
            assert derivative not in ("penalty", "compiled")
            return
    assert_equal(found, expected, limit=1e-10)


def test_under_autocast_they_are_the_plain_layers_to_the_bit():
    images, labels = some(8, torch.float32)

    def forward(network):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()
        return [logits, *(parameter.grad for parameter in network.parameters())]

    found, expected = both(lenet(True, torch.float32), forward)
    assert found[0].dtype == torch.bfloat16
    assert all(ours.equal(reference) for ours, reference in zip(found, expected, strict=True))


# --- the swap ---------------------------------------------------------------------------------------------------------


def test_behind_the_block_all_is_as_before_also_where_it_failed():
    networks = LeNet5(), LeNet5(batch_norm=True, classes=26), nn.Linear(2, 2)
    networks[1].c5.eval().weight.requires_grad_(False)
    before = [(dict(n.named_parameters()), list(n.named_modules()), str(n)) for n in networks]
    state = torch.get_rng_state()
    with suppress(KeyboardInterrupt), fast_layers_in(*networks):
        assert [kinds(network) for network in networks[:2]] == [FAST, FAST]
        with fast_layers_in(networks[0]):
            pass
        assert kinds(networks[0]) == FAST, "the inner block had nothing to change"
        raise KeyboardInterrupt
    assert torch.get_rng_state().equal(state)
    for network, (parameters, modules, text) in zip(networks, before, strict=True):
        assert str(network) == text
        assert all(ours is other for (_, ours), (_, other) in zip(network.named_modules(), modules, strict=True))
        assert all(parameter is parameters[name] for name, parameter in network.named_parameters())
    assert [name for name, layer in networks[1].named_children() if not layer.training] == ["c5"]


CHANGES = {
    "padding": lambda n: setattr(n, "c1", nn.Conv2d(1, 6, 5, padding=2)),
    "a changed stride": lambda n: setattr(n.c3, "stride", (2, 2)),
    "dilation": lambda n: setattr(n, "c5", nn.Conv2d(16, 120, 5, dilation=2)),
    "groups": lambda n: setattr(n, "c3", nn.Conv2d(6, 16, 5, groups=2)),
    "another padding mode": lambda n: setattr(n, "c3", nn.Conv2d(6, 16, 5, padding_mode="reflect")),
    "no bias": lambda n: setattr(n, "c1", nn.Conv2d(1, 6, 5, bias=False)),
    "other kernels": lambda n: setattr(n, "c3", nn.Conv2d(6, 16, 3)),
    "another weight": lambda n: setattr(n.c3, "weight", nn.Parameter(torch.ones(16, 6, 3, 3))),
    "average pooling": lambda n: setattr(n, "s2", nn.AvgPool2d(2)),
    "another pooling": lambda n: setattr(n, "s2", nn.MaxPool2d(2, stride=1)),
    "a subclass": lambda n: setattr(n, "c3", type("Mine", (nn.Conv2d,), {})(6, 16, 5)),
    "pruned": lambda n: prune.l1_unstructured(n.c5, "weight", 0.5),
    "parametrized": lambda n: parametrizations.weight_norm(n.c3),
    "spectral": lambda n: nn.utils.spectral_norm(n.c1),
    "a forward hook": lambda n: n.c1.register_forward_hook(lambda *_: None),
    "a hook on pooling": lambda n: n.s2.register_forward_hook(lambda *_: None),
    "a hook before": lambda n: n.c3.register_forward_pre_hook(lambda *_: None),
    "a backward hook": lambda n: n.c5.register_full_backward_hook(lambda *_: None),
    "a forward of its own": lambda n: setattr(n.c3, "forward", lambda x: nn.Conv2d.forward(n.c3, x)),
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


class Edited(LeNet5):
    """LeNet-5 whose first layers are called in another way."""

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.s4(self.c3(self.head(images))))
        return self.f7(F.relu(self.f6(F.relu(self.c5(x).flatten(1)))))


def shared_pooling(network: LeNet5, x: Tensor) -> Tensor:
    network.s2(F.relu(network.c1(x))).sum()
    return network.s2(network.c1(x))


FORWARDS = {  # what comes behind C1, and whether C1 may then pool
    "tanh": (lambda n, x: torch.tanh(n.s2(n.c1(x))), True),
    "twice": (lambda n, x: n.s2(n.c1(x)) + n.s2(n.c1(x.flip(3))), True),
    "dropout behind": (lambda n, x: F.dropout(n.s2(n.c1(x)), 0.5, n.training), True),
    "dropout between": (lambda n, x: n.s2(F.dropout(n.c1(x), 0.5, n.training)), False),
    "normalized between": (lambda n, x: n.s2(F.instance_norm(n.c1(x))), False),
    "gelu between": (lambda n, x: n.s2(F.gelu(n.c1(x))), False),
    "a minus sign": (lambda n, x: n.s2(-n.c1(x)), False),
    "a way around": (lambda n, x: n.s2(n.c1(x)) + F.avg_pool2d(n.c1(x), 2), False),
    "only in training": (lambda n, x: n.s2(n.c1(x).abs() if n.training else n.c1(x)), False),
    "only in evaluation": (lambda n, x: n.s2(n.c1(x) if n.training else n.c1(x).abs()), False),
    "pooling shared": (shared_pooling, False),
    "no pooling layer": (lambda n, x: F.max_pool2d(n.c1(x), 2), False),
    "a branch on values": (lambda n, x: n.s2(n.c1(x)) if x.sum() > 1e9 else n.s2(n.c1(x).abs()), False),
    "a value read": (lambda n, x: n.s2(n.c1(x)) * n.c1(x).max().item(), False),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_an_edited_forward_trains_and_tests_as_it_was_edited(name):
    head, pools = FORWARDS[name]
    network = type("Edited", (Edited,), {"head": head})().double()
    images, labels = some(6)
    results = []
    for fast in (True, False):
        torch.manual_seed(1)
        trained = copy.deepcopy(network)
        optimizer = torch.optim.SGD(trained.parameters(), 0.1)
        with fast_layers_in(*[trained] * fast):
            assert (kinds(trained) == FAST) == (fast and pools)
            for _ in range(2):
                optimizer.zero_grad()
                F.cross_entropy(trained.train()(images), labels).backward()
                optimizer.step()
            results.append([trained.eval()(images), *trained.parameters()])
    assert_equal(*results)
