"""The three networks: their sizes, and that they compute what their layers' names say."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model import MODELS, CustomMLP, LeNet5, ThinConv2d, count_parameters, describe

LENET_COUNTS = {"c1": 156, "c3": 2_416, "c5": 48_120, "f6": 10_164, "f7": 850}
MLP_COUNTS = {"f1": 44 * (1024 + 1), "f2": 120 * (44 + 1), "f3": 10_164, "f4": 850}
NORM_COUNTS = {"norm1": 12, "norm3": 32, "norm5": 240, "norm6": 168}


def normalize(x: Tensor, state: dict[str, Tensor], name: str, training: bool) -> Tensor:
    """Batch normalization in its definition: over all axes but the channels'; the biased variance in training."""
    axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
    if training:
        mean, variance = x.mean(axes), x.var(axes, correction=0)
    else:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    x = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
    return x * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(shape)


def plain_lenet(images: Tensor, state: dict[str, Tensor], batch_norm: bool, training: bool) -> Tensor:
    """LeNet-5 layer by layer, in the order of the paper; with batch normalization, this stands behind the pooling."""
    x = images
    for convolution, norm in (("c1", "norm1"), ("c3", "norm3")):
        x = F.conv2d(x, state[f"{convolution}.weight"], state[f"{convolution}.bias"])
        x = F.relu(normalize(F.max_pool2d(x, 2), state, norm, training)) if batch_norm else F.max_pool2d(F.relu(x), 2)
    x = x.flatten(1)
    for layer, norm in (("c5", "norm5"), ("f6", "norm6")):
        x = x @ state[f"{layer}.weight"].flatten(1).T + state[f"{layer}.bias"]  # C5's kernels see the whole of S4
        x = F.relu(normalize(x, state, norm, training) if batch_norm else x)
    return x @ state["f7.weight"].T + state["f7.bias"]


def plain_mlp(images: Tensor, state: dict[str, Tensor]) -> Tensor:
    x = images.flatten(1)
    for layer in ("f1", "f2", "f3"):
        x = x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        x = x * torch.sigmoid(x)  # SiLU
    return x @ state["f4.weight"].T + state["f4.bias"]


