"""The short forms of two stress tests; `python tests/fuzz.py` and `python tests/bounds.py` are the long ones."""

import re

import bounds
import fuzz
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")  # of members of a zip, as it is damaged


@pytest.mark.slow
def test_damaged_data_load_or_are_refused() -> None:
    """The damage is neither so heavy that all is refused at the first look, nor so light that nothing is tested."""
    counts, _ = fuzz.run(count=2000, seed=1)
    assert all(counts[kind, True] > 2 and counts[kind, False] > 20 for kind in fuzz.KINDS)


def test_a_few_damaged_data_load_or_are_refused() -> None:
    fuzz.run(count=150, seed=2)


@pytest.mark.parametrize("name", bounds.KINDS)
def test_hostile_data_are_read_or_refused_within_bounds(tmp_path, name) -> None:
    """Each kind a thousandth as large; what it costs at its full size is what the long form measures."""
    figures = bounds.measure(bounds.make(name, tmp_path, 0.001))
    assert re.search("[0-9] images|damaged|holds no|goes on behind|is empty|begins with", figures["result"])
    assert figures["memory"] < bounds.MAX_MEMORY
