"""Commands, above all runs of `main.py`, in the tests' own process, on few digits: what they printed and left."""

import contextlib
import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import main
from dataset import MNIST
from support.data import write_tar
from support.run import Callback

NAME = "mine"


class Ended(NamedTuple):
    """How a command line ended: exit status, and what it printed to stdout and stderr."""

    status: int
    out: str
    err: str


def command(folder: Path, data: Path, *options: str) -> list[str]:
    """An MLP for two epochs under NAME, all files below `folder`, unless the options say another."""
    places = ["--output-dir", str(folder / "results"), "--checkpoint-dir", str(folder / "checkpoints")]
    argv = ["--model", "mlp", "--epochs", "2", "--data-dir", str(data), "--device", "cpu", "--name", NAME]
    return [*argv, *places, *options]


def ended(action: Callable[..., object], *arguments: object) -> Ended:
    """What a command's `main` comes to."""
    status = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            action(*arguments)
        except SystemExit as leave:
            status = leave.code
    return Ended(status, out.getvalue(), err.getvalue())


def start(folder: Path, data: Path, *options: str, callback: Callback | None = None) -> Ended:
    return ended(main.main, command(folder, data, *options), callback or Callback())


def refused(ended: Ended, status: int = 2) -> str:
    """The error: one or two lines behind `error: `, and no traceback."""
    assert ended.status == status, ended
    assert ended.err.startswith("error: ")
    assert len(ended.err.splitlines()) <= 2, ended.err
    return ended.err


def history_of(folder: Path) -> dict:
    return json.loads((folder / "results" / f"{NAME}.json").read_text())


def checkpoint_of(folder: Path, name: str = NAME) -> Path:
    return folder / "checkpoints" / f"{name}.pt"


class After(Callback):
    """Acts after that epoch, before its checkpoint is written."""

    def __init__(self, epoch: int, act: Callable[[], object]) -> None:
        self.epochs, self.act = epoch, act

    def on_epoch_end(self, *_: object) -> None:
        self.epochs -= 1
        if self.epochs == 0:
            self.act()


def interrupt(number: int = signal.SIGINT) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def cheap_picture(patch: pytest.MonkeyPatch) -> None:
    """In place of the picture, which takes longer than training on a few images, what it is drawn from."""
    patch.setattr(main.plot, "draw_run", lambda history: history["test_loss"])
    patch.setattr(main.plot, "save", lambda losses, file, digest: file.write(json.dumps([losses, digest]).encode()))


def first_images(source: Path, folder: Path, train: int, test: int) -> Path:
    """A folder with train.tar and test.tar: so many of the first images of the archives in another one."""
    folder.mkdir()
    for split, count in (("train", train), ("test", test)):
        whole = MNIST(next(source.glob(f"{split}.tar*")))
        write_tar(folder / f"{split}.tar", split, whole.images[:count], whole.labels[:count])
    return folder
