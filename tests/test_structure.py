"""How the house is built, read from its syntax trees: imports go one way, rooms keep to budgets, doors are used."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUDGETS = {  # lines of Python, at most; behind it the plan's, where more was needed
    "dataset.py": 190,
    "model.py": 80,
    "main.py": 350,
    "plot.py": 320,
    "predict.py": 170,
    "study.py": 220,
    "support/*.py": 180,
    "support/data/*.py": 480,
    "support/run/*.py": 480,
    "support/compute/*.py": 456,  # 380
    "support/figures/*.py": 290,
    "support/digits/*.py": 1080,
    "support/study/*.py": 640,
    "support/**/*.py": 3500,
    "benchmarks/*.py": 1000,
    "tests/*.py": 6500,
}
TRIO = ("dataset", "model", "main", "plot")
BELOW = {  # the rooms that a room may know besides itself and the ground
    "data": set(),
    "run": set(),
    "compute": set(),
    "figures": {"run"},
    "digits": {"figures", "run", "data", "compute"},
    "study": {"figures", "run", "data", "compute"},
}
SOURCES = {  # every module by its dotted name; a room by its own
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text("utf-8"))
    for path in (*ROOT.glob("*.py"), *ROOT.glob("support/**/*.py"))
}
SUPPORT = {name for name in SOURCES if name.startswith("support.")}
TOP = {name for name in SOURCES if "." not in name} - {"support"}


def imported(tree: ast.AST) -> set[str]:
    """The modules that a syntax tree imports anywhere in it, inside of functions too; ours by their whole names."""
    found: set[str] = set()
    conditions = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    for_mypy = {inner for node in conditions if ast.unparse(node.test) == "TYPE_CHECKING" for inner in ast.walk(node)}
    for node in set(ast.walk(tree)) - for_mypy:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & SUPPORT
            found |= modules or {node.module}
    return {name if name in SUPPORT else name.partition(".")[0] for name in found}


IMPORTS = {name: imported(tree) for name, tree in SOURCES.items()}


def room_of(name: str) -> str:
    """`run` for support.run and its modules; nothing for the ground."""
    return name.split(".")[1] if name.split(".")[1] in BELOW else ""


def reached(*starts: str) -> set[str]:
    """All that importing these modules may import in the end: our modules, and the names of packages."""
    found: set[str] = set()
    waiting = set(starts)
    while waiting:
        found |= waiting
        waiting = {other for name in waiting for other in IMPORTS.get(name, ())} - found
    return found


def test_the_rooms_are_there() -> None:
    assert set(TRIO) | {"predict", "study"} == TOP
    assert {room_of(name) for name in SUPPORT} == {*BELOW, ""}


@pytest.mark.parametrize(("files", "most"), BUDGETS.items())
def test_a_room_keeps_to_its_budget(files, most) -> None:
    assert sum(len(path.read_text("utf-8").splitlines()) for path in ROOT.glob(files)) <= most


@pytest.mark.parametrize("name", sorted(SUPPORT))
def test_rooms_import_downwards_only(name) -> None:
    assert not IMPORTS[name] & (TOP | {"benchmarks", "tests"})
    known = {room_of(other) for other in IMPORTS[name] & SUPPORT} - {""}
    assert known <= BELOW.get(room_of(name), set()) | {room_of(name)}


@pytest.mark.parametrize("name", sorted(TOP))
def test_who_stands_on_a_room_comes_through_its_doors(name) -> None:
    """A module of a room may be imported as such; its names are handed on by the room."""
    inside = {f"{node.module}" for node in ast.walk(SOURCES[name]) if isinstance(node, ast.ImportFrom)}
    assert not {module for module in inside & SUPPORT if room_of(module) and module.count(".") > 1}


def test_the_parts_of_the_story_do_not_know_one_another_and_the_recipe_knows_no_command() -> None:
    known = {name: IMPORTS[name] & TOP for name in TRIO}
    assert known == {"dataset": set(), "model": set(), "plot": set(), "main": {"dataset", "model", "plot"}}


@pytest.mark.parametrize("name", ["plot", "support.data", "support.run", "support.figures"])
def test_these_do_without_torch(name) -> None:
    assert not reached(name) & {"torch", "torchvision"}


def test_the_trio_stays_on_six_packages() -> None:
    """scipy, of which an import takes a third of a second, is for predict.py and study.py only."""
    packages = reached(*TRIO) - SOURCES.keys() - sys.stdlib_module_names
    assert packages == {"torch", "numpy", "matplotlib", "PIL", "tqdm", "filelock"}


def test_no_module_hides_a_package_that_is_installed() -> None:
    """The folder of a script comes first on Python's path: benchmarks/cuda.py would be what torch imports as cuda."""
    ours = {path.stem for folder in ("", "benchmarks", "tests") for path in (ROOT / folder).glob("*.py")}
    assert not ours & (set(packages_distributions()) | sys.stdlib_module_names)
