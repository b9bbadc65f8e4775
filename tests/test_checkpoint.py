"""What a checkpoint holds is restored, whatever optimizer and schedule made it; what is not one is refused."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from support import files
from support.run import checkpoint
from support.terminal import UserError


def parts(optimizer: type[torch.optim.Optimizer] = torch.optim.Adam) -> dict:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    made = optimizer(network.parameters(), 0.1)
    schedule = schedules.SequentialLR(made, [schedules.ConstantLR(made), schedules.ExponentialLR(made, 0.5)], [2])
    return {"network": network, "optimizer": made, "scheduler": schedule}


def train(network: nn.Module, optimizer: torch.optim.Optimizer, scheduler, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.linspace(-1, 1, 15).view(5, 3)).square().mean().backward()
        optimizer.step()
        scheduler.step()


def states(parts: dict) -> dict:
    return {name: part.state_dict() for name, part in parts.items()}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_what_goes_on_from_a_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path):
    whole, before, behind = parts(), parts(), parts()
    train(**whole, steps=5)
    train(**before, steps=3)
    torch.save(states(before), tmp_path / "a.pt")
    checkpoint.restore(torch.load(tmp_path / "a.pt", weights_only=True), tmp_path / "a.pt", behind)
    train(**behind, steps=2)
    for name, value in whole["network"].state_dict().items():
        assert torch.equal(behind["network"].state_dict()[name], value)
    assert behind["scheduler"].get_last_lr() == whole["scheduler"].get_last_lr()


def test_a_part_that_does_not_fit_is_named_before_it_trains():
    another = states(parts(torch.optim.SGD))["optimizer"]
    for name, changed in {"optimizer": {"state": {}, "param_groups": []}, "network": {}, "scheduler": 3}.items():
        with pytest.raises(UserError, match=f"a.pt: its {name} is not the one of now"):
            checkpoint.restore(states(parts()) | {name: changed}, Path("a.pt"), parts())
    with pytest.raises(UserError, match=r"its optimizer is not .*: it is that of another.*\n.*--restart"):
        checkpoint.restore(states(parts()) | {"optimizer": another}, Path("a.pt"), parts())


class Malicious:
    """Unpickling this makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


WRONG = {
    "missing": lambda path: None,
    "fifo": os.mkfifo,
    "text": lambda path: path.write_text("no checkpoint"),
    "malicious": lambda path: torch.save({"history": Malicious()}, path),
    "empty": lambda path: torch.save({}, path),
    "large": lambda path: torch.save(torch.zeros(10_000), path),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_checkpoint_is_an_error_of_a_line_and_never_executed(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "MAX_UNPACKED", 10_000)
    WRONG[kind](path := Path("a\x1b.pt"))
    said = {"fifo": "regular file", "large": "more than 10,000"}.get(kind, "")
    with pytest.raises(UserError, match=rf"^a\\x1b.pt: cannot be read: .*{said}.*; expected NAME.weights.pt[^\n]+$"):
        checkpoint.read_weights(path)
    assert not Path("executed").exists()


def test_a_digest_of_a_network_is_of_its_layers_and_shapes_and_not_of_its_values():
    def digest(convolution: nn.Module, activation: type[nn.Module] = nn.ReLU) -> str:
        return checkpoint.network_sha256(nn.Sequential(convolution, activation(), nn.Flatten(), nn.Linear(2352, 10)))

    layers = [nn.Conv2d(1, 3, 5, padding=2), nn.Conv2d(1, 4, 5), *(nn.Conv2d(1, 3, 5) for _ in "ab")]
    for size, layer in enumerate(layers[2:]):
        layer.register_buffer("unseen", torch.zeros(size))
    assert digest(nn.Conv2d(1, 3, 5)) == digest(nn.Conv2d(1, 3, 5))
    assert len({digest(nn.Conv2d(1, 3, 5)), digest(nn.Conv2d(1, 3, 5), nn.Tanh), *map(digest, layers)}) == 6
