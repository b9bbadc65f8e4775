"""What a checkpoint holds is only restored into what it is of; what is not one is refused."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from support import files
from support.run import checkpoint
from support.terminal import UserError


def parts(optimizer: type[torch.optim.Optimizer] = torch.optim.Adam) -> dict:
    network = nn.Linear(3, 1)
    made = optimizer(network.parameters(), 0.1)
    return {"network": network, "optimizer": made, "scheduler": LambdaLR(made, lambda step: 1.0)}


def states(parts: dict) -> dict:
    return {name: part.state_dict() for name, part in parts.items()}


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
    said = {"missing": "No such file", "fifo": "regular file", "large": "more than 10,000"}.get(kind, "")
    with pytest.raises(UserError, match=rf"^a\\x1b.pt: cannot be read: .*{said}.*; expected NAME.weights.pt[^\n]+$"):
        checkpoint.read_weights(path)
    assert not Path("executed").exists()


def test_a_digest_of_a_network_is_of_its_layers_and_shapes_and_not_of_its_values():
    def digest(padding: int = 0, unseen: int = 0) -> str:
        network = nn.Conv2d(1, 3, 5, padding=padding)
        network.register_buffer("unseen", torch.zeros(unseen))
        return checkpoint.network_sha256(network)

    assert digest() == digest()
    assert len({digest(), digest(padding=2), digest(unseen=1)}) == 3