def trained_looking(model: torch.nn.Module) -> torch.nn.Module:
    """The model with every parameter and statistic away from its first value, so that a wrong one would show."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var") or (name.startswith("norm") and name.endswith("weight")):
                value.uniform_(0.5, 1.5)
            elif name.endswith("running_mean") or name.endswith("bias"):
                value.normal_(0, 0.2)
    return model


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "total", "counts"),
    [
        ("lenet", 61_706, LENET_COUNTS),
        ("mlp", 61_514, MLP_COUNTS),
        ("lenet_bn", 62_158, LENET_COUNTS | NORM_COUNTS),
    ],
)
def test_parameter_counts(name, total, counts):
    model = MODELS[name]()
    found = {layer: count_parameters(child) for layer, child in model.named_children() if count_parameters(child)}
    assert found == counts
    assert count_parameters(model) == total == sum(counts.values())


def test_the_mlp_is_within_half_a_per_cent_of_lenets_size():
    assert abs(count_parameters(CustomMLP()) / count_parameters(LeNet5()) - 1) < 0.004


def test_only_trainable_parameters_are_counted():
    model = LeNet5()
    model.c5.weight.requires_grad_(False)
    assert count_parameters(model) == 61_706 - 48_000


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [1, 2, 17])
def test_any_batch_gives_finite_logits(name, batch):
    model = MODELS[name]().eval()
    logits = model(torch.randn(batch, 1, 32, 32))
    assert logits.shape == (batch, 10)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert (logits.sum(1) - 1).abs().min() > 1e-3, "logits, not probabilities"


@pytest.mark.parametrize("name", MODELS)
def test_an_images_logits_do_not_depend_on_its_neighbours_in_evaluation_mode(name):
    model = trained_looking(MODELS[name]()).eval()
    images = torch.randn(5, 1, 32, 32)
    torch.testing.assert_close(model(images)[3:4], model(images[3:4]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_lenet_is_its_layers(batch_norm, training, memory_format):
    model = trained_looking(LeNet5(batch_norm)).train(training).to(memory_format=memory_format)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: state[name].requires_grad_() for name, _ in model.named_parameters()}
    images, labels = torch.randn(12, 1, 32, 32), torch.randint(0, 10, (12,))
    ours, reference = model(images), plain_lenet(images, state, batch_norm, training)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)

    F.cross_entropy(ours, labels).backward()
    F.cross_entropy(reference, labels).backward()
    for name, parameter in model.named_parameters():
        # a bias that batch normalization takes away again has a gradient of nothing but rounding: hence atol
        torch.testing.assert_close(
            parameter.grad, weights[name].grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: n + m
        )


def test_lenet_gets_the_gradient_with_respect_to_the_images_right():
    model = trained_looking(LeNet5())
    images = torch.randn(3, 1, 32, 32, requires_grad=True)
    (ours,) = torch.autograd.grad(model(images).square().sum(), images)
    (reference,) = torch.autograd.grad(plain_lenet(images, model.state_dict(), False, True).square().sum(), images)
    torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "outputs", "size"), [((2, 6, 14, 14), 16, 5), ((3, 1, 7, 10), 2, 3), ((1, 4, 6, 4), 5, 1)]
)
def test_a_thin_convolution_is_a_convolution(inputs, outputs, size):
    layer, images = ThinConv2d(inputs[1], outputs, size), torch.randn(inputs, requires_grad=True)
    ours, reference = layer(images), F.conv2d(images, layer.weight, layer.bias)
    torch.testing.assert_close(ours, reference)
    gradient, at = torch.randn_like(reference), (images, layer.weight, layer.bias)
    for found, expected in zip(*(torch.autograd.grad(y, at, gradient) for y in (ours, reference)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_mlp_is_its_layers():
    model = trained_looking(CustomMLP())
    images = torch.randn(7, 1, 32, 32)
    torch.testing.assert_close(model(images), plain_mlp(images, model.state_dict()), rtol=1e-4, atol=1e-5)


def test_batch_norm_keeps_running_statistics_in_training_and_leaves_them_alone_in_evaluation():
    model, images = LeNet5(batch_norm=True), torch.randn(64, 1, 32, 32)
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    assert len(before) == 8
    model.eval()(images)
    assert all(model.state_dict()[name].equal(value) for name, value in before.items())
    model.train()(images)
    assert not any(model.state_dict()[name].equal(value) for name, value in before.items())


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_gives_the_same_first_weights(name):
    torch.manual_seed(3)
    first = MODELS[name]().state_dict()
    torch.manual_seed(3)
    again = MODELS[name]().state_dict()
    assert all(first[key].equal(again[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_the_table_of_layers(name):
    model = MODELS[name]().train()
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    header, *rows, total = describe(model).splitlines()
    assert header.split() == ["layer", "kind", "output", "params"]
    assert len({len(row) for row in (header, *rows, total)}) == 1, "aligned"

    shapes = {"f7": "10", "f4": "10", "f6": "84", "norm6": "84", "c3": "16x10x10", "norm3": "16x5x5", "f1": "44"}
    counts = {}
    for row in rows:
        layer, kind, shape, count = row.split()
        assert kind == type(getattr(model, layer)).__name__
        assert shape == shapes.get(layer, shape)
        counts[layer] = int(count.replace(",", ""))
    assert counts == {n: count_parameters(layer) for n, layer in model.named_children() if count_parameters(layer)}
    assert int(total.split()[1].replace(",", "")) == sum(counts.values()) == count_parameters(model)

    assert model.training, "as it was"
    assert all(model.state_dict()[key].equal(value) for key, value in statistics.items()), "as they were"


def test_the_table_is_in_the_order_in_which_an_image_passes():
    rows = describe(LeNet5(batch_norm=True)).splitlines()[1:-1]
    assert [row.split()[0] for row in rows] == ["c1", "norm1", "c3", "norm3", "c5", "norm5", "f6", "norm6", "f7"]
