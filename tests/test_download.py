"""Where the data come from: what people have at hand, a download from a server on the loopback, or the sample."""

import contextlib
import gzip
import hashlib
import http.server
import os
import re
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from support import files
from support.data import find as module
from support.data.find import SAMPLE, SPLITS, Source, download, find_data
from support.data.images import DataError, read_images, write_tar

WAIT = 20  # seconds for what takes far less, so that a test that fails ends


# --- data at hand -----------------------------------------------------------------------------------------------------


def write_idx(folder: Path, images: np.ndarray, labels: np.ndarray, prefix: str, pack: bool = False) -> None:
    """The file of images and the file of labels of one split, compressed or not."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, values in (("images", images), ("labels", labels.astype(np.uint8))):
        header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)  # 8: unsigned bytes
        data, path = header + values.tobytes(), folder / f"{prefix}-{kind}-idx{values.ndim}-ubyte"
        if pack:
            path, data = path.with_name(path.name + ".gz"), gzip.compress(data, compresslevel=1, mtime=0)
        path.write_bytes(data)


def write_folder(folder: Path, images: np.ndarray, labels: np.ndarray, by_label: bool = False) -> None:
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = folder / (f"{label}/{number:05d}.png" if by_label else f"{number:05d}_{label}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Thirty images; those for training are others than those for testing."""
    generator = np.random.default_rng(SPLITS.index(split))
    return generator.integers(0, 256, (30, 28, 28), np.uint8), np.arange(30) % 10


def lay_out(folder: Path, kind: str) -> None:
    """Put data of a kind into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, prefix in zip(SPLITS, ("train", "t10k"), strict=True):
        images, labels = digits(split)
        if kind.startswith("."):
            write_tar(folder / f"{split}{kind}", split, images, labels)
        elif kind.startswith("idx"):
            write_idx(folder / kind[4:], images, labels, prefix, pack=kind.startswith("idz"))
        elif kind == "folders":
            write_folder(folder / split, images, labels)
        elif kind == "by label":
            write_folder(folder / split, images, labels, by_label=True)
        elif kind == "mnist_png":
            write_folder(folder / f"{split}ing", images, labels, by_label=True)


def loads(source: Source) -> bool:
    """Whether these are the thirty images of each split, and all paths are absolute."""
    assert source.train.is_absolute()
    assert source.test.is_absolute()
    for path, split in ((source.train, "train"), (source.test, "test")):
        for found, expected in zip(read_images(path), digits(split), strict=True):
            assert np.array_equal(found, expected)
    return True


def refusal(data_dir: str | Path | None) -> str:
    """What is said about data that cannot be found: a line or two."""
    with pytest.raises(DataError) as caught:
        find_data(data_dir)
    message = str(caught.value)
    assert message.count("\n") < 2
    return message


KINDS = (
    *(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"),
    *("folders", "idx", "idx/MNIST/raw", "idx/raw", "by label", "mnist_png"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_data_is_found_and_named(tmp_path, kind) -> None:
    lay_out(tmp_path / "mine", kind)
    source = find_data(tmp_path / "mine")
    assert loads(source)
    assert source.folder == tmp_path / "mine"
    assert source.why_sample is None
    assert str(source.train.parent) in source.found
    assert source.train.name in source.found
    assert source.test.name in source.found


@pytest.mark.parametrize("place", ["", "MNIST/raw", "raw"])
def test_idx_files_may_be_compressed_and_renamed_by_windows(tmp_path, place) -> None:
    for split, prefix in zip(SPLITS, ("train", "t10k"), strict=True):
        write_idx(tmp_path / place, *digits(split), prefix, pack=split == "train")
    for path in (tmp_path / place).glob("t10k*"):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert loads(find_data(tmp_path))


def test_the_first_kind_that_is_there_for_both_is_taken(tmp_path) -> None:
    order = [".tar", ".tar.gz", "folders", "idx", "mnist_png"]
    for kind in order:
        lay_out(tmp_path, kind)
    names = ["train.tar", "train.tar.gz", "train", "train-images-idx3-ubyte", "training"]
    for kind, name in zip(order, names, strict=True):
        assert find_data(tmp_path).train.name == name
        for path in (tmp_path / name, tmp_path / f"test{kind}" if kind.startswith(".") else None):
            if path and path.is_dir():
                shutil.rmtree(path)
            elif path:
                path.unlink()


def test_half_of_one_kind_does_not_hide_another_kind_that_is_whole(tmp_path) -> None:
    lay_out(tmp_path, "folders")
    (tmp_path / "train.tar").write_bytes(b"half")
    assert find_data(tmp_path).train == tmp_path / "train"


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (".tar", "train.tar"),
        (".tgz", "test.tgz"),
        ("folders", "train"),
        ("mnist_png", "testing"),
        ("idx", "train-images-idx3-ubyte"),
        ("idx", "t10k-labels-idx1-ubyte"),
        ("idx/MNIST/raw", "MNIST"),
        ("idx/MNIST/raw", "MNIST/raw"),
        ("folders", ".."),
        (".tar", "../.."),
    ],
)
def test_a_half_of_the_data_or_a_folder_above_them_is_understood(tmp_path, kind, named) -> None:
    lay_out(tmp_path / "one" / "two", kind)
    assert loads(find_data(tmp_path / "one" / "two" / named))


def test_the_folder_that_was_named_decides_between_kinds(tmp_path) -> None:
    lay_out(tmp_path, ".tar")
    lay_out(tmp_path, "folders")
    assert find_data(tmp_path / "train").test == tmp_path / "test"
    assert find_data(tmp_path / "test.tar").train == tmp_path / "train.tar"


def test_the_name_of_the_data_is_never_raw(tmp_path) -> None:
    """torchvision's other data sets lie like this."""
    lay_out(tmp_path / "FashionMNIST", "idx/raw")
    for named in (".", "FashionMNIST", "FashionMNIST/raw"):
        assert find_data(tmp_path / named).folder == tmp_path / "FashionMNIST"


