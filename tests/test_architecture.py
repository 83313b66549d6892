"""The rules that keep the package a house one person can read, checked on its source text."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import spikecdl

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "spikecdl"

# A floor is a set of folders and top-level modules.  Imports go down, or sideways without a circle.
FLOORS = (
    {"kernels", "validation", "files"},
    {"model", "data"},
    {"solvers"},
    {"events"},
    {"training"},
    {"config", "checkpoint", "conversion", "io", "datasets", "progress", "simulate", "suggestions"},
    {"evaluation"},
    {"estimator"},
    {"plots"},
    {"baselines", "denoise", "report"},
    {"experiments"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# A limit goes down, never up: when something must grow, something else goes.
MOST_FILES, MOST_AT_THE_TOP, MOST_FLOORS = 128, 12, 12
MOST_CODE_LINES = 19_960  # of the package in Python, without docstrings, comments and blank lines
MOST_LINES_OF_C = 4_670  # likewise
MOST_NUMBERS = 144  # names of modules for a single number
MOST_UNTYPED_MODELS = 0  # arguments `model: Any`
LONGEST_FILE, LONGEST_FUNCTION, MOST_ARGUMENTS = 450, 60, 8

CORE = {"model", "solvers"}
CORE_MAY_IMPORT = {"torch", "numpy", "threadpoolctl", "spikecdl"}
CORE_MAY_IMPORT |= sys.stdlib_module_names
NUMPY_ONLY = {"data", "io", "plots", "report"}
CONTAINERS_MEET_TORCH = {"conversion", "estimator", "simulate", "evaluation", "baselines"}
CONTAINERS_MEET_TORCH |= {"experiments", "cli"}

SLOW_TO_IMPORT = {
    "h5py",
    "matplotlib",
    "neo",
    "pandas",
    "pynapple",
    "pynwb",
    "quantities",
    "sklearn",
}
SLOW_TO_IMPORT |= {"pooch", "requests", "skimage", "pywt", "PIL", "tifffile"}
# their base class comes from there
AT_MODULE_LEVEL = {(name, "sklearn") for name in ("estimator", "baselines", "denoise")}
SLOW_FOR_THE_DOOR = SLOW_TO_IMPORT | {"scipy", "torch"}

PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
NUMPY_STATE_OF_ITS_OWN = {"Generator", "PCG64", "RandomState", "SeedSequence", "default_rng"}
TORCH_GLOBAL_STATE = {"manual_seed", "rand_like", "randint_like", "randn_like", "seed"}
TORCH_DRAWS = {
    *("bernoulli", "binomial", "multinomial", "normal", "poisson", "rand", "randint", "randn"),
    *("randperm", "bernoulli_", "exponential_", "normal_", "random_", "uniform_"),
}


@dataclass(frozen=True)
class Source:
    """A file: its folder or top-level name, its dotted name, its place, and its syntax tree."""

    room: str
    name: str
    path: Path
    tree: ast.Module

    def at(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


@dataclass(frozen=True)
class Import:
    """One imported name, fully dotted, and when it is imported."""

    name: str
    line: int
    when: str  # "at import", "in a function" or "for types"

    @property
    def top(self) -> str:
        return self.name.split(".")[0]

    @property
    def room(self) -> str:
        """Folder or top-level module of ours that is imported ("" for the package itself)."""
        return (self.name.split(".") + [""])[1]


@cache
def sources() -> tuple[Source, ...]:
    files = sorted(PACKAGE.rglob("*.py"))
    found = []
    for file in files:
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(["spikecdl", *parts]).removesuffix(".__init__")
        found.append(Source(parts[0], name, file, ast.parse(file.read_text("utf-8"))))
    return tuple(found)


def imports(source: Source) -> Iterator[Import]:
    yield from _imports(source.tree, source.path.relative_to(ROOT).parent.parts, "at import")


def _imports(node: ast.AST, package: tuple[str, ...], when: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, when) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            parents = package[: len(package) + 1 - child.level] if child.level else ()
            base = ".".join([*parents, *([child.module] if child.module else [])])
            yield from (Import(f"{base}.{a.name}", child.lineno, when) for a in child.names)
        else:
            inner = when
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = "for types"
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = "in a function"
            yield from _imports(child, package, inner)


def calls() -> Iterator[tuple[Source, ast.Call, str]]:
    """Every call in the package, with the dotted name that is called."""
    for source in sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call):
                yield source, node, ast.unparse(node.func)


def has_keyword(call: ast.Call, name: str, value: object = ...) -> bool:
    return any(
        k.arg == name and (value is ... or getattr(k.value, "value", ...) is value)
        for k in call.keywords
    )


def internal_imports() -> Iterator[tuple[Source, Import]]:
    for source in sources():
        for found in imports(source):
            if found.top == "spikecdl" and found.room not in {source.room, "__version__"}:
                yield source, found


def files_imported(source: Source) -> set[str]:
    """Files of ours that a file imports, but for annotations alone."""
    files = {other.name for other in sources()}
    found = set()
    for each in imports(source):
        if each.top == "spikecdl" and each.when != "for types":
            name = each.name if each.name in files else each.name.rpartition(".")[0]
            found.add(name)
    return found - {source.name, "spikecdl"}


def report(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


def test_every_room_has_a_floor():
    rooms = {source.room for source in sources()} - {"__init__"}
    assert rooms == FLOOR.keys()


def test_the_table_of_floors_in_contributing_is_this_one():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^ ?(\d+)  (.+)$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(reversed(range(1, len(FLOORS))))
    for number, row in rows:
        listed = row.split("   ")[0].split()
        assert set(listed) == FLOORS[int(number) - 1], row


def test_imports_go_down():
    problems = []
    for source, found in internal_imports():
        if source.room == "__init__":
            continue
        if found.name == "spikecdl":
            continue
        if found.room not in FLOOR:
            problems.append(f"{source.at(found.line)}: import from the module, not `{found.name}`")
        elif FLOOR[found.room] > FLOOR[source.room]:
            problems.append(f"{source.at(found.line)}: `{source.room}` imports `{found.room}`")
    report(problems)


def test_imports_of_files_have_no_circle():
    graph = {source.name: files_imported(source) for source in sources()}
    for name in graph:  # what a folder lists in its __init__ comes from its own files
        graph[name] = {other for other in graph[name] if not name.startswith(f"{other}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these files import each other: {' <- '.join(error.args[1])}")


def test_folders_and_files_are_few_and_short():
    files = [source.path for source in sources()]
    assert len(files) <= MOST_FILES
    assert len([file for file in files if file.parent == PACKAGE]) <= MOST_AT_THE_TOP
    report(
        [
            f"{f.relative_to(ROOT)}: a leading underscore"
            for f in files
            if f.stem[:1] == "_" and f.stem[:2] != "__"
        ]
    )
    lines = {file: file.read_text("utf-8").count("\n") for file in files}
    report([f"{f.relative_to(ROOT)}: {n} lines" for f, n in lines.items() if n > LONGEST_FILE])


def code_lines(source: Source) -> int:
    """Lines that hold code: no docstrings, comments or blank lines."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    with tokenize.open(source.path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type not in silent | {tokenize.ENDMARKER}:
                lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(source.tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return is_number(node.operand)
    if isinstance(node, ast.BinOp):
        return is_number(node.left) and is_number(node.right)
    return isinstance(node, ast.Constant) and type(node.value) in {int, float}


def numbers(source: Source) -> int:
    """How many names of a module stand for a number, also where a tuple names several."""
    count = 0
    for node in source.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            names = [*node.targets] if isinstance(node, ast.Assign) else [node.target]
            for name in names:
                unpacked = isinstance(name, ast.Tuple) and isinstance(node.value, ast.Tuple)
                count += sum(map(is_number, node.value.elts if unpacked else [node.value]))
    return count


def lines_of_c() -> int:
    """Lines of the functions in C, without comments and blank lines."""
    files = [*(PACKAGE / "kernels").glob("*.[ch]")]
    assert max(file.read_text("utf-8").count("\n") for file in files) <= LONGEST_FILE
    text = "\n".join(
        re.sub(r"/\*.*?\*/", "", file.read_text("utf-8"), flags=re.S) for file in files
    )
    return sum(bool(line.strip()) for line in text.splitlines())


def test_the_package_does_not_grow():
    assert lines_of_c() <= MOST_LINES_OF_C
    assert sum(map(code_lines, sources())) <= MOST_CODE_LINES
    assert sum(map(numbers, sources())) <= MOST_NUMBERS
    texts = [source.path.read_text("utf-8") for source in sources()]
    assert sum(len(re.findall(r"\bmodel: Any\b", text)) for text in texts) <= MOST_UNTYPED_MODELS


def test_the_longest_chain_of_imports():
    graph: dict[str, set[str]] = {}
    for source, found in internal_imports():
        if found.room in FLOOR and source.room != "__init__":
            graph.setdefault(source.room, set()).add(found.room)

    def depth(room: str) -> int:
        return 1 + max(map(depth, graph.get(room, ())), default=0)

    assert max(map(depth, graph)) <= MOST_FLOORS


def functions() -> Iterator[tuple[Source, ast.FunctionDef, bool]]:
    """Every function, and whether it is public: a user calls it, or it is a command."""
    names = set(spikecdl.__all__)
    for source in sources():
        for node in ast.walk(source.tree):
            for function in ast.iter_child_nodes(node):
                if isinstance(function, ast.FunctionDef):
                    owner = node.name if isinstance(node, ast.ClassDef) else ""
                    door = {source.room, source.path.stem, owner, function.name} & names
                    hidden = function.name.startswith("_") and function.name != "__init__"
                    yield source, function, bool(door or source.room == "cli") and not hidden


def test_functions_fit_a_screen():
    problems = []
    for source, function, _ in functions():
        body = function.body[ast.get_docstring(function) is not None :]
        text = source.path.read_text("utf-8").splitlines()
        text = text[body[0].lineno - 1 : function.end_lineno] if body else []
        code = [line for line in map(str.strip, text) if line and not line.startswith("#")]
        if len(code) > LONGEST_FUNCTION:
            problems.append(f"{source.at(function.lineno)}: {function.name} has {len(code)} lines")
    report(problems)


def test_functions_take_few_arguments():
    problems = []
    for source, function, public in functions():
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        count = len([a for a in arguments if a.arg not in {"self", "cls"}])
        if count > MOST_ARGUMENTS and not public:
            problems.append(f"{source.at(function.lineno)}: {function.name} takes {count}")
    report(problems)


def test_the_core_imports_torch_only():
    report(
        [
            f"{source.at(found.line)}: `{source.room}` is core and imports `{found.name}`"
            for source in sources()
            if source.room in CORE
            for found in imports(source)
            if found.top not in CORE_MAY_IMPORT
        ]
    )


def test_containers_and_torch_meet_in_few_places():
    problems = []
    for source in sources():
        found = list(imports(source))
        torch = [f for f in found if f.top == "torch"]
        containers = any(f.top == "spikecdl" and f.room == "data" for f in found)
        allowed = not containers or source.room in CONTAINERS_MEET_TORCH
        if torch and (source.room in NUMPY_ONLY or not allowed):
            problems.append(f"{source.at(torch[0].line)}: torch beside the NumPy containers")
    report(problems)


def test_slow_imports_are_inside_functions():
    problems = []
    for source in sources():
        door = source.path.name == "__init__.py" or source.room in {"cli", "__main__"}
        slow = SLOW_FOR_THE_DOOR if door else SLOW_TO_IMPORT
        for found in imports(source):
            if found.when != "at import" or (source.room, found.top) in AT_MODULE_LEVEL:
                continue
            if found.top in slow:
                problems.append(f"{source.at(found.line)}: import `{found.name}` where it is used")
    report(problems)


def test_only_the_command_line_prints():
    report(
        [
            f"{source.at(call.lineno)}: return it, warn or raise instead of printing"
            for source, call, name in calls()
            if name == "print" and source.room != "cli"
        ]
    )


def test_nothing_is_unpickled():
    problems = [
        f"{source.at(found.line)}: `{found.name}` can run code from a file"
        for source in sources()
        for found in imports(source)
        if found.top in PICKLES
    ]
    for source, call, name in calls():
        if name == "torch.load" and not has_keyword(call, "weights_only", True):
            problems.append(f"{source.at(call.lineno)}: torch.load without weights_only=True")
        if name in {"np.load", "numpy.load"} and has_keyword(call, "allow_pickle", True):
            problems.append(f"{source.at(call.lineno)}: {name} with allow_pickle=True")
        if name in {"eval", "exec"}:
            problems.append(f"{source.at(call.lineno)}: {name}")
    report(problems)


def test_hdf5_is_read_in_one_place():
    """`spikecdl.data.hdf5` checks a file before anything is read."""
    report(
        [
            f"{source.at(call.lineno)}: use `hdf5.opened`"
            for source, call, name in calls()
            if name == "h5py.File" and source.name != "spikecdl.data.hdf5"
            if ast.unparse(call.args[1]) == "'r'"
        ]
    )


def test_no_global_random_state():
    problems = [
        f"{source.at(found.line)}: the module `random` has global state"
        for source in sources()
        for found in imports(source)
        if found.top == "random"
    ]
    for source, call, name in calls():
        owner, _, function = name.rpartition(".")
        of_numpy = owner in {"np.random", "numpy.random"}
        of_torch = re.fullmatch(r"torch(\.\w+)*", owner) is not None
        draws = function in TORCH_DRAWS and (of_torch or function.endswith("_"))
        if (
            (of_numpy and function not in NUMPY_STATE_OF_ITS_OWN)
            or (of_torch and function in TORCH_GLOBAL_STATE)
            or (draws and not has_keyword(call, "generator"))
        ):
            problems.append(f"{source.at(call.lineno)}: {name} without a generator of its own")
    report(problems)


def test_public_signatures_name_their_arguments():
    problems = []
    for source in sources():
        if source.path.stem in {"style"}:
            continue
        for node in source.tree.body:
            names = {source.room, source.path.stem, getattr(node, "name", "")}
            public = names & set(spikecdl.__all__)
            for function in [node, *getattr(node, "body", ())] if public else ():
                if isinstance(function, ast.FunctionDef) and function.args.kwarg:
                    name, kwargs = function.name, function.args.kwarg.arg
                    if name == "__init__" or not name.startswith("_"):
                        problems.append(f"{source.at(function.lineno)}: **{kwargs} in {name}")
    report(problems)


def test_only_the_registry_asks_which_family():
    from spikecdl.model.families import FAMILIES

    problems = []
    for source in sources():
        if source.name == "spikecdl.model.families":
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Compare) and any(
                getattr(side, "value", None) in FAMILIES for side in [node.left, *node.comparators]
            ):
                problems.append(f"{source.at(node.lineno)}: `{ast.unparse(node)}`; ask the family")
    report(problems)


