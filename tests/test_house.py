"""The rules of the house, held by reading the source: floors, rooms, closets, names, and what must be written down.

CONTRIBUTING.md says what they are for. The source is parsed, not imported, so that nothing here depends on what is
installed. A new file fails here until it has been given its floor.
"""

from __future__ import annotations

import ast
import fnmatch
import graphlib
import importlib
import inspect
import math
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import packages_distributions
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autoresearch_ray
from autoresearch_ray import errors
from autoresearch_ray.cli import VERBS, main
from autoresearch_ray.doctor import EXTRAS
from autoresearch_ray.ports import Case, Policy, named

ROOT = Path(__file__).parents[1]
OURS = "autoresearch_ray"

# Imports go down or stay on their floor. A folder stands as a whole.
FLOORS = {
    "words": "errors model events messages",
    "thought": (
        "ports pace noise evidence pool suspicion breaker fleet money layered account outside categories memory "
        "objective lane catalogue board draft verdicts meanwhile by_hand confirming gathering limits orders policies "
        "markdown metrics sections program advice digest brief proposals certainty timesheet results comparison report "
        "picture sameness merge repair skill"
    ),
    "hands": (
        "process guardian slot_clock slot ledger inbox bare tree store patch repo sandbox caches room remote mirror "
        "checkup evaluator reading logs monitors agents"
    ),
    "work": "researcher worker coordinator seating team run_folder restore listening",
    "distance": "actors",
    "faces": "session doctor steering answers tools driving mcp_server cli __init__ __main__",
}
FLOOR = {name: floor for floor, names in enumerate(FLOORS.values()) for name in names.split()}

# What is foreign, and the files or folders that may import it. pyproject.toml bans each everywhere else.
ROOMS = {
    "subprocess": ["process.py"],
    "ray": ["actors.py"],
    "pydantic": ["program.py", "ledger.py", "inbox.py"],
    "yaml": ["program.py"],
    "pynvml": ["monitors/_driver.py"],
    "psutil": ["monitors/cpu.py"],
    "openai": ["agents/llm.py"],
    "optuna": ["agents/knobs.py"],
    "matplotlib": ["picture.py"],
    "mcp": ["mcp_server.py"],
    "click": ["cli/"],
    "rich": ["cli/"],
}

# What decides may import this much of the standard library: no clock, no disk, no chance.
PURE = {
    "errors",
    "model",
    "events",
    "messages",
    "pace",
    "noise",
    "evidence",
    "pool",
    "suspicion",
    "breaker",
    "fleet",
    "money",
    "meanwhile",
    "layered",
    "account",
    "categories",
    "memory",
    "outside",
    "objective",
    "lane",
    "catalogue",
    "board",
    "draft",
    "verdicts",
    "by_hand",
    "confirming",
    "gathering",
    "limits",
    "orders",
    "policies",
}
STILL = {
    "__future__",
    "bisect",
    "collections",
    "copy",
    "dataclasses",
    "enum",
    "fnmatch",
    "functools",
    "hashlib",
    "heapq",
    "math",
    "re",
    "typing",
}

CLOSETS = ("agents.", "policies.", "monitors.")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Module:
    name: str  # "model", "agents.claude", "cli" for the __init__.py of a folder
    path: str  # below the package
    tree: ast.Module

    def at(self, node: ast.AST) -> str:
        return f"{OURS}/{self.path}:{getattr(node, 'lineno', 1)}"


@dataclass(frozen=True)
class Import:
    by: Module
    node: ast.stmt
    target: str  # the name of a module of ours, or of a foreign package
    lazy: bool  # inside a function
    typing: bool  # for the type checker alone

    def __str__(self) -> str:
        return f"{self.by.at(self.node)} imports {self.target}"


def modules() -> Iterator[Module]:
    for file in sorted((ROOT / OURS).rglob("*.py")):
        path = file.relative_to(ROOT / OURS)
        name = ".".join(path.with_suffix("").parts)
        yield Module(name.removesuffix(".__init__"), str(path), ast.parse(file.read_text()))


MODULES = {each.name: each for each in modules()}


def imports(module: Module) -> Iterator[Import]:
    def walk(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, child, target(alias.name), lazy, typing)
            elif isinstance(child, ast.ImportFrom):
                assert child.module and not child.level, f"{module.at(child)}: an import is written out in full"
                for alias in child.names:
                    yield Import(module, child, target(child.module, alias.name), lazy, typing)
            else:
                guard = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
                yield from walk(child, lazy or isinstance(child, FUNCTIONS), typing or guard)

    return walk(module.tree, False, False)


def target(source: str, name: str = "") -> str:
    """`from source import name` in the words of `Import.target`."""
    package, _, inner = source.partition(".")
    if package != OURS:
        return package
    below = f"{inner}.{name}".strip(".")
    return below if below in MODULES else inner or "__init__"