def test_several_data_below_the_folder_are_listed_to_be_typed(tmp_path) -> None:
    lay_out(tmp_path / "fashion", ".tar")
    lay_out(tmp_path / "my letters", "folders")
    message = refusal(tmp_path)
    assert f'type --data-dir {tmp_path}/fashion or --data-dir "{tmp_path}/my letters"' in message


def test_a_folder_above_the_sample_is_not_the_sample(tmp_path) -> None:
    lay_out(tmp_path / "data" / "sample", ".tar")
    assert f"{tmp_path}/data/train.tar: not found" in refusal(tmp_path / "data")
    assert "it holds sample/" in refusal(tmp_path / "data")
    assert "not found" in refusal(tmp_path)
    assert find_data(tmp_path / "data" / "sample").folder == tmp_path / "data" / "sample"
    lay_out(tmp_path / "data", "folders")
    assert find_data(tmp_path).folder == tmp_path / "data"


def test_not_found_says_what_lies_there_and_where(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path}/mine/train.tar: not found" in refusal("mine")
    assert "there is no such folder" in refusal("mine")
    Path("mine").mkdir()
    assert "it is empty" in refusal("mine")
    for number in range(12):
        Path(f"mine/{number:02d}.csv").touch()
    Path("mine/\x1b[2J").mkdir()
    message = refusal("mine")
    assert "it holds \\x1b[2J/, 00.csv, 01.csv" in message
    assert "and 5 more" in message
    assert "\x1b" not in message
    assert "expected train.tar and test.tar" in message
    assert "leave --data-dir out: MNIST is then downloaded" in message
    Path("mine/archive.zip").touch()
    assert "unpack" in refusal("mine")


@pytest.mark.parametrize(
    ("kind", "lost", "named"),
    [
        (".tar", "test.tar", "test.tar"),
        (".tar.gz", "train.tar.gz", "train.tar.gz"),
        ("folders", "test", "test"),
        ("mnist_png", "training", "training"),
        ("idx/MNIST/raw", "MNIST/raw/t10k-images-idx3-ubyte", "MNIST/raw/t10k-images-idx3-ubyte"),
        ("idx", "train-labels-idx1-ubyte", "train-labels-idx1-ubyte"),
    ],
)
@pytest.mark.parametrize("asked", [True, False])
def test_half_of_the_data_is_an_error_that_names_the_rest(tmp_path, monkeypatch, kind, lost, named, asked) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "download", lambda folder: pytest.fail("data at hand were passed over"))
    lay_out(tmp_path / "data", kind)
    path = tmp_path / "data" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert f"{tmp_path}/data/{named}: not found" in refusal("data" if asked else None)


