"""How the user called us, and from where, so that what we name can be pasted: `inv pisa.check -c pool.yaml`.

Text only; what the words mean to Invoke is Invoke's business.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

COMMANDS = ("cancel", "check", "collect", "dryrun", "here", "hosts", "init", "logs", "status", "submit")
PROGRAMS = ("fab", "inv", "invoke", "pisa-fab")
# The options that name the files, and the commands that know the second one, too.
JOBS = ("-j", "--jobs")
CLUSTER = ("-c", "--cluster")
KNOW_CLUSTER = ("check", "dryrun", "hosts", "submit")
# The options of `inv` and `fab` themselves that are followed by a value.
VALUED = (
    *("-c", "--collection", "-D", "--list-depth", "-f", "--config", "-F", "--list-format"),
    *("-H", "--hosts", "-i", "--identity", "-r", "--search-root", "-S", "--ssh-config"),
    *("-T", "--command-timeout", "-t", "--connect-timeout"),
)

_at_work = [""]  # the jobs file that `works_on` was told last


def works_on(jobs: str) -> None:
    """Note the jobs file of the present command, for tips, where its words do not name it; "" for none."""
    _at_work[0] = jobs


def as_typed(task: str, *options: str, words: Sequence[str] | None = None) -> str:
    """Give the command line of another of our tasks, as the user would type it now.

    Program, namespace, hosts (`fab -H`) and files are those of the present command, but no other task that
    is in it; where it is none of ours (a task of the user's own), it is `pisa-fab`, which works anywhere.
    A command that names no jobs file gets what `works_on` noted; `words` is `sys.argv`.
    """
    jobs = _at_work[0]
    argv = list(sys.argv if words is None else words)
    program = Path(argv[0]).name if argv else ""
    core = before_tasks(argv[1:])
    places = range(1 + len(core), len(argv))
    place = next((at for at in places if argv[at].rpartition(".")[2] in COMMANDS), 0)
    if program not in PROGRAMS or not place:
        return shlex.join(["pisa-fab", task, *options, *(["-j", jobs] if jobs else [])])
    namespace = "".join(argv[place].rpartition(".")[:2])
    wanted = JOBS + CLUSTER if task in KNOW_CLUSTER else JOBS
    files = named(argv[place + 1 :], wanted)
    if jobs and not named(argv[place + 1 :], JOBS):
        files += ["-j", jobs]
    return " ".join([program, shlex.join([*core, namespace + task, *options, *files])])


def short(path: Path) -> str:
    """Give a path as short as it can be written from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def before_tasks(words: Sequence[str]) -> list[str]:
    """Give the words before the name of the first task: options of the program itself."""
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if not word.startswith("-") and before not in VALUED:
            break
        found.append(word)
    return found


def named(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Give those of the words that are one of these options with its value, however it is written."""
    found: list[str] = []
    for word, value in zip(words, [*words[1:], ""], strict=False):
        if word in options:
            found += [word, value]
        elif any(word.startswith(f"{option}=") for option in options):
            found.append(word)
    return found
