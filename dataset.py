"""MNIST from tar archives of PNGs: tar -> uint8 tensors in memory -> augmented, normalized batches.

The batch is the unit of work: the archive is decoded once into one uint8 tensor, and everything after that (padding,
augmenting, normalizing) happens to a whole batch at a time, on the device where the tensor lies.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import struct
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

import files

SIZE = 28  # pixels a side of an MNIST image
PADDING = 2  # pixels of background on each side: 32x32, as the networks take it (LeCun et al. 1998, II.B)
MEAN, STD = 0.1307, 0.3081  # of the 60,000 training images, scaled to [0, 1]

ROTATION = 20  # degrees, either way
TRANSLATION = 0.1  # of width and height, either way
SMALLEST_CROP = 0.8  # of the area; the largest is the whole image

MAX_MEMBER = 64 * 1024  # bytes; a 28x28 PNG takes under 1,000, the rest is room for metadata
MAX_IMAGES = 4_000_000  # some sixty times MNIST, 3 GB in memory; an archive that yields more is taken for a bomb
MAX_READ = 1024 * 1024  # bytes that tarfile may ask for, or skip, at a time: more is a forged header
STALLED = 10  # seconds in which a download may bring nothing before it is given up

SAMPLE = Path(__file__).resolve().parent / "data" / "sample"
SPLITS = ("train", "test")
MNIST_SHA256 = {  # of the decoded images and labels, see MNIST.sha256
    "train": "edc0d1098aa497be14ace79ddd5171e5a3dcf9c4d196c015389203eb3ba1f59b",
    "test": "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
}

_NAME = re.compile(r"([0-9]{1,18})_([0-9])\.png", re.IGNORECASE)  # 18 digits: what fits into int64
_BOOKKEEPING = re.compile(r"\..*|thumbs\.db|desktop\.ini|(readme|licen[cs]e)(\..*)?", re.IGNORECASE)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CONTAINERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


class DataError(Exception):
    """The data are missing, damaged or not what this project reads. The message names file, member, found, expected."""


class MNIST(Dataset):
    """Images and labels of a tar archive (plain, gzip, bzip2 or xz) or a folder of PNGs named `{number}_{label}.png`.

    `dataset[i]` is (image, label): float32 (1, 32, 32), normalized, and an int. `dataset[[i, j, ...]]` is a batch:
    float32 (B, 1, 32, 32) and int64 (B,), on the device of `images`. Either works in a DataLoader.

    path: the archive or folder. augment: False, True, or the strength of the augmentation, see `draw_affine`: True is
    1, the whole range. Draws come from torch's default generator, which `torch.manual_seed` seeds and which a
    DataLoader seeds anew in each of its workers.

    Attributes: `images` uint8 (N, 28, 28) and `labels` int64 (N,), in the order of the numbers; `augment` as above, to
    be changed at will. Raises DataError if anything about the data is wrong.
    """

    def __init__(self, path: str | Path, augment: bool | float = False) -> None:
        self.path = Path(path)
        self.augment = augment
        self.images, self.labels = _load(self.path)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | Sequence[int] | Tensor) -> tuple[Tensor, int | Tensor]:
        index = torch.as_tensor(index, dtype=torch.int64)
        if index.ndim == 0:
            images, labels = self[index[None]]
            return images[0], int(labels[0])
        index = index.to(self.images.device, non_blocking=True)
        images = self.images[index]
        batch = F.pad(images, 4 * [PADDING]).float()  # (B, 32, 32), 0 to 255
        if self.augment:
            inside = slice(PADDING, -PADDING)
            matrices = draw_affine(len(index), self.augment, images.device)
            batch[:, inside, inside] = warp(images[:, None].float(), matrices)[:, 0]
        batch.sub_(255 * MEAN).div_(255 * STD)
        return batch[:, None], self.labels[index]

    def to(self, device: torch.device | str) -> "MNIST":
        """Move images and labels to `device`, so that batches are made there."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self

    def sha256(self) -> str:
        """Hexadecimal digest of the images, then the labels as bytes: the same for the same data in any archive."""
        digest = hashlib.sha256(self.images.cpu().numpy())
        digest.update(self.labels.to("cpu", torch.uint8).numpy())
        return digest.hexdigest()


# --- augmentation -----------------------------------------------------------------------------------------------------


