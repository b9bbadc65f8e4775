"""The fast layers equal what they replace, in value and in every derivative, and the swap changes nothing else."""

import copy
import io
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

from model import LeNet5
from support.compute.fast_layers import PooledConv2d, ThinConv2d, WholeConv2d, use_fast_layers

JIT_WARNINGS = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
KINDS = {"c1": PooledConv2d, "s2": nn.Identity, "c3": ThinConv2d, "c5": WholeConv2d}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pair(batch_norm: bool = False, dtype: torch.dtype = torch.double) -> tuple[LeNet5, LeNet5]:
    """The textbook network and one with the fast layers, of equal weights."""
    textbook = LeNet5(batch_norm).to(dtype)
    with torch.no_grad():
        for name, parameter in textbook.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
    return textbook, use_fast_layers(copy.deepcopy(textbook))


def some(batch: int = 4, dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 1, 32, 32, dtype=dtype), torch.randint(0, 10, (batch,))


def close(found, expected, limit: float = 1e-12) -> None:
    """Each tensor of the one is that of the other, within a limit that is relative to its largest value."""
    found, expected = ([x] if isinstance(x, Tensor) else list(x) for x in (found, expected))
    for ours, reference in zip(found, expected, strict=True):
        scale = reference.abs().max().item() or 1.0
        torch.testing.assert_close(ours, reference, rtol=0, atol=limit * scale)


# the same function


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch", [2, 17])
def test_logits_statistics_and_gradients_are_the_textbooks(batch_norm, training, batch):
    images, labels = some(batch)
    found = []
    for network in pair(batch_norm):
        at = images.clone().requires_grad_()
        logits = network.train(training)(at)
        F.cross_entropy(logits, labels).backward()
        found.append([logits.detach(), at.grad, *(p.grad for p in network.parameters()), *network.buffers()])
    expected, ours = ([value.double() for value in values] for values in found)
    # a bias that batch normalization takes away again has a gradient of rounding only: an absolute limit
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_in_single_precision_the_error_is_that_of_rounding(batch_norm):
    textbook, _ = pair(batch_norm)
    fast = use_fast_layers(copy.deepcopy(textbook).float())
    images, labels = some(32)
    for network, x in ((textbook, images), (fast, images.float())):
        F.cross_entropy(network(x), labels).backward()
    for ours, reference in zip(fast.parameters(), textbook.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-3, atol=1e-5)


POOLED = [
    ((2, 1, 32, 32), 6, 5),
    ((3, 1, 6, 8), 2, 3),
    ((1, 1, 9, 2), 3, 1),
    ((2, 1, 6, 6), 4, 5),
    ((1, 1, 7, 9), 2, 4),
]
THIN = [
    ((2, 6, 14, 14), 16, 5),
    ((3, 1, 7, 10), 2, 3),
    ((1, 4, 6, 4), 5, 1),
    ((2, 3, 5, 6), 4, 4),
    ((1, 20, 5, 6), 2, 5),
]
WHOLE = [((2, 16, 5, 5), 120, 5), ((3, 2, 1, 1), 4, 1), ((1, 1, 3, 3), 1, 3)]
OTHERS = [  # shapes for which they step aside
    (PooledConv2d, (2, 1, 7, 7), 3, 3),
    (PooledConv2d, (2, 1, 8, 6), 3, 4),
    (PooledConv2d, (1, 8, 8), 3, 3),
    (PooledConv2d, (2, 3, 8, 8), 3, 3),
    (ThinConv2d, (2, 6, 8, 9), 4, 3),
    (ThinConv2d, (6, 8, 8), 4, 3),
    (WholeConv2d, (2, 3, 6, 5), 4, 5),
    (WholeConv2d, (3, 5, 5), 4, 5),
]
CASES = [
    (kind, *case)
    for kind, cases in ((PooledConv2d, POOLED), (ThinConv2d, THIN), (WholeConv2d, WHOLE))
    for case in cases
]


