"""The three networks: their sizes, what they compute, what PyTorch can do with them, and the table of layers."""

import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters
from torch.utils.flop_counter import FlopCounterMode

from model import MODELS, CustomMLP, LeNet5, count_parameters
from support.compute.layer_table import describe

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
        x = F.relu(x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"])
    return x @ state["f4.weight"].T + state["f4.bias"]


def trained_looking(model: nn.Module) -> nn.Module:
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


@pytest.mark.parametrize("name", MODELS)
def test_a_class_more_is_85_parameters_and_a_logit_more(name):
    model = MODELS[name](classes=26).eval()
    assert count_parameters(model) == count_parameters(MODELS[name]()) + 16 * 85
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 26)


@pytest.mark.parametrize("name", MODELS)
def test_the_registered_networks_can_be_pickled(name):
    assert count_parameters(pickle.loads(pickle.dumps(MODELS[name]))()) == count_parameters(MODELS[name]())


@pytest.mark.parametrize("name", ["lenet", "lenet_bn"])
def test_lenets_layers_are_those_of_pytorch_under_the_papers_names(name):
    kinds = {key: type(layer) for key, layer in MODELS[name]().named_children() if not isinstance(layer, nn.Identity)}
    norms = {"norm1": nn.BatchNorm2d, "norm3": nn.BatchNorm2d, "norm5": nn.BatchNorm1d, "norm6": nn.BatchNorm1d}
    lenet = {"c1": nn.Conv2d, "s2": nn.MaxPool2d, "c3": nn.Conv2d, "s4": nn.MaxPool2d, "c5": nn.Conv2d}
    assert kinds == lenet | {"f6": nn.Linear, "f7": nn.Linear} | (norms if name == "lenet_bn" else {})


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_is_contiguous(name):
    assert all(value.is_contiguous() for value in MODELS[name]().state_dict().values())


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


@pytest.mark.parametrize("name", ["lenet", "lenet_bn"])
def test_lenets_weights_are_drawn_in_the_order_of_the_layers(name):
    model = MODELS[name]()
    torch.manual_seed(0)
    for layer in (model.c1, model.c3, model.c5, model.f6, model.f7):
        kind = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
        sizes = layer.weight.shape[1::-1] if kind is nn.Linear else (*layer.weight.shape[1::-1], 5)
        assert layer.weight.equal(kind(*sizes).weight)


# what people do with a network, and must find to work


def in_double(model: nn.Module) -> dict[str, Tensor]:
    """The weights in double precision, for `plain_lenet` as a reference."""
    return {name: value.detach().double().requires_grad_() for name, value in model.named_parameters()}


def some(batch: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 1, 32, 32), torch.randint(0, 10, (batch,))


def learnable(batch: int) -> tuple[Tensor, Tensor]:
    """Noise with a bright bar whose place tells the label."""
    images, labels = some(batch)
    images[torch.arange(batch), 0, 5 + 2 * labels] += 4
    return images, labels


def test_hessian_vector_products_are_right():
    model, (images, labels) = trained_looking(MODELS["lenet"]()), some()
    state = in_double(model)
    vectors = [torch.randn_like(parameter) for parameter in model.parameters()]

    def product(logits: Tensor, at: list[Tensor]) -> list[Tensor]:
        gradients = torch.autograd.grad(F.cross_entropy(logits, labels), at, create_graph=True)
        slope = sum((g * v.to(g)).sum() for g, v in zip(gradients, vectors, strict=True))
        return torch.autograd.grad(slope, at)

    ours = product(model(images), list(model.parameters()))
    reference = product(plain_lenet(images.double(), state, False, True), list(state.values()))
    for found, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_a_gradient_penalty_has_the_right_gradient():
    model, (images, _) = trained_looking(MODELS["lenet"]()), some()
    state = in_double(model)
    at = images.clone().requires_grad_(), images.double().requires_grad_()
    for logits, x in ((model(at[0]), at[0]), (plain_lenet(at[1], state, False, True), at[1])):
        (gradient,) = torch.autograd.grad(logits.square().sum(), x, create_graph=True)
        (gradient.flatten(1).norm(dim=1) - 1).square().mean().backward()
    for name, parameter in model.named_parameters():
        expected = state[name].grad
        limit = 1e-3 * expected.abs().max().item()
        torch.testing.assert_close(parameter.grad.double(), expected, rtol=1e-3, atol=limit)


@pytest.mark.parametrize("name", ["c1.bias", "c3.bias", "c5.bias"])
def test_a_hessian_is_right(name):
    model, (images, labels) = trained_looking(MODELS["lenet"]()), some()
    state = in_double(model)

    def ours(value: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, {name: value}, (images,)), labels)

    def reference(value: Tensor) -> Tensor:
        return F.cross_entropy(plain_lenet(images.double(), state | {name: value}, False, True), labels)

    found = torch.autograd.functional.hessian(ours, model.get_parameter(name).detach())
    expected = torch.autograd.functional.hessian(reference, state[name].detach())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("name", MODELS)
