"""wip"""

from pathlib import Path


def report(folder: Path) -> None:
    pass
