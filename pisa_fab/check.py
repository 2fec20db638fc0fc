"""`check`: can the hosts of the pool do the work? All of them are asked at once what a job would find there.

Here facts become reports; what they mean is in `diagnosis`, how they look in `check_table`, and what asks on
the host is `probe`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pisa_fab import probe
from pisa_fab.diagnosis import OK, OLDEST_PYTHON, HostReport, trouble_of
from pisa_fab.errors import RunError
from pisa_fab.layout import CHECK_PREFIX, check_files
from pisa_fab.link import Dialogue, Message
from pisa_fab.model import Batch, Cluster, Host
from pisa_fab.processes import clock
from pisa_fab.visits import Access, Links, Visit, pay

CLOCK_QUESTIONS = 5
LEFT_BEHIND = 3600.0  # seconds after which the files of a `check` that was killed are removed by the next

# What is said of a host that hangs, by the step of the probe.
STEPS = {
    "workdir": "entering the folder of the jobs",
    "nonce": "looking into the folder of the run",
    "venv": "starting the venv's Python",
    "disk": "asking for the free disk",
    "quota": "asking for the quota",
    "people": "asking who is logged in",
}
UNNEEDED = {STEPS[step] for step in ("disk", "quota", "people")}


@dataclass(frozen=True)
class Target:
    """What the hosts have to see.

    Attributes:
        workdir: where jobs start.
        python: of the venv, None where there is none.
        folder: the run directory, or the nearest folder above it that is there already.
        is_run: whether that is the run directory.
        question, nonce: a file in that folder, and what is in it.
        answers: the files that the hosts are to write there, by their names.
    """

    workdir: Path
    python: Path | None
    folder: Path
    is_run: bool
    question: Path
    nonce: str
    answers: dict[str, Path]

    def order(self, host: str) -> Message:
        """Give what the probe is told to look at."""
        return {
            "op": "look",
            "workdir": str(self.workdir),
            "python": None if self.python is None else str(self.python),
            "folder": str(self.folder),
            "nonce": self.nonce,
            "nonce_file": str(self.question),
            "answer_file": str(self.answers[host]),
        }

    @property
    def named(self) -> str:
        """The folder, as reasons name it."""
        return f"the run directory {self.folder}" if self.is_run else f"the folder {self.folder}"


def run(
    cluster: Cluster,
    access: Access | None,
    batch: Batch | None,
    *,
    timeout: float = 20.0,
    told: Callable[[str], None],
) -> list[HostReport]:
    """Visit every host, and give a report of each in the order of the cluster file. Raises RunError.

    Args:
        cluster: the hosts.
        access: the way to them, None for this machine.
        batch: whose folders and venv are looked at, None for the folder that we are in.
        timeout: seconds that all of it may take, whatever hangs.
        told: hears, in lines, of keys that were accepted, and whom we are waiting for.
    """
    with target_of(batch, cluster.hosts) as target:

        def talk(visit: Visit, dialogue: Dialogue) -> None:
            look(visit, dialogue, target)

        visits = pay(links_to(cluster.hosts, access), cluster.hosts, talk, timeout, told)
    head_python = python_here(target, access)
    return [report(visit, target, timeout, head_python) for visit in visits]


def links_to(hosts: Sequence[Host], access: Access | None) -> Links:
    """Give the links to these hosts, or to this machine."""
    from pisa_fab.pool import LinkGroup

    return access.links(hosts) if access else LinkGroup.on_this_machine(hosts[0].name)


def python_here(target: Target, access: Access | None) -> str:
    """Give the version of the Python on this PC that corresponds to what is looked at on the hosts."""
    if target.python is not None:
        return str(probe.version_of(str(target.python)).get("venv_python", ""))
    python = shutil.which("python3") if access else None
    return str(probe.version_of(python).get("venv_python", "")) if python else ""


@contextmanager
def target_of(batch: Batch | None, hosts: Sequence[Host]) -> Iterator[Target]:
    """Write the file that hosts have to see, and remove it and their answers afterwards. Raises RunError."""
    wanted = Path.cwd() if batch is None else batch.output
    # Path.is_dir raises an error where nobody may look.
    folder = next(path for path in (wanted, *wanted.parents) if os.path.isdir(path))  # noqa: PTH112
    question, answers = check_files(folder, secrets.token_hex(8), len(hosts))
    python = None if batch is None or batch.venv is None else batch.venv / "bin" / "python"
    target = Target(
        folder if batch is None else batch.workdir,
        python,
        folder,
        batch is not None and folder == wanted,
        question,
        secrets.token_hex(16),
        {host.name: answer for host, answer in zip(hosts, answers, strict=True)},
    )
    try:
        remove_left_behind(folder)
        question.touch(0o600)
        question.write_text(target.nonce, "ascii")
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written: {error.strerror}",
            "check writes a small file there, to see whether the hosts see it",
        ) from error
    try:
        yield target
    finally:
        for path in (question, *answers):
            with suppress(OSError):
                path.unlink()


def remove_left_behind(folder: Path) -> None:
    """Remove the files of a `check` that was killed. Raises OSError."""
    for path in folder.glob(f"{CHECK_PREFIX}*"):
        with suppress(FileNotFoundError):  # that of another one, which was faster
            if path.stat().st_mtime < time.time() - LEFT_BEHIND:
                path.unlink()


# -- on a host ----------------------------------------------------------------------------------------------


def look(visit: Visit, dialogue: Dialogue, target: Target) -> None:
    """Have the probe look around, and note what it finds. Raises OSError, EOFError."""
    visit.step = "asking for its clock"
    visit.found["clock_offset"] = clock_offset(dialogue)
    dialogue.say(target.order(visit.host.name))
    while True:
        message = dialogue.hear()
        if "end" in message:
            return
        if "step" in message:
            visit.step = STEPS[message["step"]]
            continue
        visit.found.update(message["found"])
        if "answered" in message["found"]:
            visit.step = "waiting for what it wrote"
            visit.found["seen_here"] = is_seen(target.answers[visit.host.name], target.nonce)


def clock_offset(dialogue: Dialogue) -> float:
    """Give how many seconds the host's clock is ahead of ours; of several answers the fastest counts."""
    samples = []
    for _ in range(CLOCK_QUESTIONS):
        asked = time.time()
        began = clock()
        dialogue.say({"op": "clock"})
        at = dialogue.hear()["at"]
        delay = clock() - began
        samples.append((delay, at - (asked + delay / 2)))
    _, offset = min(samples)
    return float(offset)


