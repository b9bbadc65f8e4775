"""PNG files of 28x28 gray pixels -> bytes. Knows nothing of files, archives or labels.

MNIST's plain kind (8-bit grayscale, not interlaced) is only inflated here, one image at a time, and unfiltered by
Pillow for a thousand images at once. Every other kind is decoded by Pillow, and taken where nothing is lost.
"""

import struct
import zlib

import numpy as np
from PIL import Image

SIZE = 28  # pixels a side of an MNIST image
MAX_CHUNKS = 1000  # of a PNG: more than one for each of the 812 bytes that its lines take

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BLANK = bytes(1 + SIZE)  # a line of pixels 0, filter type 0 in front
_CHUNK = struct.Struct(">I4s")  # length and kind, before the data and their CRC-32
_PLAIN = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, 0)
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type (PNG specification, third edition, 11.2.1)
_NAMES = {0: "grayscale", 2: "RGB", 3: "palette", 4: "grayscale with alpha", 6: "RGBA"}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class PNGError(ValueError):
    """What a file is in place of a PNG that can be taken, as the end of a sentence.

    conversion: an expression in which `{image}` stands for the opened image and which makes it 8-bit grayscale of 28x28
    by Pillow, or None where nothing could.
    """

    def __init__(self, found: str, conversion: str | None = None) -> None:
        super().__init__(found)
        self.conversion = conversion


def scanlines(data: bytes) -> bytes:
    """The 28 lines of a PNG behind a blank one, each with its filter type in front. Raises PNGError.

    The blank line is what the PNG specification takes to be above the first: images can then stand below one another.
    Stricter than Pillow, which passes over wrong checksums and over pixels that are too many: every chunk's CRC-32 is
    checked (PNG specification, 5.3), and so are the length and the Adler-32 of the pixels.
    """
    if not data.startswith(SIGNATURE):
        raise PNGError("is not a PNG")
    header, compressed, palette, transparent = None, [], b"", None
    start, size = len(SIGNATURE), len(data)
    for _ in range(MAX_CHUNKS):
        if start + 12 > size:
            raise PNGError("is a PNG cut off before its end")
        length, kind = _CHUNK.unpack_from(data, start)
        end = start + 8 + length
        if end + 4 > size:
            raise PNGError("is a PNG cut off before its end")
        if zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise PNGError(f"is a damaged PNG: wrong checksum of its {kind.decode('latin-1')!r} chunk")
        if kind == b"IDAT":
            compressed.append(data[start + 8 : end])
        elif kind == b"IHDR" and header is None and end - start == 21:
            header = data[start + 8 : end]
        elif kind == b"PLTE":
            palette = data[start + 8 : end]
        elif kind == b"tRNS":
            transparent = data[start + 8 : end]
        elif kind == b"IEND":
            break
        start = end + 4
    else:
        raise PNGError(f"is a PNG of over {MAX_CHUNKS:,} chunks, which no {SIZE}x{SIZE} image needs")
    if header is None:
        raise PNGError("is a damaged PNG: it has no header")
    if header != _PLAIN or transparent is not None:
        pixels = _other_kind(header, b"".join(compressed), palette, transparent)
        return BLANK + np.pad(pixels, ((0, 0), (1, 0))).tobytes()
    lines = _inflate(b"".join(compressed), SIZE * len(BLANK))
    if max(lines[:: len(BLANK)]) > 4:
        raise PNGError("is a damaged PNG: unknown filter type")
    return BLANK + lines


