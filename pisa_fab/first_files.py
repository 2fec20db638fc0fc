"""`init`: the first jobs.yaml, cluster.yaml and tasks.py for a script.

What the script's `--help` says becomes a proposal (`argparse_help`, `proposals`). A file that is there is
left alone, and none is ever there in part. No Invoke here: who asks and who is told comes from outside.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pisa_fab import specs
from pisa_fab.argparse_help import Option, parse
from pisa_fab.errors import PisaError, UsageError
from pisa_fab.invocation import as_typed
from pisa_fab.proposals import lines_of_arguments
from pisa_fab.specs.text import absolute

Ask = Callable[[str, str], str]
Tell = Callable[[str], None]
Answer = TypeVar("Answer")

JOBS, CLUSTER, EXAMPLE, TASKS = "jobs.yaml", "cluster.yaml", "cluster.yaml.example", "tasks.py"
IMPORT = "from pisa_fab.tasks import cancel, check, collect, dryrun, here, hosts, init, logs, status, submit"

_NOT_SCRIPTS = re.compile(r"(tasks|fabfile|setup|conftest|__init__|test_.*|.*_test)\.py")
_PARSERS = re.compile(r"\b(argparse|optparse|click|typer|docopt|ArgumentParser)\b")
_HELP_SECONDS = 20.0
_HELP_BYTES = 1_000_000
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the files are to be made of; "" for what nobody has said."""

    script: str = ""
    hosts: str = ""
    slots: str = ""
    venv: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What the script's help gave: its arguments, and what to say of it."""

    options: tuple[Option, ...]
    said: str


def init(
    folder: Path,
    *,
    script: str = "",
    hosts: str = "",
    slots: str = "",
    venv: str = "",
    output: str = "",
    ask: Ask | None,
    told: Tell,
) -> list[Path]:
    """Write the first files into a folder, and give those that were written. Raises PisaError.

    `ask(question, default)` gives an answer where somebody can be asked; without it flags and defaults hold.
    """
    folder = absolute(folder)
    wishes = Wishes(script, hosts, slots, venv, output)
    missing = [name for name in (JOBS, CLUSTER, TASKS) if not (folder / name).exists()]
    for name in (JOBS, CLUSTER):
        if name not in missing:
            told(f"{name} is there already and left as it is")
    if TASKS not in missing:
        _tell_of_tasks(folder, told)
    texts: dict[str, str] = {}
    found = None
    if JOBS in missing:
        wishes = _settled(folder, wishes, ask, told)
        found = _ask_script(folder, wishes)
        texts[JOBS] = jobs_text(folder, wishes, found.options)
    if CLUSTER in missing:
        name, text = _cluster(_ask_for_hosts(wishes, ask, told))
        if name == CLUSTER or not (folder / name).exists():
            texts[name] = text
    if TASKS in missing:
        texts[TASKS] = TASKS_TEXT
    written = [folder / name for name, text in texts.items() if _write(folder / name, text, told)]
    _close(written, found, told)
    return written


def _tell_of_tasks(folder: Path, told: Tell) -> None:
    try:
        text = (folder / TASKS).read_text("utf-8", "replace")
    except OSError:
        text = ""
    told(f"{TASKS} is there already and left as it is")
    if "pisa_fab" not in text:
        told("  so that inv knows the commands, add to it this line:")
        told(f"  {IMPORT}")


# ----------------------------------------------------------------------------------------------------
# What is wanted
# ----------------------------------------------------------------------------------------------------


def _answer(ask: Ask, told: Tell, question: str, default: str, check: Callable[[str], Answer]) -> Answer:
    """Ask until the answer is valid, a few times. Raises PisaError."""
    for _ in range(_TRIES - 1):
        try:
            return check(ask(question, default).strip() or default)
        except PisaError as error:
            told(str(error))
    return check(ask(question, default).strip() or default)


def _settled(folder: Path, wishes: Wishes, ask: Ask | None, told: Tell) -> Wishes:
    """Find what the jobs file needs and nobody has said. Raises PisaError for what is not valid."""
    if not wishes.script:
        wishes = replace(wishes, script=_find_script(folder, ask, told))

    def checked(wishes: Wishes) -> Wishes:
        # The mistakes of a jobs file, shown at the option.
        batch, _ = specs.ad_hoc_batch(
            script=wishes.script, venv=wishes.venv, output=wishes.output, workdir=folder
        )
        return replace(wishes, output=wishes.output or batch.output.name)

    made = checked(wishes)
    if ask is not None and not wishes.output:
        question = "the folder for what the jobs print"
        made = _answer(ask, told, question, made.output, lambda text: checked(replace(wishes, output=text)))
    return made