def both(kind: type, channels: int, outputs: int, size: int):
    """A fast layer in double precision and the function that it replaces."""
    layer = kind(channels, outputs, size).double()

    def plain(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = F.conv2d(images, weight, bias)
        return F.max_pool2d(x, 2) if kind is PooledConv2d else x

    return layer, plain


@pytest.mark.parametrize(("kind", "shape", "outputs", "size"), CASES + OTHERS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_layer_is_what_it_replaces(kind, shape, outputs, size, memory_format):
    layer, plain = both(kind, shape[-3], outputs, size)
    layer = layer.to(memory_format=memory_format)
    images = torch.randn(shape, dtype=torch.double)
    images = (images.contiguous(memory_format=memory_format) if images.ndim == 4 else images).requires_grad_()
    at = images, layer.weight, layer.bias
    ours, reference = layer(images), plain(*at)
    assert ours.shape == reference.shape
    close(ours, reference)
    direction = torch.randn_like(reference)
    first = [torch.autograd.grad(y.pow(3), at, direction, create_graph=True) for y in (ours, reference)]
    close(*first)
    directions = [torch.randn_like(x) for x in at]
    slopes = (sum((g * d).sum() + g.square().sum() for g, d in zip(gs, directions, strict=True)) for gs in first)
    close(*(torch.autograd.grad(slope, at) for slope in slopes))


@JIT_WARNINGS
@pytest.mark.parametrize(("kind", "shape", "outputs", "size"), [CASES[1], CASES[6], CASES[11]])
def test_a_layers_derivatives_pass_pytorchs_own_checks(kind, shape, outputs, size):
    layer, _ = both(kind, shape[1], outputs, size)

    def function(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (images,))

    at = (torch.randn(shape, dtype=torch.double).requires_grad_(), layer.weight, layer.bias)
    assert torch.autograd.gradcheck(function, at, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, at)


@pytest.mark.parametrize(("kind", "shape", "outputs", "size"), CASES)
def test_an_empty_batch_goes_through(kind, shape, outputs, size):
    layer, plain = both(kind, shape[1], outputs, size)
    images = torch.randn(0, *shape[1:], dtype=torch.double)
    assert layer(images).shape == plain(images, layer.weight, layer.bias).shape


@pytest.mark.parametrize("kind", [PooledConv2d, ThinConv2d, WholeConv2d])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 2, 8), (8, 8)])
def test_wrong_images_are_refused_as_by_a_convolution(kind, shape):
    with pytest.raises(RuntimeError):
        kind(1, 4, 5)(torch.randn(shape))


@pytest.mark.parametrize("kind", [PooledConv2d, ThinConv2d, WholeConv2d])
@pytest.mark.parametrize(
    "option",
    [{"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 1}, {"bias": False}, {"padding_mode": "reflect"}],
)
def test_options_that_are_not_honoured_are_refused(kind, option):
    with pytest.raises(TypeError):
        kind(1, 4, 3, **option)
    with pytest.raises(TypeError):
        kind(1, 4, 3, 2)
    with pytest.raises(TypeError):
        kind(1, 4, (3, 5))


# derivatives of the whole network


def test_hessian_vector_products_are_the_textbooks():
    images, labels = some()
    found = []
    for network in pair():
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(F.cross_entropy(network(images), labels), parameters, create_graph=True)
        found.append(torch.autograd.grad(sum(g.sum() + g.square().sum() for g in gradients), parameters))
    close(found[1], found[0])


def test_a_gradient_penalty_has_the_textbooks_gradient():
    images, labels = some()
    found = []
    for network in pair():
        at = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(at), labels), at, create_graph=True)
        gradient.square().sum().backward()
        found.append([at.grad, *(p.grad for p in network.parameters() if p.grad is not None)])
    close(found[1], found[0])


def test_third_derivatives_are_the_textbooks():
    images, _ = some(2)
    found = []
    for network in pair():
        at = [network.c1.weight, network.c3.weight, network.c5.weight]
        y = network(images).pow(3).sum()
        for _ in range(2):
            y = sum(g.pow(2).sum() for g in torch.autograd.grad(y, at, create_graph=True))
        found.append(torch.autograd.grad(y, at))
    close(found[1], found[0], limit=1e-10)


def of_loss(weights, network, images, labels):
    return F.cross_entropy(torch.func.functional_call(network, weights, (images,)), labels)


@JIT_WARNINGS
def test_what_torch_func_derives_is_the_textbooks():
    images, labels = some()
    found = []
    for network in pair():
        weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
        ones = {name: torch.ones_like(weight) for name, weight in weights.items()}
        gradient = torch.func.grad(of_loss)
        forward = torch.func.jvp(lambda w, n=network: of_loss(w, n, images, labels), (weights,), (ones,))
        product = torch.func.jvp(
            lambda w, n=network: torch.func.grad(of_loss)(w, n, images, labels), (weights,), (ones,)
        )
        each = torch.func.vmap(gradient, (None, None, 0, 0))(weights, network, images[:, None], labels[:, None])
        hessian = torch.func.hessian(lambda b, n=network, w=weights: of_loss(w | {"c3.bias": b}, n, images, labels))
        found.append(
            [
                *gradient(weights, network, images, labels).values(),
                *forward,
                *product[1].values(),
                *each.values(),
                hessian(weights["c3.bias"]),
            ]
        )
    close(found[1], found[0])


