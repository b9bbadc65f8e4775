"""Read handwritten digits in pictures of your own.

    python predict.py my_digit.png another.jpg
    python predict.py page.jpg --all --show out.png
    python predict.py --page draw.html

Without other options it reads with BN-LeNet-5, trained with augmentation: your own run, if there is one, else the
weights that lie beside this file. A picture is made what MNIST is (`support/digits/`): the ink in it is found, fitted
into 20x20 pixels, and placed with its centre of mass in the middle of 28x28.
"""

import argparse
import json
import logging
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dataset import network_input
from main import DEFAULTS
from model import MODELS, build
from support import digits, files
from support.digits import Glyph, PictureError, Reading
from support.figures import save
from support.run import checkpoint, history
from support.terminal import Parser, UserError, number, printable, run_command, warn

COMMITTED = Path(__file__).resolve().parent / "weights"  # of the three networks, NAME.pt
USUAL_MODEL = "lenet_bn"  # with augmentation: the most accurate of the three
TTA_ANGLES = (-10, 0, 10)  # degrees, of test-time augmentation: as much as handwriting slants
load_network = partial(checkpoint.load_network, build)  # name and network of a file of weights
MAX_SHOWN = 100  # pictures in one --show: one row each, and matplotlib stops at 65,536 pixels


# --- weights ----------------------------------------------------------------------------------------------------------


def find_weights(arguments: argparse.Namespace, validation: int = 0) -> Path:
    """The file of weights that the command line means. Raises UserError if it is not there, and says which are.

    validation: of a run that held out so many training images.
    """
    if arguments.weights:
        return Path(arguments.weights)
    model, augment = arguments.model or USUAL_MODEL, arguments.augment or not arguments.model
    told = {"model": model, "augment": augment, "validation": validation, "seed": arguments.seed}
    name, folder = history.run_name(DEFAULTS | told | {"data": "MNIST"}, DEFAULTS), Path(arguments.checkpoint_dir)
    for path in (folder / f"{name}.weights.pt", COMMITTED / f"{name}.pt"):
        if os.path.lexists(path):  # what is there and cannot be read is then said, not passed over
            return path
    there = [found.name for found in sorted(folder.glob("*.weights.pt"))]
    there += [f"weights/{found.name}" for found in sorted(COMMITTED.glob("*.pt"))]
    options = [f"--model {model}", *["--augment"] * augment]
    options += [f"--{key} {told[key]}" for key in ("validation", "seed") if told[key] != DEFAULTS[key]]
    raise UserError(
        f"{printable(folder / f'{name}.weights.pt')}: not found; there are: {printable(', '.join(there)) or 'none'}\n"
        f"train it: python main.py {' '.join(options)}; or give another file with --weights"
    )


# --- reading ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def classify(images: np.ndarray, network: nn.Module) -> Tensor:
    """Probabilities float32 (B, classes) for uint8 (B, 28, 28). The network is in evaluation mode."""
    return network(network_input(torch.from_numpy(images)[:, None].float())).softmax(1)


def recognize(glyph: Glyph, network: nn.Module) -> list[float]:
    """The mean probabilities of the classes over the glyph as it stands and turned a little either way.

    Where the answer depends on the slant, the mean is less sure.
    """
    images = np.stack([digits.normalize(digits.turn(glyph.mask, degrees)) for degrees in TTA_ANGLES])
    return classify(images, network).mean(0).tolist()


def read(file: str, network: nn.Module, everything: bool = False) -> Reading:
    """Read the largest digit in a file, or all. Raises PictureError."""
    picture = digits.open_picture(file)
    chosen, warnings = digits.choose(digits.find_glyphs(picture.pixels), everything)
    rows = [[digits.judge(glyph, lambda one: recognize(one, network), everything) for glyph in row] for row in chosen]
    return Reading(file, picture, rows, everything, warnings)


# --- the command line -------------------------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Raises UserError."""
    parser = Parser(description="Read handwritten digits in pictures of your own.")
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="a picture of a digit: PNG, JPEG, WebP, GIF, ...")
    add("--all", action="store_true", help="read every digit, from left to right, line by line (the largest alone)")
    add("--show", metavar="OUT.png", help="draw pictures, what the network saw, and probabilities")
    add("--json", action="store_true", help="print one JSON list, an entry a file")
    add("--page", metavar="OUT.html", help="write a page to draw digits on, which reads them as one draws")
    add_weights_options(parser)
    arguments = parser.parse_args(argv)
    if not arguments.files and not arguments.page:
        parser.error("no picture is given")
    for option, path, ending in (("--show", arguments.show, ".png"), ("--page", arguments.page, ".html")):
        if path is not None:
            check_output(option, path, ending, arguments.files)
    if arguments.show and len(arguments.files) > MAX_SHOWN:
        parser.error(f"--show: {len(arguments.files)} files; expected at most {MAX_SHOWN}")
    return arguments


def check_output(option: str, path: str, ending: str, inputs: list[str]) -> None:
    """Raises UserError if a file could not be written there, or should not."""
    file = Path(path)
    there = file.absolute().parent.is_dir() and (file.is_file() or not file.exists())
    if not there or not path.lower().endswith(ending):
        raise UserError(f"{option} {printable(path)}: expected the name of a {ending} file in a folder that is there")
    if file.exists() and any(os.path.exists(other) and file.samefile(other) for other in inputs):
        raise UserError(f"{option} {printable(path)}: would write over a picture that is to be read")


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose a network: a file of weights, or a run by what main.py was told."""
    add = parser.add_argument
    add("--weights", metavar="FILE", help="weights of any network of this program; the file says of which")
    add("--model", choices=MODELS, help="your run of this network (lenet_bn --augment)")
    add("--augment", action="store_true", help="the one trained with augmentation")
    add("--seed", type=number(int, 0, 2**63 - 1), default=DEFAULTS["seed"], help="its seed (0)")
    add("--checkpoint-dir", default="checkpoints", help="folder of your runs' weights (checkpoints)")


def run(arguments: argparse.Namespace) -> int:
    """Read all files, print the answers, return the exit status: 2 if one could not be read.

    Raises UserError if there are no weights, OSError if a file cannot be written.
    """
    name, network = load_network(find_weights(arguments))
    if arguments.page:
        digits.write_page(arguments.page, name, network)
    width = max((len(printable(file)) for file in arguments.files), default=0)
    readings, entries = [], []
    for file in arguments.files:
        try:
            readings.append(read(file, network, arguments.all))
            entries.append(digits.as_dict(readings[-1]))
            if not arguments.json:
                print(digits.as_text(readings[-1], width))
        except PictureError as error:
            entries.append({"file": file, "error": str(error)})
            warn(f"{printable(file)}: {printable(error)}", "error")
    if arguments.json:
        print(json.dumps(entries, indent=1))
    if arguments.show and readings:
        files.replace(arguments.show, lambda file: save(digits.draw(readings), file))
    return 0 if len(readings) == len(entries) else 2


def main(argv: list[str] | None = None) -> None:
    """Run the command line. Raises SystemExit: 2 for what the user can fix, 1 for a file that cannot be written."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)  # else Python prints what Pillow logs of damaged files
    run_command(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    main()