def _find_script(folder: Path, ask: Ask | None, told: Tell) -> str:
    names = sorted(path.name for path in folder.glob("*.py") if not _NOT_SCRIPTS.fullmatch(path.name))
    if len(names) == 1:
        return names[0]
    if ask is None:
        problem = f"which script? here are {', '.join(names)}" if names else "there is no Python script here"
        raise UsageError(problem, "name one: --script FILE")

    def checked(text: str) -> str:
        if not text:
            raise UsageError("a script is needed")
        if not (folder / text).is_file():
            raise UsageError(f"there is no file {text}")
        return text

    return _answer(ask, told, f"the script ({', '.join(names)})" if names else "the script", "", checked)


def _ask_for_hosts(wishes: Wishes, ask: Ask | None, told: Tell) -> Wishes:
    """Complete what the cluster file needs. Raises PisaError."""
    if not wishes.hosts and ask is not None:
        question = "the PCs, such as pc[01-34] (nothing: not yet)"
        wishes = replace(wishes, hosts=_answer(ask, told, question, "", _checked_hosts))
    _checked_hosts(wishes.hosts)
    if wishes.hosts and not wishes.slots and ask is not None:
        wishes = replace(wishes, slots=_answer(ask, told, "jobs at once on each PC", "1", _checked_slots))
    return replace(wishes, slots=_checked_slots(wishes.slots or "1"))


def _checked_slots(text: str) -> str:
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise UsageError(f"--slots must be a whole number of at least 1, not {text}")
    return text


def _checked_hosts(text: str) -> str:
    from pisa_fab.specs.hosts import expand_addresses
    from pisa_fab.specs.problems import FieldError

    names: list[str] = []
    for word in _host_words(text):
        try:
            names += [address.host for address in expand_addresses(word)]
        except FieldError as error:
            raise UsageError(f"--hosts {error}", error.hint or "write --hosts pc[01-34]") from error
    twice = next((name for at, name in enumerate(names) if name in names[:at]), "")
    if twice:
        raise UsageError(f"--hosts names {twice} twice")
    return text


def _host_words(text: str) -> list[str]:
    """Split at blanks and at commas that are not in brackets."""
    return re.findall(r"(?:\[[^\]]*\]|[^\s,\[])+|\[", text)


# ----------------------------------------------------------------------------------------------------
# The script's help
# ----------------------------------------------------------------------------------------------------


def _ask_script(folder: Path, wishes: Wishes) -> Found:
    """Run the script with --help, if it looks as if it had one, and read what it prints."""
    path = folder / Path(wishes.script).expanduser()
    if not _may_have_help(path):
        return Found((), f"{wishes.script} does not use argparse, so nothing is proposed for its options")
    venv = _venv(folder, wishes)
    python = str(folder / Path(venv).expanduser() / "bin" / "python") if venv else sys.executable
    code, text = run_for_help([python, str(path), "--help"], folder)
    command = f"{wishes.script} --help"
    if code is None:
        return Found((), f"{command} took more than {_HELP_SECONDS:g} s: no options are known")
    if code != 0:
        last = text.strip().splitlines()[-1:] or [f"exit code {code}"]
        return Found((), f"{command} failed, so no options are known: {last[0][:200]}")
    options = tuple(parse(text))
    if not options:
        return Found((), f"{command} names no options that could be understood")
    return Found(options, f"{command} names {_counted(len(options), 'argument')}{_needed(options)}")


def _may_have_help(path: Path) -> bool:
    """Say whether a script, or a module beside it that it imports, uses a parser of options.

    A script that reads none would do its work when it is run with --help.
    """
    text = _source(path)
    modules = set(re.findall(r"^\s*(?:from|import)\s+\.?(\w+)", text, re.MULTILINE))
    beside = (path.parent / f"{name}.py" for name in sorted(modules))
    packages = (path.parent / name / "__init__.py" for name in sorted(modules))
    return any(_PARSERS.search(source) for source in (text, *map(_source, beside), *map(_source, packages)))


