"""What a template imports before the first job, and whether jobs may have that in common.

It travels with `preload` and runs in the jobs' own Python: standard library only, Python 3.8 or newer. What
it cannot vouch for is said by `UnfitError`: jobs are then started one by one. It forks nothing.

Of two jobs that import for themselves, each sees its own arguments and variables, draws its own random
numbers and opens its own files while it does. What does any of that while it is imported cannot be shared.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # without importing typing, which jobs may not have imported
if TYPE_CHECKING:
    from typing import Any, Iterator

ONLY_TREE = 0x400  # ast.PyCF_ONLY_AST; `ast` itself is not worth its import
HARMLESS = ("/dev/null", "/dev/random", "/dev/urandom")  # files that jobs may have in common
LIBRARIES = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
STANDARD = os.path.dirname(os.__file__) + os.sep
PLACES = {"environ", "environb", "putenv", "unsetenv", "chdir"}  # what imports that follow may depend on
GENERATORS = {"numpy.random": ("Generator", "RandomState"), "random": ("Random",)}


class UnfitError(Exception):
    """Jobs cannot be made from this process; the message says why."""


def prepare(wanted: Any, argv: list[str]) -> tuple[list[str], tuple[bytes, bytes]]:
    """Import what is wanted: True for what the script argv[0] imports, or a list of modules.

    Gives the names of the variables that modules have read, and what they have printed. Raises UnfitError.
    """
    if sys.implementation.name != "cpython" or sys.version_info < (3, 8):
        raise UnfitError(f"its Python is {sys.implementation.name} {sys.version.split()[0]}")
    groups = imports_of(argv[0]) if wanted is True else [[(name, ())] for name in wanted]
    skipped, known = printed(), set(open_files())
    with Watch(argv) as watch:
        for group in groups:
            import_in_turn(group, must_work=wanted is not True)
    gc.collect()
    for complaint in (watch.complaint(), what_runs(), what_is_open(known), own_generators(), own_seeds()):
        if complaint:
            raise UnfitError(complaint)
    texts = printed()
    null = os.open(os.devnull, os.O_WRONLY)
    for place in (1, 2):
        os.dup2(null, place)
    os.close(null)
    return sorted(watch.names), (texts[0][len(skipped[0]) :], texts[1][len(skipped[1]) :])


# -- what a script imports -----------------------------------------------------------------------------------

Step = "tuple[str, tuple[str, ...]]"  # a module, and the names that are imported from it


def imports_of(script: str) -> list[list[Any]]:
    """Give what a script imports at its top level, in its order, until it may change what that means.

    What stands in one `try` is a group. None where the script cannot be read or is no Python: it will say so.
    """
    try:
        with open(script, "rb") as file:
            tree: Any = compile(file.read(), script, "exec", ONLY_TREE, dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return []
    groups, taken = [], []
    for node in tree.body:
        kind = type(node).__name__
        taken.append(node)
        body = node.body if kind == "Try" else [node]
        groups.append([step for part in body for step in steps_of(part)])
        if kind not in ("FunctionDef", "AsyncFunctionDef", "ClassDef") and touches_surroundings(node):
            break
    return [*groups, *([step] for step in lazily_imported(tree, taken))]


def lazily_imported(tree: Any, taken: list[Any]) -> Iterator[Any]:
    """Give what a script may import by naming it: `random` of `np.random`, where `np` is a module of `taken`.

    Libraries import their parts when somebody asks for them. What is no module is not asked for.
    """
    modules = {}
    for node in taken:
        if type(node).__name__ == "Import":
            modules.update({alias.asname: alias.name for alias in node.names if alias.asname})
            modules.update({alias.name: alias.name for alias in node.names if "." not in alias.name})
    pending, seen = [tree], set()
    while pending:
        node = pending.pop()
        pending += [part for name in node._fields for part in parts_of(node, name)]
        name = name_in(getattr(node, "value", None)) if type(node).__name__ == "Attribute" else ""
        if name in modules and (name, node.attr) not in seen:
            seen.add((name, node.attr))
            yield modules[name], (node.attr,)


def parts_of(node: Any, name: str) -> list[Any]:
    """Give the nodes in a field of a node."""
    value = getattr(node, name, None)
    return [part for part in (value if isinstance(value, list) else [value]) if hasattr(part, "_fields")]


def steps_of(node: Any) -> Iterator[Any]:
    """Give what a statement imports."""
    kind = type(node).__name__
    if kind == "Import":
        yield from ((alias.name, ()) for alias in node.names)
    elif kind == "ImportFrom" and node.level == 0 and node.module != "__future__":
        yield node.module, tuple(alias.name for alias in node.names)


def walk(node: Any) -> Iterator[Any]:
    """Give a node and all below it, but not what is in functions and classes of its own."""
    yield node
    for name in node._fields:
        for part in parts_of(node, name):
            if type(part).__name__ not in ("FunctionDef", "AsyncFunctionDef", "Lambda"):
                yield from walk(part)


def touches_surroundings(node: Any) -> bool:
    """Say whether a statement may change the environment, sys.path or the working directory."""
    for part in walk(node):
        is_path = getattr(part, "attr", "") == "path" and name_in(part.value) == "sys"
        if is_path or (type(part).__name__ in ("Attribute", "Name") and name_in(part) in PLACES):
            return True
    return False


def name_in(node: Any) -> str:
    """Give the last name of `a`, `b.a` or a call of it."""
    found = getattr(node, "attr", None) or getattr(node, "id", None)
    return found if isinstance(found, str) else ""


def import_in_turn(steps: list[Any], must_work: bool) -> None:
    """Import some modules, and no more after one that fails: then raise UnfitError if it must not."""
    for module, names in steps:
        try:
            __import__(module, {"__name__": "__main__"}, None, names, 0)
        except (Exception, SystemExit) as error:  # the job would meet it, too
            if must_work or not isinstance(error, Exception):
                raise UnfitError(f"importing {module} fails: {type(error).__name__}: {error}") from error
            return


def printed() -> tuple[bytes, bytes]:
    """Give what has been written to standard output and errors, which are files."""
    texts = []
    for stream, place in ((sys.stdout, 1), (sys.stderr, 2)):
        if stream is not None:
            stream.flush()
        texts.append(os.pread(place, os.fstat(place).st_size, 0))
    return texts[0], texts[1]


# -- what modules ask for while they are imported ------------------------------------------------------------


class Arguments(list):  # type: ignore[type-arg]  # no subscript before Python 3.9
    """Stands for sys.argv, and knows whether somebody asks for more than the script's name."""

    asked = False

    def __getitem__(self, key: Any) -> Any:
        """Give arguments."""
        self.asked = self.asked or key != 0
        return list.__getitem__(self, key)

    def __iter__(self) -> Iterator[Any]:
        """Give all."""
        self.asked = True
        return list.__iter__(self)

    def __len__(self) -> int:
        """Give how many there are."""
        self.asked = True
        return list.__len__(self)