def compose_affine(angle: Tensor, shift_x: Tensor, shift_y: Tensor, crop: Tensor) -> Tensor:
    """Rotation, then translation, then resized crop, as one matrix an image for `affine_grid`.

    angle: (B,) degrees, counter-clockwise. shift_x, shift_y: (B,) fractions of width and height, right and down.
    crop: (B, 4), left, top, width and height as fractions of the image. Returns float32 (B, 2, 3): it maps where a
    pixel of the result lies to where it lies in the original, both in [-1, 1], so the steps stand in reverse.
    """
    left, top, width, height = crop.unbind(1)
    x = 2 * left + width - 1 - 2 * shift_x  # the crop's centre, before the translation
    y = 2 * top + height - 1 - 2 * shift_y
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    rows = [cos * width, -sin * height, cos * x - sin * y, sin * width, cos * height, sin * x + cos * y]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def draw_affine(count: int, strength: float = 1.0, device: torch.device | str = "cpu") -> Tensor:
    """Matrices (count, 2, 3) of `compose_affine`, each drawn for itself, uniform over the stated ranges.

    strength scales the ranges: 1 is ROTATION, TRANSLATION and crops of SMALLEST_CROP to 1 of the area; 0 is no change.
    Of an area a, the crop's width takes the share a**u and its height a**(1 - u), u uniform in [0, 1]: every aspect
    ratio that fits into the image, from a to 1/a, uniform in its logarithm as in torchvision's RandomResizedCrop. Its
    position is uniform over where it fits.
    """
    draws = torch.rand(7, count, device=device)
    either_way = strength * (2 * draws[:3] - 1)
    area = 1 - strength * (1 - SMALLEST_CROP) * draws[3]
    width, height = area ** draws[4], area ** (1 - draws[4])
    crop = torch.stack([draws[5] * (1 - width), draws[6] * (1 - height), width, height], dim=1)
    return compose_affine(ROTATION * either_way[0], TRANSLATION * either_way[1], TRANSLATION * either_way[2], crop)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Warp images (B, C, H, W), float, square, by matrices (B, 2, 3): bilinear, 0 outside the image."""
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


# --- decoding ---------------------------------------------------------------------------------------------------------


def _load(path: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 28, 28) and labels int64 (N,) of the archive or folder, in the order of their numbers."""
    pixels, numbers, labels = bytearray(), [], bytearray()
    for name, data in _members_of_folder(path) if path.is_dir() else _members_of_archive(path):
        found = _NAME.fullmatch(name.rpartition("/")[2])
        if found is None:
            raise DataError(f"{path}: {name!r} is not named {{number}}_{{label}}.png with a label from 0 to 9")
        if len(numbers) == MAX_IMAGES:
            raise DataError(f"{path}: holds over {MAX_IMAGES:,} images, more than any MNIST archive")
        try:
            pixels += decode_png(data)
        except ValueError as error:
            raise DataError(f"{path}: {name!r} {error}") from None
        numbers.append(int(found[1]))
        labels.append(int(found[2]))
    if not numbers:
        raise DataError(f"{path}: holds no images; expected PNGs named {{number}}_{{label}}.png")
    images = torch.frombuffer(pixels, dtype=torch.uint8).view(-1, SIZE, SIZE)
    order = torch.tensor(numbers)
    if (order.diff() <= 0).any():
        order, positions = order.sort()
        twice = order[1:][order.diff() == 0]
        if len(twice):
            raise DataError(f"{path}: the number {int(twice[0])} stands twice; each image needs a number of its own")
        images, labels = images[positions], bytes(labels[i] for i in positions.tolist())
    return images, torch.frombuffer(bytearray(labels), dtype=torch.uint8).long()


def decode_png(data: bytes) -> bytes:
    """The 784 pixels of an 8-bit grayscale 28x28 PNG, row by row. Raises ValueError that says what else it is.

    Stricter than Pillow, which passes over a wrong checksum of the pixels: every chunk's CRC-32 is checked (PNG
    specification, third edition, 5.3). The pixels are decoded by Pillow, size and depth known beforehand.
    """
    if not data.startswith(_PNG_SIGNATURE):
        raise ValueError("is not a PNG")
    start, header, compressed = len(_PNG_SIGNATURE), None, []
    while True:
        kind, end = data[start + 4 : start + 8], start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 > len(data):
            raise ValueError("is a PNG cut off before its end")
        if zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"is a damaged PNG: wrong checksum of its {kind.decode('latin-1')!r} chunk")
        if kind == b"IDAT":
            compressed.append(data[start + 8 : end])
        elif kind == b"IHDR" and header is None and end - start == 21:
            header = struct.unpack(">IIBBBBB", data[start + 8 : end])
        elif kind == b"IEND":
            break
        start = end + 4
    if header is None:
        raise ValueError("is a damaged PNG: it has no header")
    width, height, depth, color, _, _, interlace = header
    if header[:6] != (SIZE, SIZE, 8, 0, 0, 0) or interlace > 1:
        kind = {0: "grayscale", 2: "RGB", 3: "palette", 4: "grayscale with alpha", 6: "RGBA"}.get(
            color, "unknown colour"
        )
        raise ValueError(f"is {width}x{height}, {depth}-bit {kind}; expected {SIZE}x{SIZE}, 8-bit grayscale")
    try:
        return Image.frombytes("L", (SIZE, SIZE), b"".join(compressed), "zip", "L", interlace).tobytes()
    except (ValueError, OSError):
        raise ValueError("is a damaged PNG: its pixels cannot be decompressed") from None


