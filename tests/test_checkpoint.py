"""What a checkpoint holds is restored, whatever optimizer, schedule and network made it; and names are found again."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from support.run import checkpoint
from support.run.checkpoint import RunFiles
from support.terminal import UserError

OPTIMIZERS = {
    "SGD": lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.9, nesterov=True),
    "SGD of a whole rate": lambda weights: torch.optim.SGD(weights, 1),
    "Adam": torch.optim.Adam,
    "AdamW": lambda weights: torch.optim.AdamW(weights, amsgrad=True),
    "RMSprop": torch.optim.RMSprop,
    "Adagrad": torch.optim.Adagrad,
    "LBFGS": torch.optim.LBFGS,
}
SCHEDULES = {
    "lambda": lambda optimizer: schedules.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "step": lambda optimizer: schedules.StepLR(optimizer, 2),
    "milestones": lambda optimizer: schedules.MultiStepLR(optimizer, [1, 3]),
    "cosine": lambda optimizer: schedules.CosineAnnealingLR(optimizer, 9),
    "one cycle": lambda optimizer: schedules.OneCycleLR(optimizer, 0.1, total_steps=9, cycle_momentum=False),
    "sequence": lambda optimizer: schedules.SequentialLR(
        optimizer, [schedules.ConstantLR(optimizer), schedules.ExponentialLR(optimizer, 0.5)], [2]
    ),
}


def parts(optimizer: str, schedule: str) -> dict:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    made = OPTIMIZERS[optimizer](network.parameters())
    return {"network": network, "optimizer": made, "scheduler": SCHEDULES[schedule](made)}


def train(network: nn.Module, optimizer: torch.optim.Optimizer, scheduler, steps: int) -> None:
    images = torch.linspace(-1, 1, 15).view(5, 3)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = network(images).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        scheduler.step()


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [*((name, "lambda") for name in OPTIMIZERS), *(("SGD of a whole rate", name) for name in SCHEDULES)],
)
def test_what_goes_on_from_a_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path, optimizer, schedule):
    whole, before, behind = (parts(optimizer, schedule) for _ in range(3))
    train(**whole, steps=5)
    train(**before, steps=3)
    torch.save({name: part.state_dict() for name, part in before.items()}, tmp_path / "a.pt")
    checkpoint.restore(torch.load(tmp_path / "a.pt", weights_only=True), tmp_path / "a.pt", behind)
    train(**behind, steps=2)
    for name, value in whole["network"].state_dict().items():
        assert torch.equal(behind["network"].state_dict()[name], value)
    assert behind["scheduler"].get_last_lr() == whole["scheduler"].get_last_lr()


@pytest.mark.parametrize(("saved", "now"), [("SGD", "Adam"), ("Adam", "SGD"), ("RMSprop", "AdamW"), ("LBFGS", "SGD")])
def test_another_optimizer_is_refused_before_it_trains(saved, now):
    state = {name: part.state_dict() for name, part in parts(saved, "lambda").items()}
    with pytest.raises(UserError, match="its optimizer is not the one of now: it has no"):
        checkpoint.restore(state, Path("a.pt"), parts(now, "lambda"))


def test_the_files_of_a_run_have_its_name():
    run = RunFiles("lenet-x", Path("results"), Path("checkpoints"))
    assert run.checkpoint == Path("checkpoints/lenet-x.pt")
    assert run.weights == Path("checkpoints/lenet-x.weights.pt")
    assert run.result(".json") == Path("results/lenet-x.json")
    assert RunFiles("lenet-v1.5", Path(), Path()).checkpoint == Path("lenet-v1.5.pt"), "a dot is part of a name"


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
