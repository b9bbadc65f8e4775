"""Where the data lie, and the download of MNIST to there. Knows nothing of pixels."""

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support import files
from support.data import idx
from support.data.container import Container, reason, what_is
from support.data.images import DataError, read_images, write_tar
from support.terminal import printable

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = ROOT / "data" / "sample"
SPLITS = ("train", "test")

STALLED = 10  # seconds in which a download must bring SLOWEST bytes each, or it is given up
SLOWEST = 1_000  # bytes a second, a third of what a modem brought: MNIST's 11.6 MB would take three hours
MAX_FILE = 64 * 1024 * 1024  # bytes; the largest of MNIST's four files has 9.9 million
POLL = 0.2  # seconds between two looks at a lock

LISTED = 8  # names that a message gives of what lies in a folder
LOOKED_INTO = 1_000  # folders below the one that was named
BELOW = 2  # levels below it

_TARS = tuple(
    tuple(f"{split}{ending}" for ending in (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")) for split in SPLITS
)
_IDX = tuple(  # .idx3 and not -idx3 is what unpacking under Windows makes of the name
    tuple(f"{prefix}-images{mark}idx3-ubyte{ending}" for ending in ("", ".gz") for mark in "-.")
    for prefix in ("train", "t10k")
)
_IDX_IMAGES = {name for names in _IDX for name in names}
_KINDS = (  # in order of preference: the folder below the data's, and in it the names for train and for test
    ("", _TARS),
    ("", (("train",), ("test",))),
    ("", _IDX),
    ("MNIST/raw", _IDX),
    ("raw", _IDX),
    ("", (("training",), ("testing",))),
)
_EXPECTED = (
    "train.tar and test.tar (or .tar.gz, .tgz, .tar.bz2, .tar.xz), folders train and test, or MNIST's four IDX files"
)
_OF_A_SPLIT = re.compile(r"(train|test|t10k).*", re.IGNORECASE | re.DOTALL)
_LIKE_DATA = re.compile(
    r".*(mnist|digits|images).*|.*\.(tar|tgz|t?gz|bz2|xz|zip|7z|rar|npz?|csv|h5|pkl|pt|parquet|png|jpe?g)",
    re.IGNORECASE | re.DOTALL,
)


class Source(NamedTuple):
    """Where the data are.

    train, test: what `read_images` takes, absolute. folder: where they lie. found: what was taken, with its absolute
    path, to be printed. why_sample: why it is the bundled sample, or None if it is not.
    """

    train: Path
    test: Path
    folder: Path
    found: str
    why_sample: str | None


def find_data(data_dir: str | Path | None) -> Source:
    """Where the training and the test images are.

    data_dir: the folder that the user named; its `train.tar`, its `train` or a folder above it are understood, too. Or
    None: `data` in the current folder, where MNIST is downloaded to if it is not there yet, and else the sample, but
    never while other data lie there. Raises DataError, which says what lies there, and what to type.
    """
    try:
        folder = Path(os.path.abspath("data" if data_dir is None else data_dir))
    except OSError as error:
        raise DataError(f"the current folder: {reason(error)}") from None
    found = next(_sources(folder), None)
    if found is None and data_dir is not None:
        found = _named_otherwise(folder)
    if found is not None:
        return found
    if data_dir is not None or _missing(folder) or any(_OF_A_SPLIT.fullmatch(name) for name in _listing(folder)):
        raise DataError(_not_found(folder, data_dir))
    _refuse_dangling(folder)
    beside = None if folder == ROOT / "data" else next(_sources(ROOT / "data"), None)
    if beside is not None:
        raise DataError(
            f"{printable(folder)}: MNIST is not there, but {beside.found}\ntype --data-dir {_typed(beside.folder)}"
        )
    try:
        download(folder)
    except ConnectionError as error:
        return _sample(folder, f"MNIST is not in {printable(folder)} and could not be downloaded ({error})")
    return next(_sources(folder))


def _sample(folder: Path, why: str) -> Source:
    """The bundled sample. Raises DataError if data lie in the folder that would be passed over."""
    like_data = [name for name in _listing(folder) if _LIKE_DATA.fullmatch(name)]
    below = list(_below(folder))
    if like_data or below:
        raise DataError(f"{why}; there {_lies(folder)}\n{_advice(folder, below)}")
    sample = next(_sources(SAMPLE), None)
    if sample is None:
        raise DataError(f"{why}, and the sample is not in {printable(SAMPLE)}")
    return sample._replace(why_sample=why)


# --- looking ----------------------------------------------------------------------------------------------------------


def _sources(folder: Path) -> Iterator[Source]:
    """The data of each kind that lie in a folder for train and test, the preferred kind first.

    Raises DataError where a link leads nowhere or nothing may be read, before any kind that comes later.
    """
    for place, names in _KINDS:
        inside, (train, test) = _halves(folder, place, names)
        if train is None or test is None:
            continue
        if train.name in _IDX_IMAGES and not (idx.labels_file(train) and idx.labels_file(test)):
            continue
        home = folder.parent if not place and folder.name == "raw" else folder  # torchvision's FashionMNIST/raw
        shown = " and ".join(f"{path.name}/" if path.is_dir() else path.name for path in (train, test))
        why = "it was asked for" if folder.resolve() == SAMPLE else None
        yield Source(train, test, home, f"{shown} in {printable(inside)}", why)


def _halves(folder: Path, place: str, names: tuple[tuple[str, ...], ...]) -> tuple[Path, list[Path | None]]:
    """The folder where a kind of data would lie, and what lies there for train and for test."""
    inside = folder / place
    return inside, [next((inside / name for name in choice if _is_there(inside / name)), None) for choice in names]


def _is_there(path: Path) -> bool:
    """Whether something has that name. Raises DataError if that cannot be told, or if it is a link to nothing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise DataError(_dangling(path)) from None
        return False
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(path)}: {reason(error)}") from None
    return True


def _dangling(path: Path) -> str:
    target = printable(os.readlink(path))
    return (
        f"{printable(path)}: is a link to {target}, which does not exist; remove the link, or put there what is missing"
    )


def _refuse_dangling(folder: Path) -> None:
    """Raises DataError if the folder is a link to nothing, or holds one: a download would take its place."""
    for path in (folder, *(folder / name for name in _listing(folder))):
        if os.path.islink(path) and not os.path.exists(path):
            raise DataError(_dangling(path))


def _named_otherwise(folder: Path) -> Source | None:
    """The data of which the user named one half, or of the one folder below that has some."""
    if _is_there(folder):
        for source in _sources(folder.parent):
            halves = (source.train, source.test)
            if folder in halves or any(folder == idx.labels_file(half) for half in halves if half.is_file()):
                return source
    below = list(_below(folder))
    return below[0] if len(below) == 1 else None


def _below(folder: Path) -> Iterator[Source]:
    """The data in folders below this one, the sample excepted."""
    folders, looked_into = [(folder, 0)], 0
    while folders:
        above, level = folders.pop(0)
        for name in _listing(above):
            path = above / name
            if name == "sample" or not os.path.isdir(path) or looked_into == LOOKED_INTO:
                continue
            looked_into += 1
            with contextlib.suppress(DataError):  # may not be read, which matters only in the folder that was named
                if found := next(_sources(path), None):
                    yield found
                elif level + 1 < BELOW and _listing(path):
                    folders.append((path, level + 1))


def _listing(folder: Path) -> list[str]:
    """The names of what lies in a folder and is not hidden, sorted; of none if there is no such folder."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{printable(folder)}: {reason(error)}") from None


# --- what is said about it --------------------------------------------------------------------------------------------


def _not_found(folder: Path, data_dir: str | Path | None) -> str:
    """What is said where a folder does not hold the data."""
    shown = printable(folder)
    if folder.is_file():
        try:
            with Container(folder) as file:
                found = what_is(file.start) or "a file"
        except (ValueError, OSError) as error:
            found = f"a file that cannot be read ({reason(error)})"
        return f"{shown}: is {found}; expected a folder with {_EXPECTED}"
    advice = _advice(folder, list(_below(folder)))
    beside = Path(os.path.abspath(ROOT / (data_dir or "data")))
    if beside != folder and (elsewhere := next(_sources(beside), None)):
        advice = f"{elsewhere.found}: type --data-dir {_typed(elsewhere.folder)}"
    missing = printable(_missing(folder) or folder / "train.tar")
    return f"{missing}: not found; expected {_EXPECTED} in {shown}; {_lies(folder)}\n{advice}"


def _missing(folder: Path) -> Path | None:
    """What is missing of a kind of data of which something is there."""
    for place, names in _KINDS:
        inside, halves = _halves(folder, place, names)
        for here, there in ((0, 1), (1, 0)):
            found = halves[here]
            if found and halves[there] is None:  # of the other half, the name that is like it
                return inside / names[there][names[here].index(found.name)]
            if found and found.name in _IDX_IMAGES and idx.labels_file(found) is None:
                return inside / idx.labels_name(found)
    return None


def _lies(folder: Path) -> str:
    """What lies in a folder, as the end of a sentence."""
    if not folder.is_dir():
        return "there is no such folder"
    names = [f"{name}/" if os.path.isdir(folder / name) else name for name in _listing(folder)]
    if not names:
        return "it is empty"
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return f"it holds {', '.join(printable(name) for name in names[:LISTED])}{more}"


def _advice(folder: Path, below: list[Source]) -> str:
    """What to do where the data are not in a folder."""
    if below:
        return "type " + " or ".join(f"--data-dir {_typed(source.folder)}" for source in below[:LISTED])
    if any(name.lower().endswith((".zip", ".7z", ".rar")) for name in _listing(folder)):
        return "unpack what is packed there"
    return "put both there, or remove what is there and leave --data-dir out: MNIST is then downloaded to data/"


def _typed(folder: Path) -> str:
    """A folder as it can be typed in a shell."""
    text = printable(folder)
    return text if re.fullmatch(r"[\w@%+=:,./\\-]+", text) else f'"{text}"'


# --- download ---------------------------------------------------------------------------------------------------------


def download(folder: Path) -> None:
    """Download MNIST and write train.tar and test.tar into `folder`, both or none. Waits for a download under way.

    Raises ConnectionError if no mirror gives the four files with the right MD5 sums, or all of them are too slow;
    DataError if `folder` cannot be written.
    """
    temporary = folder / f".download{files.TEMPORARY}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            _wait_for_lock(stack, folder / ".download.lock")
            if any(os.path.lexists(path) for path in _tars(folder)):
                return  # another process was faster, and nothing is ever replaced
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed download
            try:
                temporary.mkdir()
                print_error(f"downloading MNIST (11.6 MB) to {printable(folder)}")
                _fetch(temporary)
                for path, images in zip(_tars(temporary), ("train", "t10k"), strict=True):
                    write_tar(path, path.stem, *read_images(temporary / f"{images}-images-idx3-ubyte.gz"))
                _move_all(_tars(temporary), _tars(folder))
                files.flush_folder(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except ConnectionError:
        raise
    except OSError as error:
        raise DataError(f"{printable(folder)}: MNIST cannot be written there: {reason(error)}") from None


def _tars(folder: Path) -> list[Path]:
    return [folder / f"{split}.tar" for split in SPLITS]


def _wait_for_lock(stack: contextlib.ExitStack, path: Path) -> None:
    """Hold a lock until the stack ends, as soon as no other process holds it."""
    waiting = False
    while True:
        try:
            stack.enter_context(files.lock(path))
            return
        except files.RunningError:
            if not waiting:
                print_error(f"{printable(path.parent)}: another process is downloading MNIST there; waiting for it")
            waiting = True
            check_signals()
            time.sleep(POLL)


def _move_all(sources: list[Path], targets: list[Path]) -> None:
    """Rename files to names that nothing has yet, all or none of them."""
    try:
        for source, target in zip(sources, targets, strict=True):
            os.replace(source, target)
    except BaseException:
        for target in targets:
            target.unlink(missing_ok=True)
        raise


def _fetch(folder: Path) -> None:
    """The four files that torchvision's MNIST names, from the first of its mirrors that has them all.

    torchvision's own download reads on for as long as a byte now and then arrives, and sets no time limit at all.
    Raises ConnectionError, OSError.
    """
    from torchvision import datasets  # here, because it takes a second and only a download needs it

    failures = []
    for mirror in datasets.MNIST.mirrors:
        try:
            contents = {name: _get(mirror + name, md5) for name, md5 in datasets.MNIST.resources}
        except (OSError, http.client.HTTPException, ValueError) as error:
            slow = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
            said = f"nothing arrived for {STALLED:g} s" if slow else printable(str(error) or type(error).__name__)
            failures.append(f"{mirror}: {said}")
            continue
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        return
    raise ConnectionError("; ".join(failures))


def _get(url: str, md5: str) -> bytes:
    """What an address holds. Raises OSError, HTTPException; ConnectionError if it is too slow, too long or wrong."""
    data, before = bytearray(), 0
    with urllib.request.urlopen(url, timeout=STALLED) as response:
        since = time.monotonic()
        while part := response.read1():
            data += part
            check_signals()
            if len(data) > MAX_FILE:
                raise ConnectionError(f"over {MAX_FILE:,} bytes")
            if time.monotonic() - since > STALLED:
                if len(data) - before < SLOWEST * STALLED:
                    raise ConnectionError(f"under {SLOWEST:,} bytes a second arrived")
                before, since = len(data), time.monotonic()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise ConnectionError("the file is corrupted: its MD5 sum is wrong")
    return bytes(data)
