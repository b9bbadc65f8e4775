"""How the house is built, read from its syntax trees: imports go one way, rooms keep to budgets, doors are used."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUDGETS = {  # lines of Python at most; where the plan asked for less, it stands beside
    "dataset.py": 190,
    "model.py": 80,
    "main.py": 431,  # 350
    "plot.py": 320,
    "predict.py": 177,  # 170
    "study.py": 220,
    "support/*.py": 206,  # 180
    "support/data/*.py": 480,
    "support/run/*.py": 555,  # 480
    "support/compute/*.py": 479,  # 380
    "support/figures/*.py": 290,
    "support/digits/*.py": 1272,  # 1,080
    "support/study/*.py": 640,
    "support/**/*.py": 3935,  # 3,500
    "benchmarks/*.py": 1111,  # 1,000
    "tests/*.py": 8150,  # 6,500
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
MAX_PARAMETERS = 5
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
            assert node.level == 0, "a relative import"
            assert node.module is not None
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
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += IMPORTS.get(name, ())
    return found


def test_the_rooms_are_there() -> None:
    assert set(TRIO) | {"predict", "study"} == TOP
    assert {room_of(name) for name in SUPPORT} == {*BELOW, ""}
    assert any(room_of(name) == "data" for name in IMPORTS["dataset"] & SUPPORT), "the trees say what they import"


@pytest.mark.parametrize(("files", "most"), BUDGETS.items())
def test_a_room_keeps_to_its_budget(files, most) -> None:
    assert sum(len(path.read_text("utf-8").splitlines()) for path in ROOT.glob(files)) <= most


@pytest.mark.parametrize("name", sorted(SUPPORT))
def test_rooms_import_downwards_only(name) -> None:
    assert not IMPORTS[name] & (TOP | {"benchmarks", "tests"})
    known = {room_of(other) for other in IMPORTS[name] & SUPPORT} - {""}
    assert known <= BELOW.get(room_of(name), set()) | {room_of(name)}


@pytest.mark.parametrize("name", sorted(SUPPORT))
def test_no_module_of_support_leads_back_to_itself(name) -> None:
    """A room's doors lead into the room; whoever is in it does not come through them."""
    assert name not in reached(*(IMPORTS[name] - {f"support.{room_of(name)}"}))


@pytest.mark.parametrize("name", sorted(TOP))
def test_who_stands_on_a_room_comes_through_its_doors(name) -> None:
    """A module of a room may be imported as such; its names are handed on by the room."""
    inside = {f"{node.module}" for node in ast.walk(SOURCES[name]) if isinstance(node, ast.ImportFrom)}
    assert not {module for module in inside & SUPPORT if room_of(module) and module.count(".") > 1}


@pytest.mark.parametrize("name", ["dataset", "model", "plot"])
def test_data_networks_and_figures_do_not_know_one_another(name) -> None:
    assert not IMPORTS[name] & TOP


def test_the_recipe_knows_the_story_and_no_command() -> None:
    assert IMPORTS["main"] & TOP == {"dataset", "model", "plot"}


def test_no_room_is_called_after_nothing() -> None:
    assert not {name.rpartition(".")[2] for name in SOURCES} & {"utils", "util", "helpers", "misc", "common", "tools"}


@pytest.mark.parametrize("name", ["plot", "support.data", "support.run", "support.figures"])
def test_these_do_without_torch(name) -> None:
    assert not reached(name) & {"torch", "torchvision"}


def test_the_trio_stays_on_seven_packages() -> None:
    """scipy, of which an import takes a third of a second, is for predict.py and study.py only."""
    packages = reached(*TRIO) - SOURCES.keys() - sys.stdlib_module_names
    assert packages == {"torch", "numpy", "matplotlib", "PIL", "tqdm", "filelock"}


@pytest.mark.parametrize("name", TRIO)
def test_no_function_of_the_story_takes_more_than_five_parameters(name) -> None:
    functions = [node for node in SOURCES[name].body if isinstance(node, ast.FunctionDef)]
    assert functions
    for function in functions:
        given = function.args
        parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        assert len([one for one in parameters if one]) <= MAX_PARAMETERS, function.name


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"support"}))
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