@JIT_WARNINGS
def test_vmap_runs_an_ensemble_of_fast_networks():
    images, _ = some()
    networks = [use_fast_layers(LeNet5()).double() for _ in range(3)]
    weights, buffers = torch.func.stack_module_state(networks)
    found = torch.func.vmap(lambda w, b: torch.func.functional_call(networks[0], (w, b), (images,)))(weights, buffers)
    close(found, torch.stack([network(images) for network in networks]))


@JIT_WARNINGS
def test_forward_mode_gives_the_textbooks_tangents():
    images, _ = some()
    found = []
    for network in pair():
        with forward_ad.dual_level():
            logits = network(forward_ad.make_dual(images, torch.cos(images)))
            found.append(forward_ad.unpack_dual(logits).tangent.detach())
    close(found[1], found[0])


def test_only_parts_of_the_network_can_be_trained():
    images, labels = some()
    found = []
    for network in pair():
        network.c3.weight.requires_grad_(False)
        network.c1.requires_grad_(False)
        F.cross_entropy(network(images), labels).backward()
        assert network.c3.weight.grad is None
        found.append([p.grad for p in network.parameters() if p.requires_grad])
    close(found[1], found[0])


# stepping aside


def test_under_autocast_they_are_the_textbook_to_the_bit():
    images, labels = some(8, torch.float32)
    found = []
    for network in pair(True, torch.float32):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()
        found.append([logits, *(p.grad for p in network.parameters())])
    assert found[0][0].dtype == torch.bfloat16
    assert all(ours.equal(reference) for ours, reference in zip(*found, strict=True))