def test_a_file_in_place_of_a_folder_is_named_as_what_it_is(tmp_path) -> None:
    for data, what in ((b"PK\x03\x04" + bytes(30), "a zip file"), (b"<html>", "a web page"), (b"\0\1\2", "a file")):
        (tmp_path / "mnist.zip").write_bytes(data)
        assert f"{tmp_path}/mnist.zip: is {what}" in refusal(tmp_path / "mnist.zip")


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("name", ["train.tar", "test", "MNIST", "t10k-images-idx3-ubyte.gz", "."])
def test_a_dangling_link_is_an_error_and_never_replaced(tmp_path, monkeypatch, name, asked) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "download", lambda folder: pytest.fail("a link was taken for nothing"))
    if name == ".":
        Path("data").symlink_to("/nowhere/at all")
    else:
        Path("data").mkdir()
        Path("data", name).symlink_to("/nowhere/at all")
    message = refusal("data" if asked else None)
    assert "/nowhere/at all, which does not exist" in message or (asked and name in ("MNIST", "."))
    assert str(tmp_path / "data") in message


def test_links_to_data_are_followed(tmp_path) -> None:
    lay_out(tmp_path / "there", ".tar")
    (tmp_path / "mine").mkdir()
    for split in SPLITS:
        (tmp_path / "mine" / f"{split}.tar").symlink_to(tmp_path / "there" / f"{split}.tar")
    (tmp_path / "data").symlink_to("mine")
    assert loads(find_data(tmp_path / "data"))
    assert find_data(tmp_path / "data").folder == tmp_path / "data"


def test_a_link_in_circles_is_an_error(tmp_path) -> None:
    (tmp_path / "train.tar").symlink_to("test.tar")
    (tmp_path / "test.tar").symlink_to("train.tar")
    assert f"{tmp_path}/train.tar: " in refusal(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs permissions as POSIX has them")
@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
def test_what_may_not_be_read_says_so(tmp_path, as_nobody, monkeypatch, mode) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data").chmod(mode)
    try:
        with as_nobody():
            for data_dir in ("data", None):
                assert f"{tmp_path}/data" in (message := refusal(data_dir))
                assert "ermission denied" in message
    finally:
        Path("data").chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="needs permissions as POSIX has them")
@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
def test_a_folder_that_may_not_be_read_does_not_hide_what_lies_beside_it(tmp_path, as_nobody, mode) -> None:
    lay_out(tmp_path / "mine", ".tar")
    (tmp_path / "lost" / "found").mkdir(parents=True)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").chmod(mode)
    try:
        with as_nobody():
            assert loads(find_data(tmp_path))
    finally:
        (tmp_path / "lost").chmod(0o755)


@pytest.mark.parametrize("name", ["숫자", "émoji 🙂", "two words", os.fsdecode(b"b\xff"), "\x1b[31m"])
def test_any_name_of_a_folder_works_and_can_be_shown(tmp_path, name) -> None:
    lay_out(tmp_path / name, ".tar")
    source = find_data(tmp_path / name)
    assert loads(source)
    assert source.found.isprintable()
    (tmp_path / name / "test.tar").unlink()
    assert refusal(tmp_path / name).replace("\n", "").isprintable()