class Watch:
    """Watches what is asked for while modules are imported.

    Attributes:
        names: of variables of the environment that were asked for.
    """

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.arguments = Arguments(argv[:1])
        self.names: set[str] = set()
        self.folder = os.path.dirname(os.path.realpath(argv[0]))
        self.path: list[str] = []
        self.holders = holders_of_main()

    def __enter__(self) -> Watch:
        """Begin, with the script's folder in sys.path, where it will be."""
        sys.argv = self.arguments
        if not getattr(sys.flags, "safe_path", False):
            sys.path.insert(0, self.folder)
        self.path = list(sys.path)
        self.getter = get = os._Environ.__getitem__

        def noting(environ: Any, key: Any) -> Any:
            self.names.add(os.fsdecode(key))
            return get(environ, key)

        os._Environ.__getitem__ = noting  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        """End; the script's folder is put into sys.path by Python itself later."""
        os._Environ.__getitem__ = self.getter  # type: ignore[method-assign]
        if sys.argv is self.arguments:
            sys.argv = self.argv
        self.changed = sys.path[:1] != self.path[:1]
        if not getattr(sys.flags, "safe_path", False) and self.folder in sys.path:
            sys.path.remove(self.folder)
        sys.path_importer_cache.pop(self.folder, None)  # jobs may find new files there

    def complaint(self) -> str:
        """Say what was asked for that differs from job to job, or ""."""
        if self.arguments.asked or sys.argv is not self.argv or sys.getrefcount(self.arguments) > 2:
            return "something it imports takes arguments from sys.argv while it is imported"
        if holders_of_main() > self.holders:
            return "something it imports looks at the script while it is imported"
        return "something it imports changes sys.path" if self.changed else ""