def is_seen(path: Path, nonce: str) -> bool:
    """Say whether a host's answer shows here, as soon as it does."""
    until = clock() + probe.VISIBLE_PATIENCE
    while True:
        with suppress(OSError):
            list(path.parent.iterdir())  # asks the server again
            if path.read_text("ascii", "replace") == nonce:
                return True
        if clock() >= until:
            return False
        time.sleep(probe.VISIBLE_INTERVAL)


# -- reports ------------------------------------------------------------------------------------------------


def report(visit: Visit, target: Target, timeout: float, head_python: str) -> HostReport:
    """Make a host's report of what was found, also where its visit has not come to its end."""
    found = dict(visit.found)
    reason = wrong_with(found, target) or unfinished(visit, timeout)
    sees = found.get("sees")
    if sees:
        sees = found.get("seen_here")
    return HostReport(
        host=visit.host.name,
        slots=visit.host.calendar.at(time.time()).slots,
        verdict=trouble_of(reason).verdict if reason else OK,
        reason=reason,
        connect_ms=visit.connect_ms,
        key=visit.key,
        python=found.get("venv_python", "") if target.python else found.get("python", ""),
        head_python=head_python,
        sees=sees,
        free=found.get("free"),
        size=found.get("size"),
        quota_used=found.get("quota_used"),
        quota_limit=found.get("quota_limit"),
        cores=found.get("cores"),
        load=found.get("load"),
        people=tuple(found["people"]) if "people" in found else None,
        clock_offset=found.get("clock_offset"),
    )


def wrong_with(found: Message, target: Target) -> str:
    """Say what a host has or sees that keeps it from working, "" if nothing is known to."""
    if "python" in found and version(found["python"]) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return f"Python {found['python']} is too old for the worker, which needs {oldest}"
    if "workdir_error" in found:
        return f"no such folder here: {target.workdir} ({found['workdir_error']})"
    if found.get("sees") is False:
        return f"does not see {target.named} ({found['sees_error']})"
    if "answer_error" in found:
        return f"cannot write into {target.named} ({found['answer_error']})"
    if found.get("seen_here") is False:
        return f"what it writes into {target.named} is not seen here"
    if "venv_error" in found:
        return wrong_with_venv(found, target)
    return ""


def wrong_with_venv(found: Message, target: Target) -> str:
    """Say why the venv is of no use on a host."""
    assert target.python is not None
    if found["venv_error"] != "missing":
        return f"the venv's Python {found['venv_error']}"
    lost = f" (its Python, {found['venv_lost']}, is missing)" if found["venv_lost"] else ""
    return f"no such venv here: {target.python.parent.parent}{lost}"


def version(text: str) -> tuple[int, ...]:
    """Give the first two numbers of a version of Python."""
    return tuple(int(part) for part in text.split(".")[:2])


def unfinished(visit: Visit, timeout: float) -> str:
    """Say why a visit did not come to its end, "" where all that is needed was found out before."""
    if visit.step in UNNEEDED:
        return ""
    if visit.is_over:
        return visit.reason
    home = "" if visit.step == "connecting" else "; its home may hang"
    return f"no answer within {timeout:.0f} s while {visit.step}{home}"