def unfilter(lines: bytes | bytearray) -> bytes:
    """The pixels of `scanlines` of any number of images one after the other.

    Pillow undoes the filters of all of them as of one tall image: asked for each image, it takes longer for everything
    around the pixels than for the pixels.
    """
    if not lines:
        return b""
    tall = Image.frombytes("L", (SIZE, len(lines) // len(BLANK)), zlib.compress(lines, 0), "zip", "L", 0)
    return np.asarray(tall).reshape(-1, 1 + SIZE, SIZE)[:, 1:].tobytes()


def _other_kind(header: bytes, compressed: bytes, palette: bytes, transparent: bytes | None) -> np.ndarray:
    """Pixels uint8 (28, 28) of a PNG of any kind that holds 28x28 opaque gray pixels of 8 bits. Raises PNGError."""
    width, height, depth, color, *methods, interlace = struct.unpack(">IIBBBBB", header)
    kind = f"{width}x{height}, {depth}-bit {_NAMES.get(color, 'unknown colour')}"
    if depth not in _DEPTHS.get(color, ()) or methods != [0, 0] or interlace > 1:
        raise PNGError(f"is a damaged PNG: {kind}, methods {methods[0]}, {methods[1]} and {interlace}")
    conversion = _conversion(width, height, depth, color, transparent is not None)
    expected = f"expected {SIZE}x{SIZE}, 8-bit grayscale"
    if (width, height) != (SIZE, SIZE):
        raise PNGError(f"is {kind}; {expected}", conversion)
    samples = _samples(compressed, depth, color, interlace)
    largest, alpha = 2**depth - 1, None
    if color == 3:
        samples, alpha = _look_up(samples[..., 0], palette, transparent or b"")
        largest = 255
    elif color in (4, 6):
        samples, alpha = samples[..., :-1], samples[..., -1]
    elif transparent is not None:  # the one colour that is to be transparent
        if len(transparent) != 2 * samples.shape[-1]:
            raise PNGError("is a damaged PNG: its 'tRNS' chunk fits no pixel")
        alpha = (samples != np.frombuffer(transparent, ">u2")).any(-1) * largest
    if alpha is not None and alpha.min() < largest:
        raise PNGError(f"is {kind}, in part transparent; {expected}, opaque", conversion)
    gray = samples[..., 0]
    if (samples != gray[..., None]).any():
        raise PNGError(f"is {kind}, not gray everywhere; {expected}", conversion)
    if depth == 16 and (gray % 257).any():  # 257 = 65535 / 255
        raise PNGError(f"is {kind}, with values between those of 8 bits; {expected}", conversion)
    return (gray.astype(np.uint32) * 255 // largest).astype(np.uint8)


def _samples(compressed: bytes, depth: int, color: int, interlace: int) -> np.ndarray:
    """Samples (28, 28, channels) as they stand in the file, 0 to 2**depth - 1."""
    channels = _CHANNELS[color]
    bits = depth * channels
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    sizes = [(-(-(SIZE - x) // step_x), -(-(SIZE - y) // step_y)) for x, y, step_x, step_y in passes]
    _inflate(compressed, sum(height * (1 + -(-width * bits // 8)) for width, height in sizes))  # as Pillow takes others

    def decode(mode: str, raw_mode: str) -> np.ndarray:
        try:
            image = Image.frombytes(mode, (SIZE, SIZE), compressed, "zip", raw_mode, interlace)
        except (ValueError, OSError):
            raise PNGError("is a damaged PNG: unknown filter type") from None
        return np.asarray(image).reshape(SIZE, SIZE, -1).astype(np.uint16)

    if depth < 8:
        return decode("P", f"P;{depth}")
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    if depth == 8:
        return decode(mode[channels], mode[channels])
    if channels <= 2:  # Pillow would drop the second byte: read as 8 bits, each byte is a channel of its own
        both = decode(mode[2 * channels], mode[2 * channels])
        return both[..., ::2] * 256 + both[..., 1::2]
    # each of these raw modes keeps one byte of a sample
    return decode(mode[channels], f"{mode[channels]};16B") * 256 + decode(mode[channels], f"{mode[channels]};16L")


def _look_up(indices: np.ndarray, palette: bytes, transparent: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Colours (28, 28, 3) and alpha (28, 28) of the pixels of a palette."""
    count = len(palette) // 3
    if len(palette) % 3 or indices.max() >= count or len(transparent) > count:
        raise PNGError("is a damaged PNG: its palette lacks colours")
    alpha = np.frombuffer(transparent.ljust(count, b"\xff"), np.uint8)
    return np.frombuffer(palette, np.uint8).reshape(count, 3)[indices], alpha[indices]


def _conversion(width: int, height: int, depth: int, color: int, transparent: bool) -> str:
    """The expression that `PNGError` describes."""
    expression = "{image}"
    if depth == 16 and color == 0:
        expression += ".point(lambda value: value / 257)"  # convert alone would make everything above 255 white
    elif color in (4, 6) or transparent:
        black = f'Image.new("RGBA", ({width}, {height}), "black")'
        expression = f'Image.alpha_composite({black}, {{image}}.convert("RGBA"))'
    expression += '.convert("L")'
    return expression if (width, height) == (SIZE, SIZE) else f"{expression}.resize(({SIZE}, {SIZE}))"


def _inflate(compressed: bytes, size: int) -> bytes:
    """Decompress exactly `size` bytes, and no more: 1 MiB can hold a gigabyte. Raises PNGError."""
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(compressed, size + 1)
    except zlib.error:
        raise PNGError("is a damaged PNG: its pixels cannot be decompressed") from None
    if len(data) != size or not decompressor.eof:
        raise PNGError(f"is a damaged PNG: its pixels are not {SIZE}x{SIZE}")
    return data