IMPORTS = [each for module in MODULES.values() for each in imports(module)]


def nodes(kind: type[ast.AST]) -> Iterator[tuple[Module, ast.AST]]:
    return ((module, node) for module in MODULES.values() for node in ast.walk(module.tree) if isinstance(node, kind))


def floor(name: str) -> int:
    return FLOOR[name.partition(".")[0]]


# --- Floors ----------------------------------------------------------------------------------------------------------


def test_every_module_stands_on_one_floor() -> None:
    names = " ".join(FLOORS.values()).split()
    assert len(names) == len(set(names)), "a module stands on two floors"
    assert set(names) == {each.partition(".")[0] for each in MODULES}


def test_contributing_shows_these_floors() -> None:
    rows = re.findall(r"^\| (\d) (\w+) \|([^|]+)\|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    shown = {name: set(re.findall(r"`(\w+)/?`", modules)) for _, name, modules in rows}
    assert shown == {name: set(modules.split()) for name, modules in FLOORS.items()}
    assert [int(number) for number, *_ in rows] == list(range(len(FLOORS)))


def test_the_architecture_draws_every_module() -> None:
    drawing = re.search(r"^0 words.*?^```", (ROOT / "ARCHITECTURE.md").read_text(), re.M | re.S)
    assert drawing and FLOOR.keys() - set(re.findall(r"\w+", drawing[0])) == set()


def test_imports_go_down_or_stay_on_their_floor() -> None:
    assert [str(each) for each in IMPORTS if each.target in MODULES and floor(each.target) > floor(each.by.name)] == []


def test_no_two_modules_need_each_other() -> None:
    needs: dict[str, set[str]] = {}
    for each in IMPORTS:
        if each.target in MODULES and not each.typing:
            needs.setdefault(each.by.name, set()).add(each.target)
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_what_decides_knows_no_clock_no_disk_and_no_chance() -> None:
    pure = {each for each in MODULES if each.partition(".")[0] in PURE}
    allowed = pure | STILL | {"ports"}
    assert [str(each) for each in IMPORTS if each.by.name in pure and each.target not in allowed] == []
    opened = [module.at(node) for module, node in nodes(ast.Name) if module.name in pure and node.id == "open"]
    assert opened == []


# --- Rooms -----------------------------------------------------------------------------------------------------------


def foreign() -> list[Import]:
    known = (sys.stdlib_module_names - {"subprocess"}) | MODULES.keys()
    return [each for each in IMPORTS if each.target not in known]


def project() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_each_foreign_package_is_imported_in_its_rooms_and_in_each_of_them() -> None:
    strays = [str(each) for each in foreign() if not each.by.path.startswith(tuple(ROOMS.get(each.target, ["?"])))]
    assert strays == []
    for package, rooms in ROOMS.items():
        for room in rooms:
            assert any(each.target == package and each.by.path.startswith(room) for each in foreign()), (package, room)


def test_ruff_bans_each_foreign_package_and_says_where_it_lives() -> None:
    lint = project()["tool"]["ruff"]["lint"]
    bans = lint["flake8-tidy-imports"]["banned-api"]
    assert bans.keys() == ROOMS.keys()
    for package, rooms in ROOMS.items():
        assert all(f"{OURS}/{room}" in bans[package]["msg"] for room in rooms), (package, bans[package])
    exempt = [glob for glob, rules in lint["per-file-ignores"].items() if "TID251" in rules and glob.startswith(OURS)]
    rooms = {f"{OURS}/{room}" for rooms in ROOMS.values() for room in rooms}
    assert [room for room in rooms if not any(fnmatch.fnmatch(room, glob) for glob in exempt)] == []
    assert [glob for glob in exempt if not any(fnmatch.fnmatch(room, glob) for room in rooms)] == []


def test_what_is_declared_is_imported_and_what_is_imported_is_declared() -> None:
    declared = project()["project"]
    sources = {"": declared["dependencies"], **declared["optional-dependencies"]}
    distributions = packages_distributions()
    for extra in ("", *EXTRAS.values()):
        packages = {each.target for each in foreign()} - {"subprocess"}
        mine = {each for each in packages if EXTRAS.get(each, "") == extra}
        names = {re.split(r"[^\w-]", each)[0].lower() for each in sources[extra]}
        assert names == {distributions[each][0].lower() for each in mine}, extra or "dependencies"


def test_an_extra_is_imported_only_where_it_is_used() -> None:
    assert [str(each) for each in foreign() if each.target in EXTRAS and not each.lazy] == []


# --- The front door --------------------------------------------------------------------------------------------------


def test_the_public_names_are_the_same_in_all_three_places_and_resolve() -> None:
    door = MODULES["__init__"].tree
    (block,) = (each for each in door.body if isinstance(each, ast.If))
    typed = {
        alias.asname: each.module for each in block.body if isinstance(each, ast.ImportFrom) for alias in each.names
    }
    (rooms,) = (
        each.value for each in door.body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "_ROOMS"
    )
    assert typed == {name: f"{OURS}.{room}" for name, room in ast.literal_eval(rooms).items()}
    assert sorted(typed) == autoresearch_ray.__all__ == dir(autoresearch_ray)
    for name, module in typed.items():
        assert getattr(autoresearch_ray, name) is getattr(importlib.import_module(module), name)


def test_the_package_by_itself_costs_nothing_foreign() -> None:
    code = f"import sys, {OURS}; print(*{{each.partition('.')[0] for each in sys.modules}} & {set(ROOMS)})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_an_example_and_is_named_in_the_readme(verb: str) -> None:
    command = main.get_command(click.Context(main), verb)
    assert command is not None and command.name == verb and command.help
    text = f"{command.help}\n{command.epilog}"
    assert re.search(rf"Example:\s+autoresearch-ray {verb}\b", text), f"`{verb} --help` shows no example"
    readme = (ROOT / "README.md").read_text()
    section = re.search(r"^## Commands\n(.*?)(?=^## |\Z)", readme, re.M | re.S)
    assert section, "README.md has no section `## Commands`"
    assert re.search(rf"(?:autoresearch-ray |`){verb}\b", section[1]), f"README.md, `## Commands`, lacks `{verb}`"


# --- Errors ----------------------------------------------------------------------------------------------------------

ERRORS = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, Exception)]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_travels_between_processes_whole(kind: type[errors.AutoresearchError]) -> None:
    parameters = inspect.signature(kind).parameters.values()
    values = {each.name: 7 if each.annotation == "int" else f"the {each.name}" for each in parameters}
    by_name = {each.name: values[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    in_order = [value for name, value in values.items() if name not in by_name]
    for error in (kind(*in_order, **by_name), kind(**values)):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and str(again) == str(error)
        assert vars(again) == vars(error) and values.items() <= vars(again).items()
    assert kind.__doc__ and "__doc__" in vars(kind) and kind.exit_status in (1, 2)


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = re.findall(r"^ {4}(?:[├└]── )?(\w+)", errors.__doc__ or "", re.M)
    assert drawn == [each.__name__ for each in ERRORS]
    assert {each.__base__ for each in ERRORS[1:]} == {errors.AutoresearchError}


def test_every_error_that_is_made_has_a_hint() -> None:
    kinds = {each.__name__ for each in ERRORS}
    bare = [
        module.at(node)
        for module, node in nodes(ast.Call)
        if ast.unparse(node.func) in kinds and len(node.args) < 2 and "hint" not in {each.arg for each in node.keywords}
    ]
    assert bare == []


# --- Closets ---------------------------------------------------------------------------------------------------------


NAMED = [each for each in MODULES if each.startswith(CLOSETS) and re.search(r"\.[^_]", each)]


@pytest.mark.parametrize("name", NAMED)
def test_a_name_is_a_file_with_one_public_class(name: str) -> None:
    classes = [each for each in MODULES[name].tree.body if isinstance(each, ast.ClassDef) and each.name[0] != "_"]
    assert len(classes) == 1 and ast.get_docstring(classes[0])


def test_a_policy_knows_only_the_port_and_the_words() -> None:
    policies = [each for each in IMPORTS if each.by.name.startswith("policies.") and each.target in MODULES]
    assert [str(each) for each in policies if not re.match(r"model$|ports$|noise$|policies\.", each.target)] == []


sizes = st.floats(1e-6, 1e3)
gains = st.floats(-1e6, 1e6)
cases = st.builds(
    Case,
    gain=gains,
    error=sizes,
    n=st.integers(1, 40),
    sigma=sizes,
    prior=st.tuples(gains, st.just(0.0) | sizes),
    worth=st.floats(0, 1e3) | st.just(math.inf),
    lead=st.none() | gains,
    lines=st.integers(-99, 99),
)
known = cases | st.builds(lambda case: replace(case, sigma=0.0, error=0.0), cases)  # or the noise is not known


@pytest.mark.parametrize("name", [each.partition(".")[2] for each in NAMED if each.startswith("policies.")])
@given(case=known, lanes=st.integers(1, 64), every=st.integers(1, 9), data=st.data())
def test_each_policy_keeps_the_contract(name: str, case: Case, lanes: int, every: int, data: st.DataObject) -> None:
    policy: Policy = named("policies", name)()
    assert policy.confirmations >= 1 and policy.claims >= 1
    assert isinstance(policy.gathers, bool) and isinstance(policy.combines, bool)
    for what in ("judge", "publishes"):
        judgement = getattr(policy, what)(case)
        assert judgement.call in ("keep", "discard", "again") and judgement.reason
        again = getattr(named("policies", name)(), what)(case)
        assert again == judgement == getattr(policy, what)(case), "it is pure"
        assert getattr(policy, what)(replace(case, n=100)).call != "again", "it comes to an end"
    assert policy.moves(0, lanes, 10_000, every) == "stay", "the leader stays"
    rank = data.draw(st.integers(0, lanes - 1))
    assert policy.moves(rank, lanes, every - 1, every) == "stay", "nobody moves before its time"
    assert policy.moves(rank, lanes, 10_000, every) in ("stay", "reset", "replay")


# --- What is written, and what is not --------------------------------------------------------------------------------


# Where code that is not ours is called, and whatever it raises is a value.
FOREIGN_CODE = {("researcher", "_proposal")}


def test_nobody_catches_everything_and_goes_on() -> None:
    found = []
    allowed = {
        (module.path, handler.lineno)
        for module, node in nodes(ast.FunctionDef)
        if (module.name, node.name) in FOREIGN_CODE
        for handler in ast.walk(node)
        if isinstance(handler, ast.ExceptHandler)
    }
    for module, node in nodes(ast.ExceptHandler):
        caught = {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)} if node.type else {"Exception"}
        raised = any(isinstance(each, ast.Raise) for each in ast.walk(node))
        if caught & {"Exception", "BaseException"} and not raised and (module.path, node.lineno) not in allowed:
            found.append(module.at(node))
    for module, node in nodes(ast.Call):
        if re.match(r"(contextlib\.)?suppress\(.*\b(Base)?Exception\b", ast.unparse(node)):
            found.append(module.at(node))
    assert found == []


def test_only_the_command_line_prints() -> None:
    calls = [(module, node) for module, node in nodes(ast.Call) if ast.unparse(node.func) == "print"]
    assert [module.at(node) for module, node in calls if not module.name.startswith("cli")] == []


def test_nothing_is_left_for_later() -> None:
    lines = [
        f"{OURS}/{module.path}:{number}"
        for module in MODULES.values()
        for number, line in enumerate((ROOT / OURS / module.path).read_text().splitlines(), start=1)
        if re.search(r"\b(TODO|FIXME|XXX)\b", line)
    ]
    assert lines == []


def test_names_say_what_a_thing_is() -> None:
    assert [each for each in MODULES if re.search(r"(^|[._])(utils?|common|helpers?|misc)$", each)] == []
    assert [
        module.at(node) for module, node in nodes(ast.ClassDef) if re.search("Manager|Helper|Service", node.name)
    ] == []


def test_everything_public_has_a_docstring() -> None:
    bare = [module.at(module.tree) for module in MODULES.values() if not ast.get_docstring(module.tree)]
    for module in MODULES.values():
        public = (each for each in module.tree.body if isinstance(each, DEFINITIONS) and each.name[0] != "_")
        bare += [f"{module.at(each)} {each.name}" for each in public if not ast.get_docstring(each)]
    assert bare == []


def test_an_import_does_no_work() -> None:
    found = []
    for module in MODULES.values():
        for each in module.tree.body:
            match each:
                case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    pass
                case ast.Expr(value=ast.Constant(value=str())):
                    pass
                case ast.If(test=test) if ast.unparse(test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
                    pass
                case ast.Assign() | ast.AnnAssign() | ast.ClassDef():
                    found += [module.at(call) for call in calls_at_import(each) if not builds(call)]
                case _:
                    found.append(module.at(each))
    assert found == []


def test_nothing_waits_on_ray_by_its_clock() -> None:
    """`ray.wait` with a timeout waited for two hours longer when the machine's clock was set back by two hours."""
    calls = [each for each in ast.walk(MODULES["actors"].tree) if isinstance(each, ast.Call)]
    waits = [each for each in calls if ast.unparse(each.func) == "ray.wait"]
    assert waits and all("timeout=0" in map(ast.unparse, each.keywords) for each in waits)
    gets = [each for each in calls if ast.unparse(each.func) == "ray.get"]
    assert gets and not any(each.keywords for each in gets)


def calls_at_import(node: ast.AST) -> Iterator[ast.Call]:
    decorators = getattr(node, "decorator_list", [])
    for child in ast.iter_child_nodes(node):
        if child not in decorators and not isinstance(child, FUNCTIONS):
            if isinstance(child, ast.Call):
                yield child
            yield from calls_at_import(child)


def builds(call: ast.Call) -> bool:
    """Whether it only makes a value: a class, or a pattern, a set, a sorted list, a formatted text, a field."""
    name = ast.unparse(call.func).rpartition(".")[2]
    return name[0].isupper() or name in ("compile", "frozenset", "sorted", "format", "field")
