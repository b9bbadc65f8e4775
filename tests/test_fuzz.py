"""The short forms of the two harnesses; `python tests/fuzz.py` and `python tests/bounds.py` are the long ones."""

import re

import bounds
import fuzz


def test_damaged_data_load_or_are_refused() -> None:
    figures = fuzz.run(count=480, seed=1)
    assert figures["broken"] == []
    # the damage is neither so heavy that all is refused at the first look, nor so light that nothing is tested
    assert figures["loaded"].total() + figures["refused"].total() == 480
    for depth in fuzz.DEPTHS:
        assert figures["refused"][depth] > 5
    for depth in ("containers", "headers", "pax", "kinds", "chunks", "idx", "folder"):
        assert figures["loaded"][depth] > 1


def test_hostile_data_are_read_or_refused_within_bounds(tmp_path) -> None:
    """Each kind once, a thousandth as large; what a kind costs at its full size is what the long form measures."""
    for group, kinds in bounds.KINDS.items():
        for number, make in enumerate(kinds):
            path = tmp_path / f"{group}{number}" / "train-images-idx3-ubyte"
            (path if make is bounds.folders else path.parent).mkdir(parents=True)
            make(path, 0.001)
            figures = bounds.measure(path)
            assert re.search("[0-9] images|is damaged|is a damaged PNG|holds no images", figures["result"])
            assert figures["memory"] < bounds.MAX_MEMORY
