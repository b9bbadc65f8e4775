"""Check predict.py against MNIST itself: paint digits as people photograph them, and read them from the pictures.

    python benchmarks/predict.py --data-dir data
    python benchmarks/predict.py --data-dir data --validation     # digits that parameters may be chosen on

Each digit becomes a picture of its own, of each kind in `painter.py`. The network reads it as predict.py prepares it;
to compare, from a resize to 28x28 of the picture as it is, and of the picture less its paper; and as MNIST has it.
With --validation the digits are the last of the training set, and the network is one trained without them.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import main as training_script  # noqa: E402 - the project's root is not a package
from benchmarks.painter import KINDS, paint  # noqa: E402
from dataset import MNIST  # noqa: E402
from predict import add_weights_options, classify, find_weights, load_network, recognize  # noqa: E402
from support import files  # noqa: E402
from support.digits.ink import SIZE, PictureError, find_figures, flatten  # noqa: E402
from support.digits.reading import MIN_CONFIDENCE, NOT_SURE, choose, judge  # noqa: E402
from support.seeds import WEIGHTS, seed_of  # noqa: E402
from support.terminal import Parser, UserError, number, progress, run_command, say  # noqa: E402

HELD_OUT = 10_000  # of the training images, the last: parameters are chosen on them, test images decide nothing
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)


def resized(image: Image.Image) -> np.ndarray:
    """What is usually done instead: to gray, inverted if the picture is rather light than dark, resized to 28x28."""
    small = np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return 255 - small if small.mean() > 127 else small


def resized_less_paper(image: Image.Image) -> np.ndarray:
    """The same, with the median taken for the paper and the contrast stretched."""
    small = resized(image).astype(float)
    ink = (small - np.median(small)).clip(0)
    return np.uint8(255 * ink / max(ink.max(), 1))


def read(image: Image.Image, network: torch.nn.Module) -> tuple[int, float, bool]:
    """The digit that is read, its probability, and whether anything else makes it doubtful; -1 where nothing is."""
    try:
        lines, doubts = choose(find_figures(flatten(image)), everything=False)
    except PictureError:
        return -1, 0.0, True  # an error is said: nobody takes it for an answer
    figure = lines[0][0]
    digit = judge(figure, recognize(figure, network))
    others = [doubt for doubt in digit.doubts + doubts if doubt != NOT_SURE]
    return digit.digit, digit.probability, bool(others)


def trained_on(train_set: MNIST, held_out: MNIST) -> torch.nn.Module:
    """BN-LeNet-5 as main.py trains it with augmentation, seed 0; it takes some minutes.

    The committed weights have seen all training images, and are surer of them than of any others.
    """
    arguments = training_script.parse_arguments(["--model", "lenet_bn", "--augment"])
    torch.manual_seed(seed_of(WEIGHTS, arguments.seed))
    network = training_script.build_network(arguments.model, arguments.classes)
    training = training_script.make_training(arguments, network, train_set, held_out)
    for epoch in range(1, arguments.epochs + 1):
        figures = training_script.train_and_test(training, epoch, arguments)
    say(f"trained on {len(train_set):,} images: {figures['test_accuracy']:.2%} of the {len(held_out):,} others")
    return training.average.eval()


def measure(arguments: argparse.Namespace) -> dict:
    """Accuracies in [0, 1] by kind, and what doubt is worth over all kinds. Raises UserError."""
    if arguments.validation:
        train_set, dataset = MNIST(Path(arguments.data_dir, "train.tar")).split(HELD_OUT)
        name, network = "lenet_bn_augment, trained without them", trained_on(train_set, dataset)
    else:
        name, network = load_network(find_weights(arguments))
        dataset = MNIST(Path(arguments.data_dir, "test.tar"))
    images, labels = dataset.images.numpy(), dataset.labels.numpy()
    if arguments.count > len(images):
        raise UserError(f"--count {arguments.count}: there are {len(images):,} images")
    result: dict = {
        "run": name,
        "digits": "the last 10,000 of training" if arguments.validation else "test",
        "count": arguments.count,
        "draw": arguments.draw,
        "kinds": {},
    }
    rights, certainties, doubted = [], [], []
    for place, kind in enumerate(KINDS):
        draw = np.random.default_rng((arguments.draw, place))
        chosen = draw.choice(len(images), arguments.count, replace=False)
        answers, plain, less_paper = [], [], []
        for index in progress(chosen.tolist()):
            picture = Image.open(paint(kind, images[index], draw))
            answers.append(read(picture, network))
            plain.append(resized(picture))
            less_paper.append(resized_less_paper(picture))
        right = np.array([answer[0] for answer in answers]) == labels[chosen]
        rights.append(right)
        certainties.append(np.array([answer[1] for answer in answers]))
        doubted.append(np.array([answer[2] for answer in answers]))
        result["kinds"][kind] = {
            "prepared": float(right.mean()),
            "resized": share_right(np.stack(plain), labels[chosen], network),
            "resized_less_paper": share_right(np.stack(less_paper), labels[chosen], network),
            "original": share_right(images[chosen], labels[chosen], network),
        }
        say(line(kind, result["kinds"][kind]))
    result["doubt"] = doubt_curve(np.concatenate(rights), np.concatenate(certainties), np.concatenate(doubted))
    return result


def share_right(prepared: np.ndarray, labels: np.ndarray, network: torch.nn.Module) -> float:
    """The accuracy of uint8 (N, 28, 28), in [0, 1]."""
    return float((classify(prepared, network).argmax(1).numpy() == labels).mean())


def doubt_curve(right: np.ndarray, probability: np.ndarray, doubted: np.ndarray) -> dict:
    """Of answers (N,): how many of the wrong and of the right ones carry a warning, at each threshold.

    `doubted` says which are doubtful whatever their probability. The curve is a list of [threshold, of the wrong ones,
    of the right ones], the last two in [0, 1].
    """
    curve = []
    for threshold in sorted({*THRESHOLDS, MIN_CONFIDENCE}):
        warned = doubted | (probability < threshold)
        curve.append([threshold, float(warned[~right].mean()) if (~right).any() else 1.0, float(warned[right].mean())])
    used = next(point for point in curve if point[0] == MIN_CONFIDENCE)
    return {
        "answers": len(right),
        "wrong": int((~right).sum()),
        "threshold": MIN_CONFIDENCE,
        "of_wrong": used[1],
        "of_right": used[2],
        "curve": curve,
    }


def line(kind: str, shares: dict[str, float]) -> str:
    texts = [f"{label} {shares[key]:7.2%}" for key, label in LABELS.items()]
    return f"{kind:<10}  {'   '.join(texts)}"


LABELS = {
    "prepared": "prepared",
    "resized": "resized",
    "resized_less_paper": "resized less paper",
    "original": "as MNIST has it",
}


def as_text(result: dict) -> str:
    """JSON, in which each kind and each point of the curve takes a line."""
    inner = {key: value for key, value in result.items() if key not in ("kinds", "doubt")}
    curve = result["doubt"]["curve"]
    doubt = {key: value for key, value in result["doubt"].items() if key != "curve"}
    kinds = ",\n".join(f"  {json.dumps(kind)}: {json.dumps(shares)}" for kind, shares in result["kinds"].items())
    points = ",\n".join(f"   {json.dumps(point)}" for point in curve)
    return (
        json.dumps(inner, indent=1)[:-2]
        + f',\n "kinds": {{\n{kinds}\n }},\n "doubt": {json.dumps(doubt)[:-1]}, "curve": [\n{points}\n  ]}}\n}}\n'
    )


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Read painted MNIST digits as predict.py does.")
    add = parser.add_argument
    add("--data-dir", default="data", help="folder of train.tar and test.tar (data)")
    add("--validation", action="store_true", help="held-out training digits: parameters may be chosen on them")
    add("--count", type=number(int, 1), default=1000, help="digits of each kind (1000)")
    add("--draw", type=number(int, 0), default=0, help="seed of the choice and the painting (0)")
    add("--json", metavar="FILE", help="write the figures there, too")
    add_weights_options(parser)
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> int:
    result = measure(arguments)
    doubt = result["doubt"]
    say(
        f"{result['run']}: of {doubt['answers']:,} answers {doubt['wrong']} are wrong; a warning carry "
        f"{doubt['of_wrong']:.1%} of these and {doubt['of_right']:.1%} of the right ones"
    )
    if arguments.json:
        files.replace(arguments.json, lambda file: file.write(as_text(result).encode()))
    return 0


def main(argv: list[str] | None = None) -> None:
    run_command(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    main()
