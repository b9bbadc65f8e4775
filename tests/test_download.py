"""Where the data come from: the folder, a download from a server on the loopback, or the sample."""

import gzip
import hashlib
import http.server
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from torchvision import datasets

import dataset as module
import files
from dataset import MNIST, SAMPLE, SPLITS, DataError, download, find_data

WAIT = 20  # seconds for what takes far less, so that a test that fails ends


def idx_files(folder: Path) -> dict[str, bytes]:
    """The four files of MNIST, by name, made of the tars in the folder."""
    found = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        data = MNIST(folder / f"{split}.tar")
        for kind, values in (("images", data.images), ("labels", data.labels.byte())):
            header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)  # 8: unsigned bytes
            name = f"{prefix}-{kind}-idx{values.ndim}-ubyte.gz"
            found[name] = gzip.compress(header + values.numpy().tobytes(), compresslevel=1, mtime=0)
    return found


class Server(http.server.ThreadingHTTPServer):
    """Serves files as the first part of the address says: /whole, /wrong (another file), /cut (half), /stalled."""

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
        self.send_response(200)
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
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def served() -> dict[str, bytes]:
    return idx_files(SAMPLE)


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
    """Function that makes torchvision ask mirrors that behave so, one after the other."""

    def use(*behaviours: str) -> None:
        found = [
            "http://127.0.0.1:1/" if behaviour == "refused" else server.mirror(behaviour) for behaviour in behaviours
        ]
        monkeypatch.setattr(datasets.MNIST, "mirrors", found)

    return use


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`data` in the current folder: where a download goes. It does not exist."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".download.lock")


@pytest.mark.parametrize(
    "behaviours",
    [["whole"], ["wrong", "whole"], ["cut", "whole"], ["refused", "whole"], ["refused", "cut", "wrong", "whole"]],
    ids=" ".join,
)
def test_a_download_gives_the_same_bytes_whatever_it_went_through(mirrors, folder, behaviours) -> None:
    """The server has the sample in the form of MNIST's files: what is written of them is the sample's tars again."""
    mirrors(*behaviours)
    assert find_data(None) == (Path("data"), None)
    assert visible(folder) == ["test.tar", "train.tar"]
    for split in SPLITS:
        assert (folder / f"{split}.tar").read_bytes() == (SAMPLE / f"{split}.tar").read_bytes()


def test_what_is_there_is_not_asked_for_again(mirrors, server, folder) -> None:
    mirrors("whole")
    find_data(None)
    assert len(set(server.asked)) == 4
    server.asked.clear()
    assert find_data(None) == (Path("data"), None)
    download(folder)
    assert server.asked == []


@pytest.mark.parametrize(
    ("behaviour", "said"), [("wrong", "corrupted"), ("cut", "corrupted"), ("refused", "Connection refused")]
)
def test_without_a_download_it_is_the_sample_and_why(mirrors, folder, behaviour, said) -> None:
    mirrors(behaviour)
    path, why = find_data(None)
    assert path == SAMPLE
    assert said in why
    assert "127.0.0.1" in why
    assert "\n" not in why
    assert visible(folder) == []


def test_a_server_that_stalls_is_given_up(mirrors, server, folder, monkeypatch) -> None:
    monkeypatch.setattr(module, "STALLED", 0.5)
    mirrors("stalled", "whole")
    before = set(threading.enumerate())
    path, why = find_data(None)
    assert path == SAMPLE
    assert "nothing arrived for 0.5 s" in why
    assert visible(folder) == []
    server.go_on.set()  # should the line come back to life, nothing is downloaded behind the program's back
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT)
    assert len(set(server.asked)) == 1
    assert visible(folder) == []


def test_a_folder_that_was_named_is_never_replaced(mirrors, server, folder, sample) -> None:
    mirrors("whole")
    for name in ("elsewhere", "data"):
        with pytest.raises(
            DataError, match=rf"{name}/train\.tar: not found; expected train\.tar and test\.tar in {name}"
        ):
            find_data(name)
    assert server.asked == []
    assert not folder.exists()
    assert find_data(str(sample)) == (sample, "it was asked for")


def test_one_of_two_files_is_an_error(mirrors, server, folder) -> None:
    mirrors("whole")
    folder.mkdir()
    (folder / "train.tar").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"data/test\.tar: not found"):
        find_data(None)
    download(folder)
    assert visible(folder) == ["train.tar"]
    assert (folder / "train.tar").read_bytes() == b"mine"
    assert server.asked == []


def test_two_downloads_at_once(mirrors, server, folder) -> None:
    mirrors("whole")
    folder.mkdir()
    with (
        files.lock(folder / ".download.lock"),
        pytest.raises(DataError, match="data: another process is downloading MNIST there; wait for it"),
    ):
        find_data(None)
    assert server.asked == []
    assert find_data(None) == (Path("data"), None)


def test_what_a_killed_download_left_is_cleared(mirrors, folder) -> None:
    mirrors("whole")
    (folder / ".download.partial" / "MNIST").mkdir(parents=True)
    (folder / ".download.partial" / "train.tar").write_bytes(b"half")
    find_data(None)
    assert visible(folder) == ["test.tar", "train.tar"]


def test_a_disk_that_is_full(mirrors, folder, monkeypatch) -> None:
    """Whichever of the two tars does not fit."""
    mirrors("whole")
    write_tar = module.write_tar
    for split in SPLITS:

        def write(path: Path, *values: object, full: str = split) -> None:
            if path.stem == full:
                raise OSError(28, os.strerror(28))
            write_tar(path, *values)

        monkeypatch.setattr(module, "write_tar", write)
        with pytest.raises(DataError, match="data: MNIST cannot be written there: No space left on device"):
            find_data(None)
        assert visible(folder) == []


def test_a_failure_between_the_two_tars_leaves_none(mirrors, folder, monkeypatch) -> None:
    mirrors("whole")
    replace = os.replace

    def rename(source: Path, target: Path) -> None:
        if target.name == "test.tar":
            raise PermissionError(13, os.strerror(13))
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", rename)
    with pytest.raises(DataError, match="data: MNIST cannot be written there: Permission denied"):
        find_data(None)
    assert visible(folder) == []


def test_a_file_where_the_folder_should_be(mirrors, server, folder) -> None:
    mirrors("whole")
    folder.write_text("a file")
    with pytest.raises(DataError, match="data: MNIST cannot be written there: File exists"):
        find_data(None)
    assert folder.read_text() == "a file"
    assert server.asked == []
