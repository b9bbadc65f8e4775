"""Check predict.py against MNIST itself: paint digits as people photograph and draw them, and read the pictures.

    python benchmarks/predict.py
    python benchmarks/predict.py --validation                        # digits that parameters may be chosen on
    python benchmarks/predict.py --validation --without underlines   # what a rule earns

Each digit becomes a picture of its own, of each kind in `painter.py`. The network reads it as predict.py does; to
compare, from a resize to 28x28 of the picture as it is; and as MNIST has it. With --validation the digits are the last
10,000 of the training set, and the network is one that has not seen them: main.py --validation 10000.
"""

import argparse
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.painter import KINDS, fits  # noqa: E402 - the project's root is not a package
from dataset import MNIST  # noqa: E402
from predict import add_weights_options, classify, find_weights, load_network, recognize  # noqa: E402
from support import digits, files  # noqa: E402
from support.data import find_data  # noqa: E402
from support.digits import ink, lines  # noqa: E402
from support.terminal import Parser, number, run_command  # noqa: E402

HELD_OUT = 10_000  # of the training images, the last: parameters are chosen on them, test images decide nothing
THRESHOLDS = (0.5, 0.7, 0.8, digits.MIN_CONFIDENCE, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
RULES: dict[str, tuple[Any, str, Any]] = {  # where each can be switched off, and by what
    "edge to edge": (lines, "_from_edge_to_edge", lambda found, mask, inside: []),
    "frames": (lines, "_frames", lambda mask, found: np.zeros_like(mask)),
    "underlines": (lines, "_underlines", lambda across, main: []),
    "dashes": (lines, "_bridge_dashes", lambda mask: mask),
    "sheets": (ink, "find_sheets", lambda picture: []),
    "faint holes": (ink, "_faint_holes", lambda mask, signal: np.zeros_like(mask)),
    "joining": (ink, "_belong_together", lambda one, other: False),
    "pale lines": (ink, "PALE", 1),
    "both readings": (ink, "_find_what_was_taken", lambda glyph, whole: None),
    "strokes": (ink, "_set_thickness", lambda mask: mask),
}


def resized(image: Image.Image) -> np.ndarray:
    """What is usually done instead: to gray, inverted if the picture is rather light than dark, resized to 28x28."""
    small = np.asarray(image.convert("L").resize((ink.SIZE, ink.SIZE), Image.Resampling.BICUBIC))
    return 255 - small if small.mean() > 127 else small


def read(image: Image.Image, network: torch.nn.Module) -> tuple[int, float, bool, bool]:
    """The digit that is read, -1 where nothing is; its probability; if anything else makes it doubtful; if it was cut.

    Cut is what hung together with something that was taken away.
    """
    try:
        rows, warnings = digits.choose(digits.find_glyphs(digits.flatten(image)), everything=False)
    except digits.PictureError:
        return -1, 0.0, True, False  # an error is said: nobody takes it for an answer
    digit = digits.judge(rows[0][0], lambda glyph: recognize(glyph, network))
    others = [warning for warning in digit.warnings + warnings if warning != digits.NOT_SURE]
    return digit.digit, digit.probability, bool(others), digit.glyph.cut


def measure(arguments: argparse.Namespace, images: np.ndarray, labels: np.ndarray, network: torch.nn.Module) -> dict:
    """Accuracies in [0, 1] by kind, and what a warning is worth over all kinds."""
    kinds, every = {}, []
    for index, kind in enumerate(KINDS):
        draw = np.random.default_rng((arguments.draw, index, arguments.validation))
        possible = (i for i in draw.permutation(len(labels)) if fits(kind, images[i], int(labels[i])))
        chosen = np.array(list(islice(possible, arguments.count)))
        answers, plain = [], []
        for i in tqdm(chosen.tolist(), leave=False, disable=None):
            picture = Image.open(KINDS[kind](images[i], int(labels[i]), draw))
            digit, probability, doubted, cut = read(picture, network)
            answers.append((digit == labels[i], probability, doubted, cut))
            plain.append(resized(picture))
        right, _, _, cut = np.array(answers).T
        accuracies = {"prepared": right.mean()}
        for name, inputs in (("resized", np.stack(plain)), ("original", images[chosen])):
            accuracies[name] = float((classify(inputs, network).argmax(1).numpy() == labels[chosen]).mean())
        kinds[kind] = accuracies | {"cut": int(cut.sum())}
        every += answers
        shares = "   ".join(f"{name} {share:7.2%}" for name, share in accuracies.items())
        print(f"{kind:<10}  {shares}   cut {kinds[kind]['cut']}")
    return {"kinds": kinds, "warnings": warning_curve(*np.array(every).T[:3])}


def warning_curve(right: np.ndarray, probability: np.ndarray, doubted: np.ndarray) -> dict:
    """Of answers (N,): how many of the wrong and of the right ones, in [0, 1], carry a warning, at each threshold.

    doubted: those that are doubtful whatever their probability.
    """
    right, doubted = right > 0, doubted > 0
    curve = {}
    for threshold in THRESHOLDS:
        warned = doubted | (probability < threshold)
        curve[str(threshold)] = [float(warned[~right].mean()) if (~right).any() else 1.0, float(warned[right].mean())]
    return {"answers": len(right), "wrong": int((~right).sum()), "of_wrong_and_right": curve}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Read painted MNIST digits as predict.py does.")
    add = parser.add_argument
    add("--data-dir", help="folder of the data (data)")
    add("--validation", action="store_true", help="held-out training digits: parameters may be chosen on them")
    add("--count", type=number(int, 1, 10_000), default=1000, help="digits of each kind (1000)")
    add("--draw", type=number(int, 0, 2**31), default=0, help="seed of the choice and the painting (0)")
    add("--without", choices=RULES, help="switch a rule off, to see what it earns")
    add("--json", metavar="FILE", help="write the figures there, too")
    add_weights_options(parser)
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    if arguments.without:
        setattr(*RULES[arguments.without])
    source, held_out = find_data(arguments.data_dir), HELD_OUT * arguments.validation
    name, network = load_network(find_weights(arguments, validation=held_out))
    dataset = MNIST(source.train) if arguments.validation else MNIST(source.test)
    images, labels = dataset.images.numpy()[-held_out:], dataset.labels.numpy()[-held_out:]
    result = {"run": name, "digits": f"the last {held_out:,} of training" if held_out else "test"}
    result |= {"count": arguments.count, "draw": arguments.draw, "without": arguments.without}
    result |= measure(arguments, images, labels, network)
    wrong, right = result["warnings"]["of_wrong_and_right"][str(digits.MIN_CONFIDENCE)]
    print(f"{name}: {result['warnings']['wrong']} of {result['warnings']['answers']:,} answers are wrong; a warning")
    print(f"stands at {wrong:.1%} of these and at {right:.1%} of the right ones")
    if arguments.json:
        files.replace(arguments.json, lambda file: file.write(json.dumps(result, indent=1).encode() + b"\n"))


def main(argv: list[str] | None = None) -> None:
    run_command(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    main()