def test_no_path_of_somebodys_machine():
    pattern = re.compile(r"(?<![\w.:/])/(?:home|mnt|root|tmp|Users|work)/")
    kinds = {".cff", ".html", ".j2", ".json", ".md", ".py", ".toml", ".yaml", ".yml"}
    folders = [PACKAGE, *(ROOT / name for name in ("datasets", "docs", "tests", "tutorials"))]
    files = [*ROOT.iterdir(), *(file for folder in folders for file in folder.rglob("*"))]
    report(
        [
            f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
            for file in files
            if file.is_file() and file.suffix in kinds
            for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
            if pattern.search(line)
        ]
    )


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running ``code``."""
    names = "{module.split('.')[0] for module in sys.modules}"
    script = f"import sys\n{code}\nprint('\\n' + ' '.join({names}))"
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_import_is_light():
    heavy = SLOW_FOR_THE_DOOR & modules_after("import spikecdl")
    assert not heavy, f"`import spikecdl` imports {sorted(heavy)}"


def test_help_is_light():
    heavy = SLOW_FOR_THE_DOOR & modules_after(
        "sys.argv = ['spikecdl', '--help']\n"
        "from spikecdl.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code"
    )
    assert not heavy, f"`spikecdl --help` imports {sorted(heavy)}"