def _members_of_folder(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file below the folder that is no bookkeeping."""
    for folder, _, names in os.walk(path):
        for name in sorted(names):
            if _BOOKKEEPING.fullmatch(name):
                continue
            member = Path(folder, name)
            try:
                if not member.is_file():
                    raise DataError(f"{path}: {name!r} is not a regular file")
                with open(member, "rb") as file:
                    data = file.read(MAX_MEMBER + 1)
            except OSError as error:
                raise DataError(f"{member}: cannot be read: {error.strerror}") from None
            if len(data) > MAX_MEMBER:
                raise DataError(f"{path}: {name!r} is over {MAX_MEMBER:,} bytes, too large for a {SIZE}x{SIZE} PNG")
            yield name, data


def _members_of_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each member that is no bookkeeping. Nothing is extracted; links and devices are refused."""
    try:
        with open(path, "rb") as file:
            start = file.read(6)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not start:
        raise DataError(f"{path}: is empty; expected a tar archive")
    opener = next((opener for magic, opener in _CONTAINERS.items() if start.startswith(magic)), open)
    with opener(path, "rb") as file:
        reader = _BoundedReader(file)
        try:
            archive = tarfile.TarFile(fileobj=reader)
            # tarfile keeps every member's header: without clear() a large archive would take twice the memory
            while member := archive.next():
                archive.members.clear()
                name = member.name
                if member.isdir() or _BOOKKEEPING.fullmatch(name.rpartition("/")[2]):
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(f"{path}: {name!r} is a link, a device or sparse; expected a regular file")
                if not 0 <= member.size <= MAX_MEMBER:
                    raise DataError(
                        f"{path}: {name!r} claims {member.size:,} bytes; a {SIZE}x{SIZE} PNG takes under 1,000"
                    )
                reader.seek(member.offset_data)
                data = reader.read(member.size)
                if len(data) < member.size:
                    raise DataError(f"{path}: is cut off within {name!r}")
                yield name, data
            reader.expect_end()
        except DataError:
            raise
        except (
            Exception
        ) as error:  # of damaged input tarfile and the decompressors raise a dozen kinds, all meaning this
            raise DataError(f"{path}: is damaged or not a tar archive: {error or type(error).__name__}") from None


class _BoundedReader:
    """What tarfile reads from: a file that only goes forward, and in steps no larger than an honest archive needs.

    A forged header can ask tarfile for gigabytes of memory, or send it back to where it was, for ever.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._last = b""
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_READ:
            raise ValueError(f"a header claims {size:,} bytes")
        self._last = self._file.read(size)
        return self._last

    def seek(self, position: int) -> None:
        distance = position - self._file.tell()
        if not 0 <= distance <= MAX_READ:
            raise ValueError(f"a header leads {distance:,} bytes away")
        self._file.seek(position)

    def expect_end(self) -> None:
        """Raises ValueError unless what stopped tarfile was a block of zeros, with nothing but zeros behind it.

        tarfile itself takes a damaged header, and the end of a file cut off there, for the end of the archive.
        """
        if len(self._last) < tarfile.BLOCKSIZE:
            raise ValueError("it is cut off before its end")
        if any(self._last) or any(self.read(MAX_READ)) or self._file.read(1):
            raise ValueError("it goes on behind a damaged header")


# --- where the data come from -----------------------------------------------------------------------------------------


def find_data(data_dir: str | Path | None) -> tuple[Path, str | None]:
    """The folder of train.tar and test.tar, and why it is the bundled sample, if it is (None: it is not).

    data_dir: the folder that the user named, taken as it is; or None: `data`, where MNIST is downloaded to if it is
    not there yet, and else the sample. Raises DataError.
    """
    folder = Path("data" if data_dir is None else data_dir)
    missing = [folder / f"{split}.tar" for split in SPLITS if not (folder / f"{split}.tar").exists()]
    if not missing:
        return folder, "it was asked for" if folder.resolve() == SAMPLE else None
    if data_dir is not None or len(missing) == 1:
        raise DataError(
            f"{missing[0]}: not found; expected train.tar and test.tar in {folder}\n"
            "put both there, or remove both and leave --data-dir out: MNIST is then downloaded to data/"
        )
    try:
        download(folder)
    except ConnectionError as error:
        return SAMPLE, f"MNIST is not in {folder} and could not be downloaded ({error})"
    return folder, None


def download(folder: Path) -> None:
    """Download MNIST by torchvision and write train.tar and test.tar into `folder`, both or none.

    Raises ConnectionError if no mirror gives the four files with the right MD5 sums, or nothing arrives for STALLED
    seconds; DataError if `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            files.lock(folder / ".download.lock"),
            tempfile.TemporaryDirectory(prefix=".download-", dir=folder, ignore_cleanup_errors=True) as temporary,
        ):
            raw = _fetch(Path(temporary))
            for split, prefix in (("train", "train"), ("test", "t10k")):
                files.clear_temporary(folder / f"{split}.tar")
                images, labels = (
                    _read_idx(raw / f"{prefix}-images-idx3-ubyte"),
                    _read_idx(raw / f"{prefix}-labels-idx1-ubyte"),
                )
                write_tar(Path(temporary, f"{split}.tar"), split, images, labels)
            for split in SPLITS:
                os.replace(Path(temporary, f"{split}.tar"), folder / f"{split}.tar")
    except files.RunningError:
        raise DataError(f"{folder}: another process is downloading MNIST there; wait for it") from None
    except ConnectionError:
        raise
    except OSError as error:
        raise DataError(f"{folder}: MNIST cannot be written there: {error.strerror}") from None


def write_tar(path: Path, split: str, images: Tensor, labels: Tensor) -> None:
    """Write uint8 (N, 28, 28) and (N,) as a tar of PNGs in the layout that `MNIST` reads, on disk before it returns.

    Byte for byte the same on every machine: the headers carry no time and no owner, and the pixels are stored, not
    compressed, because each version of zlib compresses in its own way.
    """
    with open(path, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            folder = tarfile.TarInfo(f"{split}/")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
            for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                data = encode_png(image)
                member = tarfile.TarInfo(f"{split}/{number:05d}_{label}.png")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
                archive.members.clear()
        file.flush()
        os.fsync(file.fileno())


def encode_png(image: Tensor) -> bytes:
    """A uint8 (H, W) image, up to 255x255, as a grayscale PNG whose pixels are one stored block (RFC 1951, 3.2.4)."""
    height, width = image.shape
    rows = F.pad(image, (1, 0)).numpy().tobytes()  # each row behind a 0: no filter
    block = struct.pack("<BHH", 1, len(rows), len(rows) ^ 0xFFFF) + rows  # 1: the last block, and stored
    pixels = b"\x78\x01" + block + struct.pack(">I", zlib.adler32(rows))  # RFC 1950: header, data, checksum
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _read_idx(path: Path) -> Tensor:
    """An IDX file of MNIST as uint8; the shape stands behind the magic number, big-endian."""
    data = path.read_bytes()
    dimensions = data[3]
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=4 + 4 * dimensions).view(shape)


def _fetch(folder: Path) -> Path:
    """The folder of the four IDX files, downloaded below `folder`. Raises ConnectionError.

    torchvision sets no time limit, so it works in a thread that is left behind once nothing arrives any more.
    """
    from torchvision import datasets  # here, because it takes a second and only a download needs it

    failures: list[str] = []
    done = threading.Event()

    def work() -> None:
        for mirror in datasets.MNIST.mirrors:
            # one at a time: torchvision goes on to the next mirror after a wrong checksum, but not after a broken line
            source = type("MNIST", (datasets.MNIST,), {"mirrors": [mirror]})
            try:
                source(folder, download=True)
            except Exception as error:
                failures.append(
                    f"{mirror}: {str(error).strip().splitlines()[-1] if str(error) else type(error).__name__}"
                )
            else:
                done.set()
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
            raise ConnectionError(f"nothing arrived for {STALLED} s")
    if not done.is_set():
        raise ConnectionError("; ".join(failures))
    return folder / "MNIST" / "raw"