def _source(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def run_for_help(command: list[str], folder: Path, seconds: float = _HELP_SECONDS) -> tuple[int | None, str]:
    """Run a command with nothing to read and no terminal; give exit code, None in want of time, and output.

    Whatever it has started is ended with it. Raises PisaError when it cannot be started.
    """
    plain = {"COLUMNS": "200", "NO_COLOR": "1", "PYTHON_COLORS": "0", "TERM": "dumb"}
    env = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"} | plain
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise PisaError(f"{command[0]} cannot be started: {error.strerror}") from error
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    code = None
    with process.stdout as pipe:
        output, ended = _read(pipe.fileno(), deadline)
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(max(0.0, deadline - time.monotonic())) if ended else None
    with suppress(ProcessLookupError):  # when all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return code, output.decode("utf-8", "replace")


def _read(file: int, deadline: float) -> tuple[bytes, bool]:
    """Read to the end, or until the deadline or far too much; says whether it was the end."""
    output = b""
    while (left := deadline - time.monotonic()) > 0 and len(output) < _HELP_BYTES:
        if select.select([file], [], [], left)[0]:
            part = os.read(file, 65536)
            if not part:
                return output, True
            output += part
    return output, False


def _needed(options: tuple[Option, ...]) -> str:
    names = [option.name for option in options if option.required]
    return f"; it needs {', '.join(names)}" if names else ""


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


# ----------------------------------------------------------------------------------------------------
# The files
# ----------------------------------------------------------------------------------------------------


def _venv(folder: Path, wishes: Wishes) -> str:
    from pisa_fab.specs.ad_hoc import find_venv

    return wishes.venv or find_venv(folder, wishes.script)


def jobs_text(folder: Path, wishes: Wishes, options: tuple[Option, ...]) -> str:
    """Give the text of the jobs file."""
    from pisa_fab.specs.schema import mark
    from pisa_fab.specs.yaml_writing import scalar

    venv = _venv(folder, wishes)
    if venv:
        first = f"{f'venv: {scalar(venv)}':<30} # its python runs the script"
    else:
        first = "# venv: venv                   # a virtual environment whose python runs the script"
    return "\n".join(
        [
            mark("jobs"),
            f"# One batch: {wishes.script} with every combination of the arguments below.",
            f"# `{as_typed('dryrun')}` shows every command line; `{as_typed('submit')}` runs them.",
            "",
            first,
            f"script: {scalar(wishes.script)}",
            f"{f'output: {scalar(wishes.output)}':<30} # the folder for what the jobs print, and the tables",
            "",
            *lines_of_arguments(options),
            "",
            "# results: json                # the last line that a job prints is a JSON object; or csv,",
            "                               # or {regex: 'energy: (?P<energy>[-+.0-9]+)'}",
            "# timeout: 2h                  # a job that takes longer has failed",
            "# retries: 1                   # how often a job that failed is run again",
            "# preload: true                # for short jobs: each PC imports once, and forks for each job",
            "",
        ]
    )


def _cluster(wishes: Wishes) -> tuple[str, str]:
    """Give name and text of the cluster file; without hosts an example, which is not taken by itself."""
    from pisa_fab.specs.schema import mark
    from pisa_fab.specs.yaml_writing import block

    words = _host_words(wishes.hosts)
    if words:
        first = "# The PCs of the pool. `inv check` looks at each of them."
    else:
        first = f"# An example: put your PCs in and name it {CLUSTER}. Until then this machine works."
    lines = [
        mark("cluster"),
        first,
        "",
        f"{f'slots: {wishes.slots}':<30} # jobs at once on each PC",
        "hosts:",
        *(f"  - {block(word)}" for word in words or ["pc[01-34]"]),
        "  # - {host: pc04, slots: 1}     # a later entry refines an earlier one",
        "",
        "# windows:                     # other slots at other hours, by the clock of the pool",
        '#   - {hours: "22:00-06:30", slots: 12}',
        "#   - {days: [sat, sun], slots: 12}",
        "# owner: pause                 # jobs stand still while somebody else needs a PC",
        "",
        "# user: student                # all this as ~/.ssh/config says, if left out",
        "# gateway: gate.example.org    # a host through which to connect",
        "",
    ]
    return (CLUSTER if words else EXAMPLE), "\n".join(lines)


TASKS_TEXT = f'''"""The tasks of this project: `inv --list` names them, `inv --help submit` describes one."""

from invoke import task

{IMPORT}


@task
def everything(c):
    """Run what is not finished yet, then write one table of all results."""
    submit(c)
    collect(c)
'''


def _write(target: Path, text: str, told: Tell) -> bool:
    """Write a file that is whole or not there, unless it is there already. Raises PisaError."""
    new = target.with_name(f".{target.name}.{secrets.token_hex(8)}.new")
    try:
        with new.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _put(new, target)
    except FileExistsError:
        told(f"{target.name} is there already and left as it is")
        return False
    except OSError as error:
        raise PisaError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            new.unlink()
    return True


def _put(new: Path, target: Path) -> None:
    """Give a file its name, unless another has it. Raises OSError."""
    try:
        os.link(new, target)  # unlike a renaming, this replaces nothing
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS) or target.exists():
            raise
        new.rename(target)  # a file system without hard links


def _close(written: list[Path], found: Found | None, told: Tell) -> None:
    """Say what there is now, and what comes next."""
    names = [path.name for path in written]
    if not names:
        told("nothing to write: all files are there")
        return
    told(f"written: {', '.join(names)}")
    if found is not None:
        told(found.said)
        if any(option.required and not option.choices for option in found.options):
            told(f"look at {JOBS}: the values there are only examples")
    if EXAMPLE in names:
        told(f"{EXAMPLE}: put your PCs in and rename it to {CLUSTER};")
        told("  until then this machine does the work")
    told(f"next: {as_typed('dryrun')}")
