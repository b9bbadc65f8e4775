"""The study's document: tables and sentences as Markdown, made from the numbers of `support/study/results.py`.

A sentence says what its interval carries and no more: which sentence it is the numbers decide, not what was hoped for.
"""

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from support.figures.axes import percent, save
from support.files import replace
from support.study import results
from support.study.results import (
    AUGMENTED,
    BOTH,
    MARGIN,
    MLP,
    MLP_AUGMENTED,
    MOVES,
    NORMALIZED,
    PLAIN,
    Configuration,
    Difference,
    Groups,
)
from support.study.statistics import Estimate, holm, mean_interval
from support.terminal import print_error, say

ALPHA = 0.05
MAX_CONFUSIONS = 10  # of 90
WIDTH = 120  # letters of a line of text
TUNING = Path(__file__).resolve().parent.parent / "benchmarks" / "tuning.jsonl"
UNITS = {"accuracy": (100, 3, " points"), "loss": (1, 4, "")}  # factor, digits, unit of a difference

# Differences in test accuracy, points, of the three studies before this one: five seeds each, 95 % of a paired t.
EARLIER_COMMITS = ("01e37ae", "707bacd", "9847ac7")
EARLIER = {
    "augment - plain": ("+0.122 [+0.073, +0.171]", "+0.146 [+0.101, +0.191]", "+0.112 [+0.078, +0.146]"),
    "bn - plain": ("+0.032 [-0.010, +0.074]", "+0.030 [-0.083, +0.143]", "+0.060 [+0.006, +0.114]"),
    "both - plain": ("+0.124 [+0.086, +0.162]", "+0.100 [+0.059, +0.141]", "+0.098 [+0.026, +0.170]"),
    "both - augment": ("+0.002 [-0.040, +0.044]", "-0.046 [-0.078, -0.014]", "-0.014 [-0.073, +0.045]"),
    "both - bn": ("+0.092 [+0.064, +0.120]", "+0.070 [-0.011, +0.151]", "+0.038 [-0.005, +0.081]"),
    "mlp augment - mlp": ("+0.486 [+0.355, +0.617]", "not trained anew", "+0.488 [+0.411, +0.565]"),
    "lenet - mlp": ("+0.970 [+0.834, +1.106]", "+0.956 [+0.788, +1.124]", "+0.938 [+0.843, +1.033]"),
}


def report(folder: Path) -> int:
    """Print the document and draw its figures into the folder above `folder`; returns 1 if a figure failed, else 0.

    Raises UserError if the runs in `folder` are not of one study.
    """
    groups = results.read_study(folder)
    found = results.differences(groups)
    status, drawn = 0, {}
    for name, draw in figures(groups, found).items():
        try:
            figure = draw()
            replace(folder.parent / f"{name}.png", partial(save, figure))
            drawn[name] = f"![{figure.get_suptitle().replace(chr(10), ' ')}]({name}.png)"
        except Exception as error:  # of matplotlib's, whose kinds are many
            print_error(f"error: {folder.parent / name}.png: cannot be drawn: {type(error).__name__}: {error}")
            status = 1
    say(document(groups, found, drawn))
    return status


def figures(groups: Groups, found: list[Difference]) -> dict[str, Callable[[], Figure]]:
    """What draws each figure that these runs allow, by the name of its file."""
    from support.study import figures

    return figures.figures(groups, found)


def document(groups: Groups, found: list[Difference], drawn: dict[str, str]) -> str:
    """The whole document. drawn: figures as Markdown, by their names."""
    sections = [
        opening(groups),
        [*accuracy_section(groups), drawn.get("study", "")],
        [*differences_section(found), drawn.get("differences", "")],
        images_section(groups),
        speed_section(groups),
        [*train_test_section(groups), drawn.get("train_test", "")],
        [*gradients_section(groups), drawn.get("gradients", "")],
        [*moved_section(groups), drawn.get("moved", "")],
        confusion_section(groups),
        own_rate_section(),
        earlier_section(groups),
        limits_section(groups, found),
    ]
    return "\n\n".join(part for section in sections if any(section) and section[0] for part in section if part)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def text(*sentences: str) -> str:
    return fill(" ".join(sentence for sentence in sentences if sentence), WIDTH, break_on_hyphens=False)


