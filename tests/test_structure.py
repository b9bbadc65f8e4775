"""How the house is built, read from its syntax trees: imports go one way, the trio stays short, doors stay narrow."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRIO = {"dataset": 200, "model": 130, "main": 450, "plot": 430}  # lines at most
MAX_PARAMETERS = 5
SOURCES = {  # every module by its dotted name
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in (*ROOT.glob("*.py"), *ROOT.glob("support/**/*.py"))
}
SUPPORT = {name for name in SOURCES if name.startswith("support.") and name != "support.__init__"}
TOP = {name for name in SOURCES if "." not in name}


def imported(tree: ast.AST) -> set[str]:
    """The modules that a syntax tree imports anywhere in it, inside of functions too; ours by their whole names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names} & SUPPORT
            found |= names or {node.module}
    return {name if name in SUPPORT else name.partition(".")[0] for name in found}


IMPORTS = {name: imported(tree) for name, tree in SOURCES.items()}


def reached(*starts: str) -> set[str]:
    """All that importing these modules may import in the end: our modules, and the names of packages."""
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += IMPORTS.get(name, ())
    return found


def test_the_rooms_are_there() -> None:
    assert set(TRIO) <= TOP
    assert {
        "support.data.images",
        "support.run.history",
        "support.compute.fast_layers",
        "support.digits.ink",
    } <= SUPPORT
    assert "support.data.images" in IMPORTS["dataset"], "what is read from the trees is what they import"


@pytest.mark.parametrize("room", sorted(SUPPORT))
def test_no_room_of_support_imports_what_stands_on_it(room) -> None:
    assert not IMPORTS[room] & (TOP | {"benchmarks", "tests"})


@pytest.mark.parametrize("room", sorted(SUPPORT))
def test_no_room_of_support_leads_back_to_itself(room) -> None:
    assert room not in reached(*IMPORTS[room])


@pytest.mark.parametrize("name", ["dataset", "model", "plot"])
def test_data_networks_and_figures_do_not_know_one_another(name) -> None:
    assert not IMPORTS[name] & TOP


def test_the_recipe_knows_the_story_and_no_command() -> None:
    assert IMPORTS["main"] & TOP == {"dataset", "model", "plot"}


def test_no_room_is_called_after_nothing() -> None:
    assert not {name.rpartition(".")[2] for name in SOURCES} & {"utils", "util", "helpers", "misc", "common", "tools"}


@pytest.mark.parametrize(
    "name", ["plot", "support.data.images", "support.run.history", "support.digits.ink", "support.figures.axes"]
)
def test_these_do_without_torch(name) -> None:
    assert not reached(name) & {"torch", "torchvision"}


def test_the_trio_stays_on_six_packages() -> None:
    """scipy, of which an import takes a third of a second, is for predict.py and study.py only."""
    packages = reached(*TRIO) - SOURCES.keys() - sys.stdlib_module_names - {"support"}
    assert packages == {"torch", "torchvision", "numpy", "matplotlib", "PIL", "tqdm"}


def test_scipy_serves_the_two_commands() -> None:
    rooms = {name for name in SOURCES if "scipy" in IMPORTS[name]}
    assert rooms
    assert rooms <= reached("predict", "study")


@pytest.mark.parametrize(("name", "most"), TRIO.items())
def test_the_story_is_short(name, most) -> None:
    text = (ROOT / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= most


@pytest.mark.parametrize("name", TRIO)
def test_no_function_of_the_story_takes_more_than_five_parameters(name) -> None:
    functions = [node for node in SOURCES[name].body if isinstance(node, ast.FunctionDef)]
    assert functions
    for function in functions:
        given = function.args
        parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        assert len([one for one in parameters if one]) <= MAX_PARAMETERS, function.name


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"support.__init__"}))
def test_each_file_opens_with_what_it_is(name) -> None:
    assert ast.get_docstring(SOURCES[name])


@pytest.mark.parametrize("name", TRIO)
def test_public_functions_of_the_story_say_what_they_take_and_return(name) -> None:
    for function in (node for node in SOURCES[name].body if isinstance(node, ast.FunctionDef)):
        hints = [argument.annotation for argument in (*function.args.args, *function.args.kwonlyargs)]
        assert all([*hints, function.returns]), function.name


def test_no_module_hides_a_package_that_is_installed() -> None:
    """The folder of a script comes first on Python's path: benchmarks/cuda.py would be what torch imports as cuda."""
    ours = {path.stem for folder in ("", "benchmarks", "tests") for path in (ROOT / folder).glob("*.py")}
    assert not ours & (set(packages_distributions()) | sys.stdlib_module_names)