def test_second_derivatives_pass_pytorchs_own_check(name):
    model = trained_looking(MODELS[name]()).double()
    images = torch.randn(3, 1, 32, 32, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(model, images, fast_mode=True)


@pytest.mark.parametrize("name", MODELS)
def test_networks_train_under_autocast(name):
    model, (images, labels) = MODELS[name](), learnable(64)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
            loss = F.cross_entropy(logits.float(), labels)
        assert logits.dtype == torch.bfloat16
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def loss_of(weights: dict[str, Tensor], model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(torch.func.functional_call(model, weights, (images,)), labels)


@pytest.mark.parametrize("name", MODELS)
def test_func_grad_gives_the_gradients_of_backward(name):
    model, (images, labels) = MODELS[name]().eval(), some()
    found = torch.func.grad(loss_of)(dict(model.named_parameters()), model, images, labels)
    F.cross_entropy(model(images), labels).backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(found[key], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_vmap_runs_an_ensemble(name):
    models, (images, _) = [trained_looking(MODELS[name]()).eval() for _ in range(3)], some()
    weights, buffers = torch.func.stack_module_state(models)
    found = torch.func.vmap(lambda w, b: torch.func.functional_call(models[0], (w, b), (images,)))(weights, buffers)
    torch.testing.assert_close(found, torch.stack([model(images) for model in models]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_vmap_gives_each_samples_gradients(name):
    model, (images, labels) = MODELS[name]().eval(), some(4)
    weights = {key: parameter.detach() for key, parameter in model.named_parameters()}
    each = torch.func.vmap(torch.func.grad(loss_of), (None, None, 0, 0))
    found = each(weights, model, images[:, None], labels[:, None])
    for i in range(len(images)):
        model.zero_grad()
        F.cross_entropy(model(images[i : i + 1]), labels[i : i + 1]).backward()
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(found[key][i], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["lenet", "lenet_bn"])
def test_weights_can_be_pruned(name):
    model, (images, labels) = MODELS[name](), some()
    for layer in (model.c1, model.c3, model.c5, model.f6):
        prune.l1_unstructured(layer, "weight", amount=0.5)
    F.cross_entropy(model(images), labels).backward()
    for layer in (model.c1, model.c3, model.c5, model.f6):
        prune.remove(layer, "weight")
        assert (layer.weight == 0).sum() == layer.weight.numel() // 2
    assert count_parameters(model) == count_parameters(MODELS[name]())


@pytest.mark.parametrize("name", MODELS)
def test_weights_become_a_vector_and_come_back(name):
    model, other = MODELS[name](), MODELS[name]()
    vector_to_parameters(parameters_to_vector(model.parameters()), other.parameters())
    assert all(p.equal(q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_lbfgs_lowers_the_loss(name):
    model, (images, labels) = MODELS[name](), learnable(64)
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    before = closure().item()
    optimizer.step(closure)
    assert closure().item() < 0.5 * before


@pytest.mark.parametrize("name", MODELS)
def test_weights_can_be_initialized_orthogonally(name):
    model = MODELS[name]()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.orthogonal_(parameter)
            rows = parameter.detach().flatten(1)
            product = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
            torch.testing.assert_close(product, torch.eye(len(product)), rtol=0, atol=1e-5)
    assert model(torch.randn(2, 1, 32, 32)).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_fx_traces_the_layers(name):
    model, images = trained_looking(MODELS[name]()).eval(), torch.randn(3, 1, 32, 32)
    traced = torch.fx.symbolic_trace(model)
    called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert called == {key for key, _ in model.named_children()}
    assert traced(images).equal(model(images))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_a_traced_network_can_be_saved_and_loaded_and_takes_other_batches(name):
    model, images = trained_looking(MODELS[name]()).eval(), torch.randn(5, 1, 32, 32)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, images[:2]), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(images), model(images))


def test_the_multiplications_of_every_layer_are_counted():
    model = MODELS["lenet"]()
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 1, 32, 32))
    counts = {name: sum(count.values()) for name, count in counter.get_flop_counts().items()}
    multiplications = {"c1": 28 * 28 * 6 * 25, "c3": 10 * 10 * 16 * 150, "c5": 48_000, "f6": 120 * 84, "f7": 840}
    assert {name: counts[f"LeNet5.{name}"] for name in multiplications} == {
        name: 2 * 2 * count
        for name, count in multiplications.items()  # 2 images; an addition to each multiplication
    }


def test_hooks_see_the_maps_of_each_layer():
    model, seen = MODELS["lenet"](), {}
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: seen.update({name: output.shape[1:]}))
    model(torch.randn(2, 1, 32, 32))
    maps = {"c1": (6, 28, 28), "s2": (6, 14, 14), "c3": (16, 10, 10), "s4": (16, 5, 5), "c5": (120, 1, 1)}
    assert {name: seen[name] for name in maps} == maps


# the table of layers


def table(model: nn.Module) -> tuple[list[list[str]], int]:
    """The rows of the table, each split into its cells, and the total."""
    header, *rows, total = describe(model).splitlines()
    assert header.split() == ["layer", "kind", "output", "params"]
    assert len({len(row) for row in (header, *rows, total)}) == 1, "aligned"
    assert total.split()[0] == "total"
    return [row.split() for row in rows], int(total.split()[1].replace(",", ""))


def test_the_table_of_lenet():
    assert table(MODELS["lenet"]()) == (
        [
            ["c1", "Conv2d", "6x28x28", "156"],
            ["s2", "MaxPool2d", "6x14x14", "0"],
            ["c3", "Conv2d", "16x10x10", "2,416"],
            ["s4", "MaxPool2d", "16x5x5", "0"],
            ["c5", "Conv2d", "120x1x1", "48,120"],
            ["f6", "Linear", "84", "10,164"],
            ["f7", "Linear", "10", "850"],
        ],
        61_706,
    )


def test_the_table_is_in_the_order_in_which_an_image_passes():
    rows, _ = table(LeNet5(batch_norm=True))
    assert " ".join(row[0] for row in rows) == "c1 s2 norm1 c3 s4 norm3 c5 norm5 f6 norm6 f7"


@pytest.mark.parametrize("name", MODELS)
def test_the_table_counts_what_the_network_has(name):
    rows, total = table(MODELS[name](classes=26))
    assert total == sum(int(row[3].replace(",", "")) for row in rows) == count_parameters(MODELS[name](classes=26))


def test_the_table_leaves_modes_statistics_and_hooks_as_they_were():
    model = LeNet5(batch_norm=True).train()
    model.norm3.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    describe(model)
    assert [name for name, layer in model.named_modules() if not layer.training] == ["norm3"]
    assert all(model.state_dict()[key].equal(value) for key, value in before.items())
    assert not any(layer._forward_hooks for layer in model.modules())


class Counting(nn.Module):
    """It changes two buffers whenever it is called: one in place, one by another tensor in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.layer = nn.Linear(1024, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + x.mean() + 1
        return self.layer(x.flatten(1))


def test_the_table_puts_back_buffers_that_change_at_every_call():
    model = Counting()
    describe(model)
    assert model.calls == 0
    assert model.mean == 0


def test_the_table_leaves_all_as_it_was_where_a_network_fails():
    model = nn.Sequential(nn.Dropout(), nn.Linear(7, 3)).train()
    with pytest.raises(RuntimeError, match="shape"):
        describe(model)
    assert all(layer.training and not layer._forward_hooks for layer in model.modules())


def test_the_table_of_lazy_layers_gives_them_their_shapes():
    model = nn.Sequential(nn.LazyConv2d(4, 5), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))
    rows, total = table(model)
    assert [row[1:3] for row in rows][::3] == [["Conv2d", "4x28x28"], ["Linear", "10"]]
    assert total == count_parameters(model) == 104 + 8 + 31_370
    assert model[1].running_var.equal(torch.ones(4))


def test_the_table_names_layers_inside_of_blocks():
    block = nn.Sequential(nn.Conv2d(1, 2, 5), nn.ReLU())
    rows, _ = table(nn.Sequential(nn.ModuleDict({"a": block})["a"], nn.Flatten(), nn.Linear(2 * 28 * 28, 3)))
    assert [row[0] for row in rows] == ["0.0", "0.1", "1", "2"]


class Unusual(nn.Module):
    """A parameter of its own, a layer called twice, several outputs, a layer never called, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.unused = nn.Linear(5, 5)
        self.first = nn.Linear(1024, 8)
        self.twice = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.twice.weight
        self.recurrent = nn.GRU(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.tied(self.twice(self.twice(self.first(x.flatten(1)))))
        sequence, _ = self.recurrent(x[None])
        return {"logits": sequence[0, :, :3] * self.scale, "norm": x.norm(dim=1)}


def test_the_table_of_an_unusual_network():
    model = Unusual()
    rows, total = table(model)
    first, gru = 1024 * 8 + 8, 3 * 4 * (8 + 4 + 2)
    names = ["first", "twice", "twice", "tied", "recurrent", "model", "unused"]
    assert [row[0] for row in rows] == names
    assert [int(row[-1].replace(",", "")) for row in rows] == [first, 72, 0, 8, gru, 3, 30]
    assert rows[-2][2:4] == ["3", "1"], "the shapes of both outputs"
    assert rows[-1][2] == "-"
    assert total == count_parameters(model)


def test_the_table_of_a_network_without_parameters():
    assert table(nn.Sequential(nn.Flatten(), nn.Softmax(1))) == (
        [["0", "Flatten", "1024", "0"], ["1", "Softmax", "1024", "0"]],
        0,
    )


def test_the_table_of_a_network_in_double_precision_with_frozen_layers():
    model = MODELS["lenet"]().double()
    model.c1.requires_grad_(False)
    rows, total = table(model)
    assert rows[0] == ["c1", "Conv2d", "6x28x28", "0"]
    assert total == 61_706 - 156
