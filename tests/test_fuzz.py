"""The short form of the fuzzer; `python tests/fuzz.py` is the long one."""

import fuzz


def test_damaged_archives_load_or_are_refused() -> None:
    figures = fuzz.run(count=400, seed=1)
    assert figures["broken"] == []
    # the damage is neither so heavy that all is refused at the first look, nor so light that nothing is tested
    assert figures["loaded"].total() + figures["refused"].total() == 400
    for depth in fuzz.DEPTHS:
        assert figures["refused"][depth] > 5
    assert figures["loaded"].total() > 25