def holders_of_main() -> int:
    """Count who holds the module `__main__`, but for other names of it: `multiprocessing` gives it one."""
    main = sys.modules["__main__"]
    return sys.getrefcount(main) - sum(module is main for module in list(sys.modules.values()))


def what_runs() -> str:
    """Say what goes on beside the main thread, or ""."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"{threads} threads run after the imports"
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return ""
    return "something it imports starts processes"


def open_files() -> dict[str, str]:
    """Give the descriptors of this process, and what each is of."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink("/proc/self/fd/" + name)
        except OSError:
            pass  # that of the listing itself
    return found


def what_is_open(known: set[str]) -> str:
    """Say what modules have left open, or ""."""
    for name, target in open_files().items():
        if name not in known and target not in HARMLESS:
            return f"something it imports keeps {target} open"
    return ""


# -- modules that are the user's own -------------------------------------------------------------------------


def own_modules() -> Iterator[tuple[str, Any]]:
    """Give the modules that are neither of Python nor installed, with their files."""
    for module in list(sys.modules.values()):
        if not isinstance(module, type(sys)):
            continue
        file = object.__getattribute__(module, "__dict__").get("__file__")  # a lazy module stays so
        if not isinstance(file, str) or any(folder in file for folder in LIBRARIES):
            continue
        if not file.startswith(STANDARD):
            yield file, module


def sources() -> dict[str, tuple[int, ...]]:
    """Give what may change while jobs run, and how it looks: own modules, the folders of installed ones."""
    files = [file for file, _ in own_modules()]
    folders = [entry for entry in sys.path if (entry + os.sep).endswith(LIBRARIES)]
    return {path: look for path in files + folders for look in [look_of(path)] if look}


def look_of(path: str) -> tuple[int, ...]:
    """Give what changes when a file does; nothing if it cannot be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def changed(known: dict[str, tuple[int, ...]]) -> str:
    """Give the first of `sources` that does not look as it did, "" if all do."""
    return next((path for path, look in known.items() if look_of(path) != look), "")


def own_generators() -> str:
    """Say whether a module keeps random numbers that every job would draw alike, or ""."""
    kinds: dict[Any, str] = {}
    for name, names in GENERATORS.items():
        module: Any = sys.modules.get(name)
        kinds.update({getattr(module, kind): f"{name}.{kind}" for kind in names if hasattr(module, kind)})
    shared = [getattr(sys.modules.get(module), name, None) for module, name in SHARED_GENERATORS]
    for found in gc.get_objects() if kinds else []:
        if type(found) in kinds and not any(found is other for other in shared):
            return f"something it imports makes a generator of random numbers ({kinds[type(found)]})"
    return ""


SHARED_GENERATORS = (("random", "_inst"), ("numpy.random.mtrand", "_rand"))  # sown anew for every job


def own_seeds() -> str:
    """Say which of the user's modules seeds random numbers while it is imported, or ""."""
    for file, _ in own_modules():
        try:
            with open(file, "rb") as source:
                tree: Any = compile(source.read(), file, "exec", ONLY_TREE, dont_inherit=True)
        except (OSError, SyntaxError, ValueError):
            continue
        calls = [node.func for part in tree.body for node in walk(part) if type(node).__name__ == "Call"]
        if any(name_in(call).endswith("seed") for call in calls):
            return f"{file} seeds random numbers while it is imported"
    return ""
