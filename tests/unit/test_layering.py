"""The walls between the rooms, read from the source: who may import and write what, how long it may get.

Each rule takes a module's name and its syntax tree and gives what is wrong. The names of rooms that are pure
or that may do something special are here; a new module is held by every other rule at once.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pisa_fab
from pisa_fab.link import BAGGAGE
from pisa_fab.parcel import PROGRAM

ROOT = Path(pisa_fab.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

PURE = {
    "allowance",
    "argparse_help",
    "attempts",
    "bounds",
    "budgets",
    "calendar",
    "canary",
    "contact",
    "diagnosis",
    "doubling",
    "doubts",
    "endings",
    "errors",
    "events",
    "forecast",
    "history",
    "journal_format",
    "keys",
    "lease",
    "ledger",
    "model",
    "numbering",
    "order",
    "outlook",
    "pace",
    "proposals",
    "quarantine",
    "prospects",
    "queues",
    "ranges",
    "records",
    "regression",
    "scheduler",
    "slots",
    "states",
    "stragglers",
    "supply",
    "sweep",
    "terms",
    "transitions",
    "why",
}

# What the head sends to the hosts: the worker, and what it imports; the program of a template.
TRAVELS = {*BAGGAGE, "worker", *PROGRAM}

EFFECTS = {
    "asyncio",
    "concurrent",
    "ctypes",
    "fcntl",
    "glob",
    "io",
    "multiprocessing",
    "os",
    "queue",
    "random",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "uuid",
}
HARMLESS = {"signal.Signals", "sys.byteorder", "sys.intern", "sys.maxsize"}  # names and numbers, no effects

# A library, and the only modules that may import it; "specs" is all of that package.
ONLY_IN = {
    "fabric": {"pool"},
    "paramiko": {"pool"},
    "yaml": {"specs"},
    "tomllib": {"specs"},
    "pydantic": {"specs"},
    "pickle": {"checkpoint"},
    "invoke": {"gathering", "program", "tasks"},
    "rich": {"check_table", "progress", "watch"},
}
READS_JSON = {
    "background",
    "endings",
    "journal_format",
    "link",
    "lock",
    "place",
    "probe",
    "records",
    "requests",
    "results",
    "specs",
    "worker",
}

PATH_ACTIONS = {
    "chmod",
    "exists",
    "glob",
    "is_dir",
    "is_file",
    "iterdir",
    "lstat",
    "mkdir",
    "open",
    "read_bytes",
    "read_text",
    "readlink",
    "resolve",
    "rglob",
    "rmdir",
    "stat",
    "symlink_to",
    "touch",
    "unlink",
    "write_bytes",
    "write_text",
}
WRITES = {"chmod", "open", "rename", "replace", "touch", "truncate", "unlink", "write_bytes", "write_text"}

# Names under the run directory. The first are unmistakable; the others count where a path is put together.
OWN_NAMES = {".pisa", "assignments.csv", "journal.jsonl", "results.csv"}
SHARED_NAMES = {"attempts", "checkpoint", "lock", "nonce", "stderr", "stdout"}

MODULE_LINES = 450
WORKER_LINES = 540  # its first seventy are the conversation in words
FUNCTION_LINES = 60

Rule = Callable[[str, ast.Module], Iterator[str]]


def room(name: str) -> str:
    """Give the room of a module: `specs.grid` belongs to `specs`."""
    return name.split(".")[0]


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Give everything that is imported anywhere, as dotted names: `os.path`, `queue.Empty`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def called(tree: ast.AST) -> Iterator[tuple[ast.Call, str, ast.expr | None]]:
    """Give every call, with the name that is called and what it is called on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node, node.func.attr, node.func.value
            elif isinstance(node.func, ast.Name):
                yield node, node.func.id, None


def effects(tree: ast.AST) -> Iterator[str]:
    for line, name in imported(tree):
        if name.split(".")[0] in EFFECTS and name not in HARMLESS:
            yield f"line {line}: imports {name}"
    for node, name, owner in called(tree):
        if (owner is None and name in ("input", "open", "print")) or (owner and name in PATH_ACTIONS):
            yield f"line {node.lineno}: calls {name}()"
        elif name in ("cwd", "home", "now", "today", "utcnow"):
            yield f"line {node.lineno}: asks the machine: {name}()"


# -- the rules ---------------------------------------------------------------------------------------


def pure_rooms_have_no_effects(name: str, tree: ast.Module) -> Iterator[str]:
    if name in PURE:
        yield from effects(tree)


def libraries_are_imported_where_they_belong(name: str, tree: ast.Module) -> Iterator[str]:
    for line, what in imported(tree):
        library = what.split(".")[0]
        if library in ONLY_IN and room(name) not in ONLY_IN[library]:
            yield f"line {line}: imports {library}, which belongs to {sorted(ONLY_IN[library])}"


def json_is_read_where_it_is_spoken(name: str, tree: ast.Module) -> Iterator[str]:
    if room(name) in READS_JSON:
        return
    for line, what in imported(tree):
        if what in ("json.load", "json.loads", "json.JSONDecoder"):
            yield f"line {line}: imports {what}"
    for node, what, owner in called(tree):
        if what in ("load", "loads", "JSONDecoder") and isinstance(owner, ast.Name) and owner.id == "json":
            yield f"line {node.lineno}: reads JSON"