def bullets(items: Iterable[str]) -> str:
    return "\n".join(fill(f"- {item}", WIDTH, subsequent_indent="  ", break_on_hyphens=False) for item in items)


def table(caption: str, header: list[str], rows: list[list[str]]) -> str:
    """A caption and a table whose columns are aligned in the source as well: the first left, the others right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: list[str]) -> str:
        pairs = zip(cells, widths, strict=True)
        return "| " + " | ".join(f"{cell:{'>' if place else '<'}{w}}" for place, (cell, w) in enumerate(pairs)) + " |"

    rule = "| " + " | ".join("-" * (width - 1) + (":" if place else "-") for place, width in enumerate(widths)) + " |"
    return "\n".join([text(caption), "", line(header), rule, *map(line, rows)])


def name_of(key: Configuration) -> str:
    """As on the command line of main.py."""
    return f"`{key[0]} --augment`" if key[1] else f"`{key[0]}`"


def with_interval(estimate: Estimate, metric: str = "accuracy") -> str:
    factor, digits, _ = UNITS[metric]
    return bracketed(estimate, factor, digits)


def bracketed(estimate: Estimate, factor: float = 1, digits: int = 2) -> str:
    value, low, high = (f"{factor * one:+z.{digits}f}" for one in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def interval(ends: tuple[float, float], metric: str = "accuracy") -> str:
    factor, digits, _ = UNITS[metric]
    return f"[{factor * ends[0]:+z.{digits}f}, {factor * ends[1]:+z.{digits}f}]"


def p_value(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def p_words(p: float) -> str:
    return f"p {p_value(p)}" if p < 0.0001 else f"p = {p_value(p)}"


def mean_deviation(values: np.ndarray, metric: str = "accuracy") -> str:
    factor, digits, unit = (100, 2, " %") if metric == "accuracy" else (1, 4, "")
    deviation = f" ± {factor * values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{factor * values.mean():.{digits}f}{deviation}{unit}"


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# --- what it is -------------------------------------------------------------------------------------------------------


def opening(groups: Groups) -> list[str]:
    runs = [run.history for group in groups.values() for run in group]
    first = runs[0]
    counts = sorted({len(group) for group in groups.values()})
    seeds = counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    recipe = [
        f"{first.get('optimizer', 'an optimizer')} with momentum {first.get('momentum')}"
        + " of Nesterov's kind" * bool(first.get("nesterov")),
        f"batches of {first['batch_size']}",
        f"a learning rate of {first['lr']:g} at its highest, reached after {first.get('warmup_steps')} steps, falling "
        f"to 0 over the last {percent(first.get('decay', 0), 0)} of them",
        f"weight decay {first['weight_decay']:g}",
        *([f"gradients shortened to a norm of {first['max_grad_norm']:g}"] if "max_grad_norm" in first else []),
    ]
    versions = listed(sorted({version for run in runs for version in str(run.get("torch_version", "?")).split(", ")}))
    devices = listed(sorted({device for run in runs for device in str(run.get("device", "?")).split(", ")}))
    return [
        "# What augmentation and batch normalization change, with how much certainty",
        text(
            "This document is what `python study.py --report` prints, from the histories in `study/` alone, and the "
            "figures are drawn in the same go. `python study.py` trains the runs."
        ),
        text(
            f"{len(runs)} runs: {counted(len(groups), 'configuration')} times {seeds}, {first['epochs']} epochs each, "
            f"on {first['data']} ({first['train_images']:,} training and {first['test_images']:,} test images).",
            f"One recipe for all: {', '.join(recipe)}.",
            "What is tested is the average of the weights after the last epoch; no epoch was chosen. Between two "
            "configurations only the network and the augmentation differ.",
            f"PyTorch {versions}, {devices}.",
        ),
        text(
            "The recipe was chosen on the last 10,000 training images (`benchmarks/tuning.md`). Of this recipe the "
            "test set serves this study alone. It has served three studies of an earlier recipe before: see the end."
        ),
    ]


def accuracy_section(groups: Groups) -> list[str]:
    rows = []
    for key, group in groups.items():
        row = [name_of(key), f"{group[0].history['parameters']:,}", str(len(group))]
        for metric in results.METRICS:
            values = results.last(group, metric)
            row += [mean_deviation(values, metric), half_width(values, metric)]
        rows.append(row)
    caption = (
        "Test set, last epoch: mean ± standard deviation over the seeds, and half the width of the 95 % interval of "
        "the mean (Student's t)."
    )
    header = ["configuration", "parameters", "seeds", "accuracy", "mean within, points", "loss", "mean within"]
    return ["## Accuracy and loss", table(caption, header, rows)]


def half_width(values: np.ndarray, metric: str) -> str:
    factor, digits, _ = UNITS[metric]
    if len(values) < 2:
        return ""
    found = mean_interval(values)
    return f"± {factor * (found.high - found.low) / 2:.{digits}f}"


# --- differences ------------------------------------------------------------------------------------------------------


def differences_section(found: list[Difference]) -> list[str]:
    if not found:
        return []
    rows: dict[str, list[list[str]]] = {metric: [] for metric in results.METRICS}
    for one in found:
        row = [one.comparison.name, str(one.seeds), with_interval(one.paired, one.metric)]
        row += [with_interval(one.welch, one.metric), interval(one.images, one.metric) if one.images else ""]
        row += [p_value(one.holm)] + ([p_value(one.equivalence)] if one.equivalence is not None else [])
        rows[one.metric].append(row)
    header = ["difference", "seeds", "paired by seed", "Welch", "images and seeds", "p, Holm"]
    margin = f"{100 * MARGIN:.2f} points"
    sentences = [verdict(one, found) for one in found if one.metric == "accuracy"]
    return [
        "## Differences",
        text(
            f"{len(found)} differences were named before the runs were made, in accuracy and in loss: one family, "
            "whose p values (two-sided, of the t test paired by seed) are adjusted by Holm's method. Runs with one "
            "seed share the order of the images and, where the layers are the same, the first weights, and nothing "
            "else; the interval of Welch beside it uses no pairs. Both say what new seeds would give on these test "
            "images. The third interval says what new seeds and new digits would give: a bootstrap of both (10,000 "
            "resamples, the same images for all configurations, each configuration its own seeds). Each interval is "
            f"one of 95 % by itself. Equivalence within {margin}, a margin named beforehand, is what two one-sided "
            "paired t tests show; their p values are adjusted by Holm's method among themselves."
        ),
        table(
            "Differences in accuracy, points, with 95 % intervals. `bn` is batch normalization; the interaction is "
            "both - augment - bn + plain.",
            [*header, f"p, within {margin}"],
            rows["accuracy"],
        ),
        table("Differences in loss, nats, with 95 % intervals.", header, rows["loss"]),
        "What they show:",
        bullets(sentences),
    ]


def verdict(one: Difference, found: list[Difference]) -> str:
    """What is shown of a comparison, in accuracy and in loss."""
    words = [f"{capital(one.comparison.what)}: {with_interval(one.paired)} points;"]
    if one.holm < ALPHA:
        words.append(f"a difference is shown for new seeds on these images ({p_words(one.holm)})")
        words.append(f"though Welch's interval {interval(one.welch[1:3])} holds 0" * (not one.welch.excludes_zero))
        words.append(images_words(one))
        if one.equivalence is not None and one.equivalence < ALPHA:
            words.append(f"and it is shown to be smaller than {100 * MARGIN:.2f} points")
    else:
        words.append(f"no difference is shown ({p_words(one.holm)})")
        words.append(", although its interval taken alone excludes 0," * one.paired.excludes_zero)
        assert one.equivalence is not None
        if one.equivalence < ALPHA:
            words.append(f"and equivalence within {100 * MARGIN:.2f} points is ({p_words(one.equivalence)})")
        else:
            words.append(f"and neither is equivalence within {100 * MARGIN:.2f} points ({p_words(one.equivalence)})")
    loss = next((other for other in found if other.comparison == one.comparison and other.metric == "loss"), None)
    sentence = " ".join(word for word in words if word).replace(" ,", ",") + "."
    if loss is None:
        return sentence
    shown = "a difference is shown" if loss.holm < ALPHA else "no difference is shown"
    alone = ", although the interval taken alone excludes 0" * (loss.holm >= ALPHA and loss.paired.excludes_zero)
    new = f" {images_words(loss)}" if loss.holm < ALPHA and loss.images else ""
    return f"{sentence} Loss {with_interval(loss.paired, 'loss')}; {shown} ({p_words(loss.holm)}){alone}{new}."


def images_words(one: Difference) -> str:
    if one.images is None:
        return ""
    holds = one.images[0] <= 0 <= one.images[1]
    new = f"for new digits {interval(one.images, one.metric)}"
    return f"but not {new}, which holds 0" if holds else f"and {new}, which excludes 0"


def images_section(groups: Groups) -> list[str]:
    pairs = results.mcnemar_tests(groups)
    if not pairs:
        return []
    adjusted = holm([one.pooled for one in pairs])
    rows = [
        [
            one.comparison.name,
            *(f"{number:g}" for number in (one.seeds, one.only_first, one.only_second, one.shown)),
            f"{one.detectable:.2f}" if np.isfinite(one.detectable) else "none",
            p_value(p),
        ]
        for one, p in zip(pairs, adjusted, strict=True)
    ]
    shown = [one.comparison.name for one, p in zip(pairs, adjusted, strict=True) if p < ALPHA]
    hidden = [one.comparison.name for one in pairs if one.comparison.name not in shown]
    return [
        "## The same test images",
        table(
            "McNemar's exact test for each pair of networks with one seed: test images that only the first, and only "
            "the second configuration reads right (medians over the pairs), how many pairs have a p below 5 %, and "
            "the difference in points that a pair with so many discordant images would show with a power of 80 %. "
            "Last: the test pooled over the seeds by sign flips, image by image, of the shares of networks that are "
            "right; p adjusted by Holm's method over this table.",
            ["difference", "pairs", "only first", "only second", "p < 5 %", "power 80 % at", "p, pooled"],
            rows,
        ),
        text(
            "The pairs share their test images, so their p values are not combined; pooled, images are what is random, "
            "and the networks are these.",
            f"Pooled, new digits would show a difference of these networks in {listed(shown)}." if shown else "",
            f"Not shown: {listed(hidden)}; that is no sign of equality." if hidden else "",
        ),
    ]


# --- speed ------------------------------------------------------------------------------------------------------------


def speed_section(groups: Groups) -> list[str]:
    rows = []
    for key, group in groups.items():
        accuracy = results.stack(group, "test_accuracy")
        row = [name_of(key), mean_deviation(accuracy[:, 0]), mean_deviation(accuracy.mean(1))]
        rows.append(row + [reached(results.epochs_to(group, threshold)) for threshold in results.THRESHOLDS])
    compared = {
        "bn - plain": (NORMALIZED, PLAIN),
        "both - augment": (BOTH, AUGMENTED),
        "augment - plain": (AUGMENTED, PLAIN),
        "mlp augment - mlp": (MLP_AUGMENTED, MLP),
    }
    measures: dict[str, Callable[[list[results.Run]], np.ndarray]] = {
        "after epoch 1, points": lambda group: 100 * results.stack(group, "test_accuracy")[:, 0],
        "mean over the epochs, points": lambda group: 100 * results.stack(group, "test_accuracy").mean(1),
        **{
            f"epochs to {percent(threshold, 1)}": partial(results.epochs_to, accuracy=threshold)
            for threshold in results.THRESHOLDS
        },
    }
    lines = []
    for name, pair in compared.items():
        found = [results.paired(groups, *pair, values) for values in measures.values()]
        if any(found):
            lines.append([name, *(bracketed(one) if one else "-" for one in found)])
    if not lines:
        return ["## Speed of learning", speed_table(rows)]
    return [
        "## Speed of learning",
        speed_table(rows),
        table(
            "Differences in speed, paired by seed, with 95 % intervals that are not adjusted for their number; - where "
            "not all runs get there.",
            ["difference", *measures],
            lines,
        ),
        text(
            speed_sentence(groups),
            "All have one recipe, whose learning rate LeNet-5 without batch normalization must survive: what batch "
            "normalization gains by a rate of its own is not in these figures.",
        ),
    ]


def speed_table(rows: list[list[str]]) -> str:
    header = ["configuration", "after epoch 1", "mean over the epochs"]
    header += [f"epochs to {percent(threshold, 1)}" for threshold in results.THRESHOLDS]
    caption = (
        "Test accuracy of the averaged weights on the way: mean ± standard deviation over the seeds; the epoch in "
        "which it first reaches a level, with the number of runs that do where not all do."
    )
    return table(caption, header, rows)


def reached(epochs: np.ndarray) -> str:
    there = epochs[np.isfinite(epochs)]
    if len(there) < len(epochs):
        return f"{len(there)} of {len(epochs)} runs"
    deviation = f" ± {there.std(ddof=1):.1f}" if len(there) > 1 else ""
    return f"{there.mean():.1f}{deviation}"


def speed_sentence(groups: Groups) -> str:
    found = results.paired(groups, NORMALIZED, PLAIN, lambda group: results.stack(group, "test_accuracy").mean(1))
    if not found:
        return ""
    start = (
        f"In the mean over the epochs batch normalization alone changes the accuracy by {with_interval(found)} points"
    )
    return f"{start}, an interval that {'excludes' if found.excludes_zero else 'holds'} 0."


# --- observation 1 ----------------------------------------------------------------------------------------------------


def train_test_section(groups: Groups) -> list[str]:
    rows = []
    measured = results.decomposed(groups)
    for key, group in measured.items():
        parts, above = results.decomposition(group), results.above_train(group)
        for when, choose in (("first", first_epoch), ("last", last_epoch), ("mean", all_epochs)):
            row = [name_of(key), when, f"{above.sum()} of {above.size}" if when == "mean" else ""]
            for name, values in parts.items():
                is_zero = name == "images" and not key[1]
                row.append("-" if is_zero else points(choose(values)))
            rows.append(row)
    if not rows:
        return []
    return [
        "## Observation 1: test accuracy above train accuracy",
        table(
            "Test accuracy less train accuracy as the epoch ran, in points, and the steps that lead from one to the "
            "other: from the weights as they change, in training mode, to the averaged ones on the same kind of "
            "images (`weights`; all images as they ran against the first 10,000, in one fixed draw of the "
            "augmentation); from augmented images to the same as they are (`images`); from training digits to test "
            "digits (`digits`). Means over the seeds with 95 % intervals; first and last epoch, and the mean over "
            "all. `above` counts the epochs of all runs with the test accuracy above.",
            ["configuration", "epoch", "above", "test - train", "weights", "images", "digits"],
            rows,
        ),
        bullets(train_test_sentence(key, group) for key, group in measured.items()),
        text("The first epochs, in which the weights move fastest, weigh most in these means."),
    ]


def first_epoch(values: np.ndarray) -> np.ndarray:
    return values[:, 0]


def last_epoch(values: np.ndarray) -> np.ndarray:
    return values[:, -1]


def all_epochs(values: np.ndarray) -> np.ndarray:
    return values.mean(1)


def points(values: np.ndarray) -> str:
    if len(values) < 2:
        return f"{100 * values.mean():+z.2f}"
    return bracketed(mean_interval(100 * values))


def train_test_sentence(key: Configuration, group: list[results.Run]) -> str:
    above, parts = results.above_train(group), results.decomposition(group)
    start = f"{name_of(key)}: the test accuracy is above in {above.sum()} of {above.size} epochs"
    if not above.any():
        return f"{start}."
    mean = {name: 100 * values[above].mean() for name, values in parts.items()}
    images = f"{mean['images']:+z.2f} from harder images, " * key[1]
    return (
        f"{start}; in these, by {mean['total']:+z.2f} points in the mean: {mean['weights']:+z.2f} from moving weights, "
        f"{images}{mean['digits']:+z.2f} from unseen digits."
    )


# --- observation 2 ----------------------------------------------------------------------------------------------------


def gradients_section(groups: Groups) -> list[str]:
    layers = results.shared_layers(groups)
    if not layers:
        return []
    plain, normalized = groups[PLAIN], groups[NORMALIZED]
    epochs = plain[0].history["epochs"]
    moments = {"before the first": 0, "1": 1, f"{(epochs + 1) // 2}": (epochs + 1) // 2, f"{epochs}": epochs}
    rows, sentences = [], []
    for moment, epoch in moments.items():
        scaled_ratios = []
        for layer in layers:
            norms = [results.norms(group, results.GRADIENT, layer)[:, epoch] for group in (plain, normalized)]
            scaled = [results.scaled_gradients(group, layer)[:, epoch] for group in (plain, normalized)]
            ratios = [results.ratio(two[1], two[0]) for two in (norms, scaled)]
            scaled_ratios.append(ratios[1])
            rows.append([moment, layer.upper(), *(f"{values.mean():.2g}" for values in norms), *map(times, ratios)])
        if epoch:
            losses = [results.stack(group, "train_loss")[:, epoch - 1] for group in (plain, normalized)]
            row = [moment, "train loss", *(f"{values.mean():.2g}" for values in losses)]
            rows.append([*row, times(results.ratio(losses[1], losses[0])), ""])
        sentences.append(ratio_sentence(moment, scaled_ratios))
    return [
        "## Observation 2: gradients with and without batch normalization",
        table(
            "L2 norm of the gradient of the mean loss with respect to a layer's weights, on the first 1,000 training "
            "images, of the weights as they are trained and before it is shortened: mean over the seeds without "
            "(`lenet`) and with batch normalization (`lenet_bn`), and the ratio of the second to the first as a "
            "geometric mean with its 95 % interval (Welch, of logarithms; not adjusted for their number). Norms of "
            "gradients depend on the scale of the weights, and behind a layer that is normalized that scale does not "
            "matter to the function; ‖g‖·‖W‖ does not depend on it, so the last column is the one to be compared.",
            ["epoch", "layer", "‖g‖ without", "‖g‖ with", "ratio of ‖g‖", "ratio of ‖g‖·‖W‖"],
            rows,
        ),
        text(
            f"With batch normalization ‖g‖·‖W‖ is, as a multiple of that without, {'; '.join(sentences)}.",
            "It describes these runs; it shows no cause, and says nothing of other layers, recipes or depths.",
        ),
    ]


def times(estimate: Estimate) -> str:
    return f"{estimate.value:.2g} [{estimate.low:.2g}, {estimate.high:.2g}]"


def ratio_sentence(moment: str, ratios: list[Estimate]) -> str:
    when = "before the first epoch" if moment.startswith("before") else f"after epoch {moment}"
    larger = sum(one.low > 1 for one in ratios)
    smaller = sum(one.high < 1 for one in ratios)
    span = f"{min(one.value for one in ratios):.2g} to {max(one.value for one in ratios):.2g}"
    open_ones = len(ratios) - larger - smaller
    counts = [f"larger in {larger}" * (larger > 0), f"smaller in {smaller}" * (smaller > 0)]
    counts += [f"not told apart in {open_ones}" * (open_ones > 0)]
    return f"{when} {span} ({', '.join(filter(None, counts))} of {len(ratios)} layers)"


# --- moved digits -----------------------------------------------------------------------------------------------------


def moved_section(groups: Groups) -> list[str]:
    measured = results.measured_moved(groups)
    if not measured:
        return []
    rows = [
        [move_name(move), *(mean_deviation(results.moved(group, move)) for group in measured.values())]
        for move in ("", *MOVES)
    ]
    pairs = {
        "lenet - mlp": (PLAIN, MLP),
        "augment - plain": (AUGMENTED, PLAIN),
        "bn - plain": (NORMALIZED, PLAIN),
        "both - augment": (BOTH, AUGMENTED),
        "mlp augment - mlp": (MLP_AUGMENTED, MLP),
        "mlp augment - lenet": (MLP_AUGMENTED, PLAIN),
    }
    found = {
        name: [results.paired(measured, *pair, partial(results.moved, move=move)) for move in ("", *MOVES)]
        for name, pair in pairs.items()
    }
    compared = {name: [one for one in some if one] for name, some in found.items() if all(some)}
    parts = [
        "## Digits that were moved",
        table(
            "Accuracy on test digits shifted by 1 to 4 pixels (mean over left, right, up and down; at 4, 0.8 % of "
            "MNIST's ink leaves the image) and turned by 5 to 25 degrees (mean over both ways, bilinear): mean ± "
            f"standard deviation over the seeds.{augmentation_range(groups)}",
            ["test digits", *map(name_of, measured)],
            rows,
        ),
    ]
    if compared:
        lines = [
            [move_name(move), *(f"{100 * one.value:+z.2f} ± {half(one):.2f}" for one in ones)]
            for move, ones in zip(("", *MOVES), zip(*compared.values(), strict=True), strict=True)
        ]
        caption = (
            "Differences in points, paired by seed: mean, and half the width of its 95 % interval, not adjusted for "
            "their number."
        )
        parts += [table(caption, ["test digits", *compared], lines)]
        parts += [bullets(moved_sentence(name, some) for name, some in compared.items())]
    return parts


def augmentation_range(groups: Groups) -> str:
    """How far the augmentation moves digits, if there are augmented runs that say so."""
    recipes = [run.history for group in groups.values() for run in group if "rotation" in run.history]
    if not recipes:
        return ""
    shift, turn = 28 * recipes[0]["translation"], recipes[0]["rotation"]
    return f" The augmentation shifts by up to {shift:.1f} pixels, beside a crop, and turns by up to {turn:g} degrees."


def half(estimate: Estimate) -> float:
    return 100 * (estimate.high - estimate.low) / 2


def move_name(move: str) -> str:
    if not move:
        return "as they are"
    kind, size = move[:5].rstrip("0123456789"), int("".join(letter for letter in move if letter.isdigit()))
    return f"shifted by {counted(size, 'pixel')}" if kind == "shift" else f"turned by {size}°"


def moved_sentence(name: str, found: list[Estimate]) -> str:
    higher = [move_name(move) for one, move in zip(found[1:], MOVES, strict=True) if one.low > 0]
    lower = [move_name(move) for one, move in zip(found[1:], MOVES, strict=True) if one.high < 0]
    words = []
    for side, moves in (("above", higher), ("below", lower)):
        if moves:
            every = "of all nine kinds of moved digits" if len(moves) == len(MOVES) else f"of digits {listed(moves)}"
            words.append(f"the interval lies {side} 0 {every}")
    if len(higher) + len(lower) < len(MOVES):
        words.append("it holds 0 for the others" if words else "every interval holds 0")
    largest = max(range(len(MOVES)), key=lambda place: abs(found[1 + place].value))
    size = (
        f"the largest difference is {100 * found[1 + largest].value:+z.2f} points, "
        f"of digits {move_name(MOVES[largest])}"
    )
    return f"{name}: {'; '.join(words)}; {size}."


def confusion_section(groups: Groups) -> list[str]:
    """The confusions that are most frequent over all seeds."""
    whole = {key: group for key, group in groups.items() if all(run.arrays for run in group)}
    if not whole:
        return []
    counts = {key: results.confusions(group) for key, group in whole.items()}
    total = sum(counts.values(), np.zeros(()))
    order = np.argsort(-total, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [tuple(map(int, pair)) for pair in np.transpose(np.unravel_index(order, total.shape)) if total[tuple(pair)]]
    if not pairs:
        return []
    rows = [
        [f"{label} read as {read}", *(f"{one[label, read]:.1f}" for one in counts.values())] for label, read in pairs
    ]
    rows.append(["all others", *(f"{one.sum() - sum(one[pair] for pair in pairs):.1f}" for one in counts.values())])
    caption = (
        "The confusions that are most frequent in all runs together: wrong test images per network, mean over the "
        "seeds. They are counts of few images, shown to be looked at; no test stands behind their order."
    )
    return ["## Which digits", table(caption, ["confusion", *map(name_of, whole)], rows)]


# --- what stands around it --------------------------------------------------------------------------------------------


def own_rate_section() -> list[str]:
    """LeNet-5 with and without batch normalization at other learning rates, from the tuning log, if it has them."""
    if not TUNING.is_file():
        return []
    runs = [json.loads(line) for line in TUNING.read_text().splitlines()]
    rows = []
    for name in sorted({run["row"] for run in runs if run["row"].startswith("rate-")} | {"start"}, reverse=True):
        cells = []
        for network in ("lenet", "lenet_bn"):
            chosen = [run for run in runs if (run["row"], run["network"]) == (name, network)]
            if chosen:
                loss, accuracy = (np.array([run[metric][-1] for run in chosen]) for metric in ("loss", "accuracy"))
                cells += [mean_deviation(accuracy), mean_deviation(loss, "loss")]
        if len(cells) == 4:
            rows.append(["the recipe's" if name == "start" else name.removeprefix("rate-"), *cells])
    if not rows:
        return []
    caption = (
        "After 5 epochs, on the last 10,000 training images, held out, trained on the others: mean ± standard "
        "deviation over 3 seeds, of `benchmarks/tuning.jsonl`. It is measured beside the study, not in it: no test "
        "image, and no configuration more. The recipe's rate is one that LeNet-5 without batch normalization "
        "survives; with it, higher ones are survived, too, which one recipe for all does not use."
    )
    header = ["learning rate", "`lenet`: accuracy", "loss", "`lenet_bn`: accuracy", "loss"]
    return ["## Batch normalization at a rate of its own", table(caption, header, sorted(rows))]


def earlier_section(groups: Groups) -> list[str]:
    if next(iter(groups.values()))[0].history["data"] != "MNIST":
        return []
    rows = [[name, *values] for name, values in EARLIER.items()]
    return [
        "## What the studies before gave",
        text(
            "The study was trained three times before, with a learning rate that climbed for five epochs (commits "
            f"{listed([f'`{commit}`' for commit in EARLIER_COMMITS])}; 01e37ae and 9847ac7 all six configurations, "
            "707bacd LeNet-5's four, beside the MLPs of 01e37ae). The test set was looked at each time, and the "
            "README showed the last. They differ by more than their intervals suggest to a reader who sees one of "
            "them: in the last alone the interval of batch normalization alone excludes 0; in the second alone both "
            "together are worse than augmentation alone with an interval that excludes 0."
        ),
        table(
            "Differences in test accuracy after the last epoch, points, five seeds each, paired by seed with 95 % "
            "intervals, not adjusted.",
            ["difference", *EARLIER_COMMITS],
            rows,
        ),
    ]


def limits_section(groups: Groups, found: list[Difference]) -> list[str]:
    unequal = [one for one in found if one.metric == "accuracy" and one.holm >= ALPHA]
    equal = [one for one in unequal if one.equivalence is not None and one.equivalence < ALPHA]
    items = [
        "Nothing about other data, networks, sizes or recipes: one data set, one recipe, tuned for all at once.",
        "No mechanism: that a configuration is better does not say why.",
        "The intervals of new digits stand for digits drawn as MNIST's test set was, by other writers of the same "
        f"kinds; with {counted(min(map(len, groups.values())), 'seed')} the seeds' part of them is a little short.",
    ]
    if len(unequal) > len(equal):
        open_ones = [one.comparison.name for one in unequal if one not in equal]
        items.append(f"No equality where no difference is shown: {listed(open_ones)}.")
    items.append("Single entries of the unadjusted tables: of twenty such intervals one misses its value on average.")
    return ["## What does not follow", bullets(items)]
