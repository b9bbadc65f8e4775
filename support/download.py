"""Where the data lie, and the download of MNIST."""

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from support import files
from support.archive import DataError, write_tar
from support.container import reason

STALLED = 10  # seconds in which a download may bring nothing before it is given up
SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample"
SPLITS = ("train", "test")


class Source(NamedTuple):
    """train, test: what `read_images` takes. folder: where they lie. found: what was taken. why_sample: None or why."""

    train: Path
    test: Path
    folder: Path
    found: str
    why_sample: str | None


def find_data(data_dir: str | Path | None) -> Source:
    """The folder of train.tar and test.tar, and why it is the bundled sample, if it is (None: it is not).

    data_dir: the folder that the user named, taken as it is; or None: `data`, where MNIST is downloaded to if it is
    not there yet, and else the sample. Raises DataError.
    """
    folder = Path("data" if data_dir is None else data_dir)
    missing = [path for path in _tars(folder) if not os.path.exists(path)]
    if not missing:
        return _source(folder, "it was asked for" if folder.resolve() == SAMPLE else None)
    if data_dir is not None or len(missing) == 1:
        raise DataError(
            f"{missing[0]}: not found; expected train.tar and test.tar in {folder}\n"
            "put both there, or remove both and leave --data-dir out: MNIST is then downloaded to data/"
        )
    try:
        download(folder)
    except ConnectionError as error:
        return _source(SAMPLE, f"MNIST is not in {folder} and could not be downloaded ({error})")
    return _source(folder, None)


def download(folder: Path) -> None:
    """Download MNIST by torchvision and write train.tar and test.tar into `folder`, both or none.

    Raises ConnectionError if no mirror gives the four files with the right MD5 sums, or nothing arrives for STALLED
    seconds; DataError if `folder` cannot be written, or another process is at it.
    """
    temporary = folder / f".download{files.TEMPORARY}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.lock(folder / ".download.lock"):
            if any(path.exists() for path in _tars(folder)):
                return  # another process was faster, and nothing is ever replaced
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed download
            try:
                temporary.mkdir()
                for path, data in zip(_tars(temporary), _fetch(temporary), strict=True):
                    write_tar(path, path.stem, data.data, data.targets)
                _move_all(_tars(temporary), _tars(folder))
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except files.RunningError:
        raise DataError(f"{folder}: another process is downloading MNIST there; wait for it") from None
    except ConnectionError:
        raise
    except OSError as error:
        raise DataError(f"{folder}: MNIST cannot be written there: {reason(error)}") from None


def _tars(folder: Path) -> list[Path]:
    return [folder / f"{split}.tar" for split in SPLITS]


def _move_all(sources: list[Path], targets: list[Path]) -> None:
    """Rename files to names that nothing has yet, all or none of them."""
    try:
        for source, target in zip(sources, targets, strict=True):
            os.replace(source, target)
    except BaseException:
        for target in targets:
            target.unlink(missing_ok=True)
        raise


def _fetch(folder: Path) -> list[Any]:
    """torchvision's MNIST, train and test, downloaded below `folder`. Raises ConnectionError.

    torchvision sets no time limit, so it works in a thread that is left behind once nothing arrives any more.
    """
    from torchvision import datasets  # here, because it takes a second and only a download needs it

    resources = list(datasets.MNIST.resources)
    fetched: list[Any] = []
    failures: list[str] = []

    def work() -> None:
        for mirror in datasets.MNIST.mirrors:
            # one at a time: torchvision goes on to the next mirror after a wrong checksum, but not after a broken line
            source = type("MNIST", (datasets.MNIST,), {"mirrors": [mirror], "resources": resources})
            try:
                fetched.extend([source(folder, train=True, download=True), source(folder, train=False)])
            except Exception as error:
                failures.append(f"{mirror}: {reason(error).strip().splitlines()[-1]}")
            else:
                return

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    arrived, since = 0, time.monotonic()
    while worker.is_alive():
        worker.join(0.2)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if size != arrived:
            arrived, since = size, time.monotonic()
        elif time.monotonic() - since > STALLED:
            resources.clear()  # the thread finds nothing more to do, should it ever wake up
            raise ConnectionError(f"nothing arrived for {STALLED} s")
    if not fetched:
        raise ConnectionError("; ".join(failures))
    return fetched


def _source(folder: Path, why: str | None) -> Source:
    train, test = _tars(folder)
    return Source(train, test, folder, f"train.tar and test.tar in {folder.resolve()}", why)