class Operations(TorchDispatchMode):
    """Keeps the names of the operations that are carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **kwargs or {})


def test_on_other_devices_their_operations_are_those_of_the_textbook():
    found = []
    for network in pair():
        with Operations() as operations:
            network.to("meta")(torch.empty(4, 1, 32, 32, dtype=torch.double, device="meta")).sum().backward()
        found.append([name for name in operations.names if "to_copy" not in name])
    assert found[0] == found[1]
    assert sum(name.startswith("aten.convolution.") for name in found[0]) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("batch_norm", [False, True])
def test_on_a_gpu_they_are_the_textbook(batch_norm):
    images, labels = (x.to("cuda") for x in some(8, torch.float32))
    found = []
    for network in pair(batch_norm, torch.float32):
        logits = network.to("cuda")(images)
        F.cross_entropy(logits, labels).backward()
        found.append([logits.detach(), *(p.grad for p in network.parameters())])
    for ours, reference in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


# the swap


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_swap_keeps_the_network_its_parameters_their_names_and_the_random_numbers(batch_norm):
    network = LeNet5(batch_norm, classes=26)
    network.c3.weight.requires_grad_(False)
    network.c5.eval()
    before, state = dict(network.named_parameters()), torch.get_rng_state()
    assert use_fast_layers(network) is network
    assert torch.get_rng_state().equal(state)
    assert {name: type(getattr(network, name)) for name in KINDS} == KINDS
    assert list(before) == [name for name, _ in network.named_parameters()]
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
    assert not network.c3.weight.requires_grad
    assert [name for name, layer in network.named_children() if not layer.training] == ["c5"]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_weights_go_to_and_fro_and_are_contiguous_after_training(batch_norm):
    textbook, fast = LeNet5(batch_norm), use_fast_layers(LeNet5(batch_norm))
    images, labels = some(16, torch.float32)
    optimizer = torch.optim.SGD(fast.parameters(), 0.01, momentum=0.9, fused=True)
    F.cross_entropy(fast(images), labels).backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save(fast.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert all(value.is_contiguous() for value in saved.values())
    assert {name: value.shape for name, value in saved.items()} == {
        name: value.shape for name, value in textbook.state_dict().items()
    }
    assert list(saved) == list(textbook.state_dict())
    textbook.load_state_dict(saved)
    torch.testing.assert_close(textbook.eval()(images), fast.eval()(images), rtol=1e-4, atol=1e-5)
    again = use_fast_layers(LeNet5(batch_norm))
    again.load_state_dict(textbook.state_dict())
    assert again.eval()(images).equal(fast(images))


def test_a_fast_network_can_be_copied_pickled_and_swapped_again():
    fast = use_fast_layers(LeNet5())
    images, _ = some(2, torch.float32)
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    for other in (copy.deepcopy(fast), torch.load(file, weights_only=False), use_fast_layers(copy.deepcopy(fast))):
        assert {name: type(getattr(other, name)) for name in KINDS} == KINDS
        assert other(images).equal(fast(images))
        assert not {id(p) for p in other.parameters()} & {id(p) for p in fast.parameters()}


def test_a_fast_network_runs_in_processes_and_with_shared_statistics(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fast = use_fast_layers(LeNet5(batch_norm=True))
        images, labels = some(8, torch.float32)
        shared = nn.parallel.DistributedDataParallel(copy.deepcopy(fast))
        for network in (fast, shared):
            F.cross_entropy(network(images), labels).backward()
        close([p.grad for p in shared.module.parameters()], [p.grad for p in fast.parameters()], limit=1e-6)
    finally:
        torch.distributed.destroy_process_group()
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(fast)
    assert sum(isinstance(layer, nn.SyncBatchNorm) for layer in converted.modules()) == 4
    assert {name: type(getattr(converted, name)) for name in KINDS} == KINDS
    converted.eval()(images)


CHANGES = {
    "another size": lambda n: setattr(n, "c1", nn.Conv2d(1, 6, 5, padding=2)),
    "a stride": lambda n: setattr(n, "c3", nn.Conv2d(6, 16, 5, stride=2)),
    "a changed stride": lambda n: setattr(n.c3, "stride", (2, 2)),
    "dilation": lambda n: setattr(n, "c5", nn.Conv2d(16, 120, 5, dilation=2)),
    "groups": lambda n: setattr(n, "c3", nn.Conv2d(6, 16, 5, groups=2)),
    "another padding mode": lambda n: setattr(n, "c3", nn.Conv2d(6, 16, 5, padding_mode="reflect")),
    "padding in words": lambda n: setattr(n, "c3", nn.Conv2d(6, 16, 5, padding="same")),
    "no bias": lambda n: setattr(n, "c1", nn.Conv2d(1, 6, 5, bias=False)),
    "other kernels": lambda n: setattr(n, "c3", nn.Conv2d(6, 16, 3)),
    "more channels": lambda n: setattr(n, "c1", nn.Conv2d(3, 6, 5)),
    "average pooling": lambda n: setattr(n, "s2", nn.AvgPool2d(2)),
    "another pooling": lambda n: setattr(n, "s2", nn.MaxPool2d(2, stride=1)),
    "ceil": lambda n: setattr(n, "s2", nn.MaxPool2d(2, ceil_mode=True)),
    "indices": lambda n: setattr(n, "s2", nn.MaxPool2d(2, return_indices=True)),
    "a subclass": lambda n: setattr(n, "c3", type("Mine", (nn.Conv2d,), {})(6, 16, 5)),
    "lazy": lambda n: setattr(n, "c3", nn.LazyConv2d(16, 5)),
    "pruned": lambda n: prune.l1_unstructured(n.c5, "weight", 0.5),
    "parametrized": lambda n: parametrizations.weight_norm(n.c3),
    "spectral": lambda n: nn.utils.spectral_norm(n.c1),
    "a forward hook": lambda n: n.c1.register_forward_hook(lambda *_: None),
    "a hook on pooling": lambda n: n.s2.register_forward_hook(lambda *_: None),
    "a hook before": lambda n: n.c3.register_forward_pre_hook(lambda *_: None),
    "a backward hook": lambda n: n.c5.register_full_backward_hook(lambda *_: None),
    "a hook before backward": lambda n: n.c5.register_full_backward_pre_hook(lambda *_: None),
    "a hook on the state": lambda n: n.c5.register_state_dict_post_hook(lambda *_: None),
    "a forward of its own": lambda n: setattr(n.c3, "forward", lambda x: nn.Conv2d.forward(n.c3, x)),
    "no such layer": lambda n: delattr(n, "s2"),
    "a layer inside": lambda n: n.c3.add_module("extra", nn.ReLU()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_swap_leaves_all_alone_where_a_layer_is_not_lenets_plain_one(change):
    network = LeNet5()
    CHANGES[change](network)
    before = list(network.named_modules())
    assert use_fast_layers(network) is network
    for (name, layer), (other_name, other) in itertools.zip_longest(before, network.named_modules()):
        assert name == other_name
        assert layer is other


def test_the_swap_leaves_another_network_alone():
    network = nn.Sequential(nn.Conv2d(1, 6, 5), nn.MaxPool2d(2))
    assert use_fast_layers(network) is network
    assert [type(layer) for layer in network] == [nn.Conv2d, nn.MaxPool2d]