# --- download ---------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves files as the first part of the address says: /whole, /wrong (another file), /cut (half), /missing,
    /stalled after a few bytes, /silent before the first, /trickling a byte now and then."""

    daemon_threads = True

    def __init__(self, served: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.served = served
        self.asked: list[str] = []
        self.go_on = threading.Event()

    def mirror(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        _, behaviour, name = self.path.split("/")
        data = self.server.served[name]
        self.server.asked.append(self.path)
        if behaviour == "silent":
            self.server.go_on.wait(WAIT)
            return
        self.send_response(404 if behaviour == "missing" else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if behaviour == "wrong":
            data = bytes(len(data))
        elif behaviour == "cut":
            data = data[: len(data) // 2]
        elif behaviour == "stalled":
            self.wfile.write(data[:100])
            self.server.go_on.wait(WAIT)
            data = data[100:]
        with contextlib.suppress(ConnectionError):  # who asked may have given up
            while behaviour == "trickling" and not self.server.go_on.wait(0.02):
                self.wfile.write(data[:1])
                data = data[1:]
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The sample in the form of MNIST's four files, by name."""
    folder = tmp_path_factory.mktemp("served")
    for split, prefix in zip(SPLITS, ("train", "t10k"), strict=True):
        write_idx(folder, *read_images(SAMPLE / f"{split}.tar"), prefix, pack=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def server(served: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    resources = [(name, hashlib.md5(served[name]).hexdigest()) for name, _ in datasets.MNIST.resources]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    with Server(served) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join(WAIT)


@pytest.fixture
def mirrors(server: Server, monkeypatch: pytest.MonkeyPatch):
    """Function that makes torchvision name mirrors that behave so, one after the other."""

    def use(*behaviours: str) -> None:
        found = [
            "http://127.0.0.1:1/" if behaviour == "refused" else server.mirror(behaviour) for behaviour in behaviours
        ]
        monkeypatch.setattr(datasets.MNIST, "mirrors", found)

    return use


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`data` in the current folder: where a download goes. It does not exist, and nothing lies beside main.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "ROOT", tmp_path / "elsewhere")
    return tmp_path / "data"


def is_download(source: Source, folder: Path) -> bool:
    assert source[:3] == (folder / "train.tar", folder / "test.tar", folder)
    assert source.found == f"train.tar and test.tar in {folder}"
    assert source.why_sample is None
    return True


def is_sample(source: Source) -> bool:
    assert source[:3] == (SAMPLE / "train.tar", SAMPLE / "test.tar", SAMPLE)
    assert source.why_sample is not None
    assert source.why_sample.isprintable()
    return True


@pytest.mark.parametrize(
    "behaviours",
    [["whole"], ["wrong", "whole"], ["cut", "whole"], ["refused", "whole"], ["refused", "missing", "wrong", "whole"]],
    ids=" ".join,
)
def test_a_download_gives_the_same_images_whatever_it_went_through(mirrors, folder, behaviours) -> None:
    mirrors(*behaviours)
    assert is_download(find_data(None), folder)
    assert sorted(os.listdir(folder)) == ["test.tar", "train.tar"]
    for split in SPLITS:
        for found, expected in zip(*(read_images(path / f"{split}.tar") for path in (folder, SAMPLE)), strict=True):
            assert np.array_equal(found, expected)


def test_what_is_there_is_not_asked_for_again(mirrors, server, folder) -> None:
    mirrors("whole")
    find_data(None)
    assert len(set(server.asked)) == 4
    server.asked.clear()
    assert is_download(find_data(None), folder)
    download(folder)
    assert server.asked == []


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [("wrong", "corrupted"), ("cut", "corrupted"), ("refused", "Connection refused"), ("missing", "404")],
)
def test_without_a_download_it_is_the_sample_and_why(mirrors, folder, behaviour, said) -> None:
    mirrors(behaviour)
    source = find_data(None)
    assert is_sample(source)
    assert said in source.why_sample
    assert "127.0.0.1" in source.why_sample
    assert str(folder) in source.why_sample
    assert os.listdir(folder) == []


@pytest.mark.parametrize("behaviour", ["stalled", "silent", "trickling"])
def test_a_server_that_stalls_or_trickles_is_given_up_and_nothing_is_left_behind(
    mirrors, server, folder, monkeypatch, behaviour
) -> None:
    monkeypatch.setattr(module, "STALLED", 0.3)
    mirrors(behaviour)
    before = {thread for thread in threading.enumerate() if "process_request" not in thread.name}
    source = find_data(None)
    assert is_sample(source)
    assert re.search("nothing arrived for 0.3 s|under 1,000 bytes a second", source.why_sample)
    assert os.listdir(folder) == []
    assert {thread for thread in threading.enumerate() if "process_request" not in thread.name} == before
    server.go_on.set()
    mirrors(behaviour, "whole")
    server.go_on.clear()
    assert is_download(find_data(None), folder)


def test_data_that_cannot_be_read_are_not_passed_over_for_the_sample(mirrors, folder) -> None:
    mirrors("refused")
    for name in ("mnist.npz", "archive.zip", "digits.csv"):
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
        message = refusal(None)
        assert "Connection refused" in message
        assert f"it holds {name}" in message
        (folder / name).unlink()
    lay_out(folder / "fashion", ".tar")
    assert f"type --data-dir {folder}/fashion" in refusal(None)
    shutil.rmtree(folder / "fashion")
    lay_out(folder / "sample", ".tar")
    (folder / "README.md").touch()
    assert is_sample(find_data(None))


