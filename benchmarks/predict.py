"""Check predict.py against MNIST itself: paint test digits as ink on paper, and read them from the pictures.

    python benchmarks/predict.py --data-dir data --model lenet_bn --augment

Each digit becomes a picture of its own: its strokes thickened or thinned, turned, enlarged, painted in some colour on
paper of another under uneven light, with a sensor's noise, and through JPEG. The network reads it as predict.py
prepares it, and as a plain resize to 28x28 gives it; and, to compare, the digit as MNIST has it.
"""

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dataset import MNIST, SIZE, DataError  # noqa: E402 - the project's root is not a package
from main import UserError, fail, number, run_name  # noqa: E402
from predict import DOUBT, PictureError, add_run_options, classify, load_network, prepare  # noqa: E402

FINE = 10  # pixels to one of MNIST's, at which strokes are changed
NOTHING = np.zeros((SIZE, SIZE), np.uint8)  # what the network is given where no ink was found


def thicken(mask: np.ndarray, radius: int) -> np.ndarray:
    """A bool mask (H, W) grown by a disc of that many pixels, or shrunk by it if negative."""
    if radius < 0:
        return ~thicken(~mask, -radius)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = torch.from_numpy((x**2 + y**2 <= radius**2)[None, None]).float()
    covered = F.conv2d(torch.from_numpy(mask[None, None]).float(), disc, padding=radius)
    return covered[0, 0].numpy() > 0.5


def paint(digit: np.ndarray, draw: np.random.Generator) -> io.BytesIO:
    """A uint8 (28, 28) digit as a photograph of ink on paper, a JPEG file; 70 % dark on light, 30 % light on dark."""
    side = FINE * SIZE
    mask = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)) > 127
    mask = thicken(mask, draw.integers(-3, 9))  # MNIST's strokes are some 27 pixels here: from 21 to 43
    turned = Image.fromarray(np.uint8(255 * mask)).rotate(draw.uniform(-8, 8), Image.Resampling.BICUBIC)

    longer = int(draw.integers(200, 1001))
    shorter = round(longer * draw.uniform(0.7, 1))
    width, height = draw.permutation([longer, shorter]).tolist()
    field = round(shorter * draw.uniform(0.4, 0.95))  # what becomes of the 28x28, of which the digit fills 20
    left, top = draw.integers(0, [width - field + 1, height - field + 1]).tolist()
    ink = Image.new("L", (width, height))
    ink.paste(turned.resize((field, field), Image.Resampling.BICUBIC), (left, top))
    cover = np.asarray(ink)[..., None] / 255 * draw.uniform(0.8, 1)  # ink is not quite opaque

    colours = draw.uniform(150, 255, 3), draw.uniform(0, 90, 3)
    paper, pen = colours if draw.random() < 0.7 else colours[::-1]
    picture = paper * (1 - cover) + pen * cover
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = draw.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2)  # -1 to 1 from corner to corner
    light = 1 - draw.uniform(0, 0.5) * (along + 1) / 2 - draw.uniform(0, 0.3) * (x**2 + y**2) / 2  # lamp and lens
    picture = picture * light[..., None] + draw.normal(0, draw.uniform(0, 12), picture.shape)

    file = io.BytesIO()
    Image.fromarray(np.uint8(picture.clip(0, 255).round())).save(file, "JPEG", quality=int(draw.integers(30, 96)))
    return file


def plain(image: Image.Image) -> np.ndarray:
    """What is usually done instead: to gray, inverted if the picture is rather light than dark, resized to 28x28."""
    small = np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return 255 - small if small.mean() > 127 else small


def prepare_or_nothing(image: Image.Image) -> np.ndarray:
    try:
        return prepare(image)
    except PictureError:
        return NOTHING


def measure(arguments: argparse.Namespace) -> dict:
    """Accuracies in [0, 1], and what they were measured of. Raises UserError, DataError."""
    network = load_network(arguments)
    test_set = MNIST(Path(arguments.data_dir, "test.tar"))
    if arguments.count > len(test_set):
        raise UserError(f"--count {arguments.count}: {test_set.path} holds {len(test_set):,} images")
    draw = np.random.default_rng(arguments.draw)
    chosen = draw.choice(len(test_set), arguments.count, replace=False)
    digits, labels = test_set.images.numpy()[chosen], test_set.labels[chosen]
    pictures = {"prepared": [], "resized": [], "original": digits}
    for digit in tqdm(digits, leave=False, disable=not sys.stderr.isatty()):
        picture = Image.open(paint(digit, draw))
        pictures["prepared"].append(prepare_or_nothing(picture))
        pictures["resized"].append(plain(picture))
    result = {"run": run_name(arguments), "count": arguments.count, "draw": arguments.draw}
    for kind, images in pictures.items():
        probability, prediction = classify(np.stack(images), network).max(1)
        right = prediction == labels
        result[kind] = right.float().mean().item()
        if kind == "prepared":
            result["errors"] = (~right).sum().item()
            result["errors_in_doubt"] = (~right & (probability < DOUBT)).sum().item()
            result["right_in_doubt"] = (right & (probability < DOUBT)).sum().item()
    return result


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Read painted MNIST test digits as predict.py does.", allow_abbrev=False
    )
    parser.add_argument("--data-dir", default="data", help="folder of test.tar (default: data)")
    parser.add_argument("--count", type=number(int, 1), default=1000, help="test images (default: 1000)")
    parser.add_argument(
        "--draw", type=number(int, 0), default=0, help="seed of the choice and the painting (default: 0)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    add_run_options(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    try:
        result = measure(arguments)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")
    except (UserError, DataError) as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"{error.filename}: cannot be written: {error.strerror}", 1)
    print(f"{result['run']}, {result['count']:,} test images")
    print(f"pictures, as predict.py prepares them  {result['prepared']:7.2%}")
    print(f"  of {result['errors']} errors {result['errors_in_doubt']} are marked as doubtful, ", end="")
    print(f"and of the right answers {result['right_in_doubt']}")
    print(f"pictures, resized to 28x28             {result['resized']:7.2%}")
    print(f"the same digits as MNIST has them      {result['original']:7.2%}")


if __name__ == "__main__":
    main()