def the_worker_needs_nothing_but_an_old_python(name: str, tree: ast.Module) -> Iterator[str]:
    if name not in TRAVELS:
        return
    for line, what in imported(tree):
        package, _, rest = what.partition(".")
        if package not in sys.stdlib_module_names and (package, rest.split(".")[0] in TRAVELS) != (
            "pisa_fab",
            True,
        ):
            yield f"line {line}: imports {what}, which is not there"
    try:
        ast.parse(ast.unparse(tree), feature_version=(3, 8))
    except SyntaxError as error:
        yield f"is no Python 3.8: {error}"


def only_the_journal_writes_the_journal(name: str, tree: ast.Module) -> Iterator[str]:
    if name == "journal":
        return
    for node, what, owner in called(tree):
        target = node.args[0] if node.args else None
        on_path = isinstance(owner, ast.Attribute) and owner.attr == "journal" and what in WRITES
        of_path = isinstance(target, ast.Attribute) and target.attr == "journal" and what in WRITES
        by_class = isinstance(owner, ast.Name) and owner.id == "Journal"
        if (on_path or of_path) and not by_class:
            yield f"line {node.lineno}: {what}() on the journal"


def file_names_are_in_the_layout(name: str, tree: ast.Module) -> Iterator[str]:
    if name == "layout":
        return
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) not in documentation and named(node) & OWN_NAMES:
            yield f"line {node.lineno}: names {ast.unparse(node)}"  # type: ignore[attr-defined]
        yield from (
            f"line {part.lineno}: puts a path together with {ast.unparse(part)}"
            for part in path_parts(node)
            if named(part) & SHARED_NAMES
        )


def named(node: ast.AST) -> set[str]:
    """Give the file names in a text that looks like one or like a path; running text has blanks."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and not set(node.value) & set(" \n"):
        return set(node.value.split("/"))
    return set()


def path_parts(node: ast.AST) -> list[ast.expr]:
    """Give what a piece of source puts together to a path."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return [node.right]
    if isinstance(node, ast.Call):
        function = node.func
        what = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        if what in ("Path", "join", "joinpath", "with_name"):
            return node.args
    return []


def modules_say_what_they_are(name: str, tree: ast.Module) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield "has no docstring"


def functions_are_short(name: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {lines} lines, more than {FUNCTION_LINES}"


RULES: list[Rule] = [
    pure_rooms_have_no_effects,
    libraries_are_imported_where_they_belong,
    json_is_read_where_it_is_spoken,
    the_worker_needs_nothing_but_an_old_python,
    only_the_journal_writes_the_journal,
    file_names_are_in_the_layout,
    modules_say_what_they_are,
    functions_are_short,
]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps(rule: Rule) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {problem}"
        for path in MODULES
        for problem in rule(name_of(path), ast.parse(path.read_text("utf-8")))
    ]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short(path: Path) -> None:
    longest = WORKER_LINES if path.name == "worker.py" else MODULE_LINES
    assert len(path.read_text("utf-8").splitlines()) <= longest


BREACHES: list[tuple[Rule, str, str]] = [
    (pure_rooms_have_no_effects, "scheduler", "import time"),
    (pure_rooms_have_no_effects, "sweep", "from os import path"),
    (pure_rooms_have_no_effects, "model", "def f(p):\n    return p.read_text()"),
    (pure_rooms_have_no_effects, "history", "from datetime import datetime\nx = datetime.now()"),
    (pure_rooms_have_no_effects, "calendar", "def f():\n    import random"),
    (libraries_are_imported_where_they_belong, "head", "from fabric import Connection"),
    (libraries_are_imported_where_they_belong, "head", "import paramiko.client"),
    (libraries_are_imported_where_they_belong, "tasks", "def f():\n    import yaml"),
    (libraries_are_imported_where_they_belong, "run", "from pickle import loads"),
    (json_is_read_where_it_is_spoken, "status", "import json\njson.loads('1')"),
    (json_is_read_where_it_is_spoken, "status", "from json import loads"),
    (the_worker_needs_nothing_but_an_old_python, "worker", "from pisa_fab import model"),
    (the_worker_needs_nothing_but_an_old_python, "worker", "from . import model"),
    (the_worker_needs_nothing_but_an_old_python, "notes", "from pisa_fab.model import Host"),
    (the_worker_needs_nothing_but_an_old_python, "bounds", "match x:\n    case 1:\n        pass"),
    (only_the_journal_writes_the_journal, "run", "layout.journal.unlink()"),
    (only_the_journal_writes_the_journal, "run", "open(layout.journal, 'w')"),
    (file_names_are_in_the_layout, "head", "x = '.pisa/nonce'"),
    (file_names_are_in_the_layout, "head", "x = root / 'stdout'"),
    (file_names_are_in_the_layout, "worker", "x = os.path.join(root, 'lock')"),
    (modules_say_what_they_are, "head", "x = 1"),
    (functions_are_short, "head", "def f():\n" + "    x = 1\n" * FUNCTION_LINES),
]


@pytest.mark.parametrize(("rule", "name", "source"), BREACHES)
def test_a_breach_is_noticed(rule: Rule, name: str, source: str) -> None:
    assert list(rule(name, ast.parse(source)))


def test_every_rule_is_shown_to_notice_a_breach() -> None:
    assert {rule.__name__ for rule, _, _ in BREACHES} == {rule.__name__ for rule in RULES}


def test_there_is_something_to_look_at() -> None:
    assert {"model", "journal", "scheduler", "specs.__init__"} <= {name_of(path) for path in MODULES}