def test_data_beside_the_program_are_named_and_not_downloaded_again(mirrors, server, folder, tmp_path) -> None:
    mirrors("whole")
    lay_out(tmp_path / "elsewhere" / "data", ".tar")
    for data_dir in (None, "data"):
        message = refusal(data_dir)
        assert f"{tmp_path}/elsewhere/data" in message
        assert f"type --data-dir {tmp_path}/elsewhere/data" in message
    assert server.asked == []
    lay_out(folder, ".tar")
    assert is_download(find_data(None), folder)


def test_a_folder_that_was_named_is_never_replaced(mirrors, server, folder, sample) -> None:
    mirrors("whole")
    for name in ("elsewhere", "data"):
        assert f"{folder.parent}/{name}/train.tar: not found; expected train.tar and test.tar" in refusal(name)
    assert server.asked == []
    assert not folder.exists()
    source = find_data(str(sample))
    assert (source.folder, source.why_sample) == (sample, "it was asked for")


def test_one_of_two_files_is_an_error(mirrors, server, folder) -> None:
    mirrors("whole")
    folder.mkdir()
    (folder / "train.tar").write_bytes(b"mine")
    assert "data/test.tar: not found" in refusal(None)
    download(folder)
    assert os.listdir(folder) == ["train.tar"]
    assert (folder / "train.tar").read_bytes() == b"mine"
    assert server.asked == []


def test_a_second_first_run_waits_for_the_download(mirrors, server, folder, capsys) -> None:
    mirrors("whole")
    folder.mkdir()
    found: list[Source] = []
    second = threading.Thread(target=lambda: found.append(find_data(None)))
    with files.lock(folder / ".download.lock"):
        second.start()
        deadline = time.monotonic() + WAIT
        said = ""
        while "another process is downloading MNIST there; waiting for it" not in said and time.monotonic() < deadline:
            time.sleep(0.01)
            said += capsys.readouterr().err
        lay_out(folder, ".tar")
        assert found == []
    second.join(WAIT)
    assert is_download(found[0], folder)
    assert said.count("waiting") == 1
    assert server.asked == []


def test_a_second_first_run_downloads_where_the_first_gave_up(mirrors, server, folder) -> None:
    mirrors("whole")
    folder.mkdir()
    found: list[Source] = []
    second = threading.Thread(target=lambda: found.append(find_data(None)))
    with files.lock(folder / ".download.lock"):
        second.start()
        time.sleep(0.05)
    second.join(WAIT)
    assert is_download(found[0], folder)
    assert len(server.asked) == 4


def test_what_a_killed_download_left_is_cleared(mirrors, folder) -> None:
    mirrors("whole")
    (folder / ".download.partial" / "MNIST").mkdir(parents=True)
    (folder / ".download.partial" / "train.tar").write_bytes(b"half")
    find_data(None)
    assert sorted(os.listdir(folder)) == ["test.tar", "train.tar"]


def test_a_disk_that_is_full(mirrors, folder, monkeypatch) -> None:
    """Whichever of the two tars does not fit."""
    mirrors("whole")
    for split in SPLITS:

        def write(path: Path, *values: object, full: str = split) -> None:
            if path.stem == full:
                raise OSError(28, os.strerror(28))
            write_tar(path, *values)

        monkeypatch.setattr(module, "write_tar", write)
        assert "data: MNIST cannot be written there: No space left on device" in refusal(None)
        assert os.listdir(folder) == []


def test_a_failure_between_the_two_tars_leaves_none(mirrors, folder, monkeypatch) -> None:
    mirrors("whole")
    replace = os.replace

    def rename(source: Path, target: Path) -> None:
        if target.name == "test.tar":
            raise PermissionError(13, os.strerror(13))
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", rename)
    assert "data: MNIST cannot be written there: Permission denied" in refusal(None)
    assert os.listdir(folder) == []


def test_a_file_where_the_folder_should_be(mirrors, server, folder) -> None:
    mirrors("whole")
    folder.write_text("a file")
    assert "data: MNIST cannot be written there: File exists" in refusal(None)
    assert folder.read_text() == "a file"
    assert server.asked == []
