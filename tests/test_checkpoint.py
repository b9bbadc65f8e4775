"""What a checkpoint holds is restored, whatever optimizer and schedule made it; what is not one is refused."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from support.run import checkpoint
from support.terminal import UserError

OPTIMIZERS = {
    "SGD": lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.9, nesterov=True),
    "SGD of a whole rate": lambda weights: torch.optim.SGD(weights, 1),
    "Adam": torch.optim.Adam,
    "AdamW": lambda weights: torch.optim.AdamW(weights, amsgrad=True),
    "RMSprop": torch.optim.RMSprop,
}
SCHEDULES = {
    "lambda": lambda optimizer: schedules.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "one cycle": lambda optimizer: schedules.OneCycleLR(optimizer, 0.1, total_steps=9, cycle_momentum=False),
    "sequence": lambda optimizer: schedules.SequentialLR(
        optimizer, [schedules.ConstantLR(optimizer), schedules.ExponentialLR(optimizer, 0.5)], [2]
    ),
}


def parts(optimizer: str = "SGD", schedule: str = "lambda", width: int = 4) -> dict:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    made = OPTIMIZERS[optimizer](network.parameters())
    return {"network": network, "optimizer": made, "scheduler": SCHEDULES[schedule](made)}


def train(network: nn.Module, optimizer: torch.optim.Optimizer, scheduler, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.linspace(-1, 1, 15).view(5, 3)).square().mean().backward()
        optimizer.step()
        scheduler.step()


def states(parts: dict) -> dict:
    return {name: part.state_dict() for name, part in parts.items()}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [*((name, "lambda") for name in OPTIMIZERS), *(("SGD of a whole rate", name) for name in SCHEDULES)],
)
def test_what_goes_on_from_a_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path, optimizer, schedule):
    whole, before, behind = (parts(optimizer, schedule) for _ in range(3))
    train(**whole, steps=5)
    train(**before, steps=3)
    torch.save(states(before), tmp_path / "a.pt")
    checkpoint.restore(torch.load(tmp_path / "a.pt", weights_only=True), tmp_path / "a.pt", behind)
    train(**behind, steps=2)
    for name, value in whole["network"].state_dict().items():
        assert torch.equal(behind["network"].state_dict()[name], value)
    assert behind["scheduler"].get_last_lr() == whole["scheduler"].get_last_lr()


@pytest.mark.parametrize("part", ["network", "scheduler", "optimizer"])
def test_a_part_that_is_damaged_is_named(part):
    state = states(parts())
    state[part] = {"network": {}, "scheduler": 3, "optimizer": {"state": {}, "param_groups": []}}[part]
    with pytest.raises(UserError, match=f"its {part} is not the one of now"):
        checkpoint.restore(state, Path("a.pt"), parts())


@pytest.mark.parametrize("read", [checkpoint.read_checkpoint, checkpoint.read_weights])
@pytest.mark.parametrize("kind", ["missing", "folder", "text", "pickle", "tensor", "empty dictionary"])
def test_what_is_no_checkpoint_and_no_weights_is_an_error_of_two_lines(tmp_path, read, kind):
    path = tmp_path / "a\x1b.pt"
    contents = {"pickle": 3, "tensor": torch.zeros(2), "empty dictionary": {}}
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no checkpoint")
    elif kind in contents:
        torch.save(contents[kind], path)
    with pytest.raises(UserError) as error:
        read(path)
    assert len(str(error.value).splitlines()) <= 2
    assert str(error.value).startswith(str(tmp_path / "a\\x1b.pt"))


def test_a_digest_of_a_network_is_of_its_layers_and_shapes_and_not_of_its_values():
    digest = checkpoint.network_sha256(
        nn.Sequential(nn.Conv2d(1, 3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 28 * 28, 10))
    )
    same = nn.Sequential(nn.Conv2d(1, 3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 28 * 28, 10))
    assert checkpoint.network_sha256(same) == digest
    for other in (nn.Conv2d(1, 3, 5, padding=2), nn.Conv2d(1, 4, 5), nn.Conv2d(1, 3, 5, bias=False)):
        changed = nn.Sequential(other, *list(same)[1:])
        assert checkpoint.network_sha256(changed) != digest
    assert checkpoint.network_sha256(nn.Sequential(same[0], nn.Tanh(), *list(same)[2:])) != digest
