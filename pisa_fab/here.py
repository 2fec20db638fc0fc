"""`here`: whose jobs pisa_fab runs on this PC, for anybody who sits at it; and their owner's order to stop.

Needs no batch, no cluster file and no connection: the notes and orders in /tmp are all there is to know (see
`notes`). Anybody can put files there. So a note counts only with a living process of its owner behind it, and
what is said of owner, process and how to stop is never what the note says.
"""

from __future__ import annotations

import os
import stat
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pisa_fab.errors import EXIT_FAILED, PisaError
from pisa_fab.notes import (
    FOLDER,
    NOTE,
    PREFIX,
    ROOT,
    STOP,
    entries,
    harmless,
    is_file_of,
    is_locked,
    look,
    names_of,
    namespace,
    order_path,
    orders_about,
    started_at,
    stop_order,
)

MOST_BYTES = 8192  # of a note; a worker writes about one
WIDTH = 80
STOP_PATIENCE = 60.0  # seconds that jobs may take to end once it is ordered
STOP_INTERVAL = 0.1
NEWS_DELAY = 7.0  # seconds until even a worker without jobs has seen an order; it leaves, with its note
RETRIES = 10  # a note that is replaced while it is read is read again
FIRST_PROCESS = 1  # root's; where it cannot be seen, none of other users can


class HereError(PisaError):
    """An order at this PC could not be given, or was not carried out."""

    exit_code = EXIT_FAILED


@dataclass(frozen=True, slots=True)
class Reading:
    """What a note says whose worker lives.

    Attributes:
        uid: of the user whose note it is: the file's owner.
        pid: of the worker, 0 where it cannot be seen from here.
        facts: its lines, by key; nothing in them steers a terminal.
    """

    uid: int
    pid: int
    facts: Mapping[str, str]

    def count(self, key: str) -> int:
        """Give a number, 0 where there is none."""
        return number(self.facts.get(key, ""))

    @property
    def jobs(self) -> int:
        """How many jobs there are, running or paused."""
        return self.count("running") + self.count("paused")


# -- what there is ------------------------------------------------------------------------------------------


def describe(folder: str = FOLDER) -> Iterator[str]:
    """Give lines on all users' jobs on this PC, on how to ask and to stop, and on orders in force."""
    readings = true_notes(folder)
    if not readings:
        yield "nobody's pisa_fab jobs run here"
    for index, reading in enumerate(readings):
        if index:
            yield ""
        yield from block(reading, folder)
    if order := stop_order(os.geteuid(), folder):
        yield ""
        yield from wrapped(f"your own jobs: {order}", "")


def block(reading: Reading, folder: str) -> Iterator[str]:
    """Give the lines on one worker."""
    user, full_name = names_of(reading.uid)
    facts = reading.facts
    head = f", started from {facts['started from']}" if facts.get("started from") else ""
    batch, since = facts.get("batch") or "jobs", facts.get("since") or "?"
    name = f" ({full_name})" if full_name not in ("", user) else ""
    yield from wrapped(f"{user}{name}: {batch}{head}, here since {since}", "")
    yield from wrapped(activity(reading), "  ")
    yield from wrapped(facts.get("to ask") or user, "  to ask:  ")
    touch = f"touch {order_path(reading.uid, folder)}"
    yield f"  to stop: pisa-fab here --stop ({user}), or {touch}"
    yield f"  as root: {touch}" + (f", or kill {reading.pid} for now" if reading.pid else "")


def activity(reading: Reading) -> str:
    """Say how many jobs run and stand still, and why: `2 jobs run, 1 stands still: window mon-fri`."""
    running, paused = reading.count("running"), reading.count("paused")
    text = f"{counted(running)} run{'s' if running == 1 else ''}" if running else "no job runs"
    text += f", {paused} stand{'s' if paused == 1 else ''} still" if paused else ""
    text += " now" if not reading.jobs else ""
    why = reading.facts.get("why", "")
    return f"{text}: {why}" if why else text


def counted(jobs: int) -> str:
    """Count jobs: `1 job`, `2 jobs`."""
    return "1 job" if jobs == 1 else f"{jobs} jobs"


def wrapped(text: str, begin: str) -> list[str]:
    """Break a text into lines for a terminal; the first has `begin` before it."""
    return textwrap.wrap(text, WIDTH, initial_indent=begin, subsequent_indent=" " * max(2, len(begin)))


# -- orders -------------------------------------------------------------------------------------------------


def stop(folder: str = FOLDER, patience: float = STOP_PATIENCE) -> str:
    """Order that nothing of the user of this process runs on this PC, wait until it is so, and say so.

    For root it is everybody's jobs. Raises HereError if they have not ended after `patience` seconds.
    """
    jobs = sum(reading.jobs for reading in concerned(folder))
    try:
        give_order(folder)
    except OSError as error:
        raise HereError(
            f"cannot write the order into {folder}: {error.strerror}",
            "make room there, or end the worker: its process is in pisa-fab here",
        ) from error
    ordered = time.monotonic()
    while left := concerned(folder):
        waited, running = time.monotonic() - ordered, sum(reading.jobs for reading in left)
        if not running and waited >= NEWS_DELAY:
            break
        if running and waited >= patience:
            raise HereError(
                f"{counted(running)} of {whose()} on this PC did not end within {patience:.0f} s",
                "the order stands; look again with pisa-fab here",
            )
        jobs = max(jobs, running)
        time.sleep(STOP_INTERVAL)
    ended = f"{counted(jobs)} ended" if jobs else f"no jobs of {whose()} ran here"
    return f"{ended}; none will start on this PC before: pisa-fab here --start"


def start(folder: str = FOLDER) -> str:
    """Take back what `stop` has ordered, and say what holds now. Raises HereError."""
    try:
        withdrawn = withdraw_order(folder)
    except OSError as error:
        raise HereError(f"cannot remove the order from {folder}: {error.strerror}") from error
    if stop_order(os.geteuid(), folder):
        raise HereError("root has stopped pisa_fab on this PC", "only root can let it work again")
    if withdrawn:
        return f"jobs of {whose()} may run on this PC again"
    return f"nothing was stopped: jobs of {whose()} may run on this PC"


def concerned(folder: str) -> list[Reading]:
    """Give the notes about whose jobs the user of this process may decide."""
    uid = os.geteuid()
    return [reading for reading in true_notes(folder) if uid in (reading.uid, ROOT)]


def whose() -> str:
    """Name those whom an order of the user of this process concerns."""
    uid = os.geteuid()
    return "any user" if uid == ROOT else names_of(uid)[0]


def give_order(folder: str) -> None:
    """Write the order of the user of this process, if it is not there. Raises OSError."""
    uid = os.geteuid()
    if any(status.st_uid == uid for status in orders_about(uid, folder)):
        return
    path = order_path(uid, folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o644)
    except FileExistsError:  # somebody else's
        path = f"{path.removesuffix(STOP)}.{os.urandom(8).hex()}{STOP}"
        descriptor = os.open(path, flags, 0o644)
    try:
        text = f"While this file is here, pisa_fab runs no jobs of {whose()} on this PC.\n"
        os.write(descriptor, text.encode("utf-8", "replace"))
    except OSError:
        pass  # no room; that there is a file is enough
    finally:
        os.close(descriptor)


def withdraw_order(folder: str) -> bool:
    """Remove every order of the user of this process; say whether there was one. Raises OSError."""
    names = [name for name in entries(folder) if name.startswith(PREFIX) and name.endswith(STOP)]
    paths = [Path(folder, name) for name in names]
    mine = [path for path in paths if is_file_of(look(str(path)), os.geteuid())]
    for path in mine:
        path.unlink(missing_ok=True)
    return bool(mine)


# -- reading notes ------------------------------------------------------------------------------------------


def true_notes(folder: str) -> list[Reading]:
    """Give what every note in a folder says whose worker lives, sorted by user."""
    names = [name for name in entries(folder) if name.startswith(PREFIX) and name.endswith(NOTE)]
    found = (read(str(Path(folder, name))) for name in sorted(names))
    return sorted((reading for reading in found if reading is not None), key=lambda reading: reading.uid)


def read(path: str) -> Reading | None:
    """Read a note; None if it is not one, or what it says is not so."""
    for _ in range(RETRIES):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if is_note(status := os.fstat(descriptor)) and is_locked(descriptor):
                return reading_of(os.read(descriptor, MOST_BYTES), status.st_uid)
            now = look(path)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if now is None or os.path.samestat(now, status):
            return None
    return None


def is_note(status: os.stat_result) -> bool:
    """Say whether this is the state of a file that may be a note: a small one that only its owner writes."""
    mode = status.st_mode
    return stat.S_ISREG(mode) and not mode & 0o022 and status.st_size <= MOST_BYTES


def reading_of(data: bytes, uid: int) -> Reading | None:
    """Give what a note of this user says, None if that is not so."""
    facts = facts_of(data.decode("utf-8", "replace"))
    pid = worker_of(facts, uid)
    return None if pid is None else Reading(uid, pid, facts)


def facts_of(text: str) -> dict[str, str]:
    """Give the lines of a note by their keys."""
    pairs = (row.partition(":") for row in text.split("\n"))
    return {key: harmless(value.strip()) for key, colon, value in pairs if colon}


def worker_of(facts: Mapping[str, str], uid: int) -> int | None:
    """Give the process that a note of this user is about; 0 if it cannot be seen, None if it is not so.

    Anybody can lock a file that they can read, and write any number. Where /proc shows us only our own
    processes, or other ones than the worker is among, the lock is all that there is to know.
    """
    pid = number(facts.get("process", ""))
    if not pid or facts.get("uid") != str(uid):
        return None
    if facts.get("namespace", "") != namespace():
        return 0
    if started_at(pid) < 0:
        return 0 if started_at(FIRST_PROCESS) < 0 else None
    return pid if str(started_at(pid)) == facts.get("tick") and user_of(pid) == uid else None


def user_of(pid: int) -> int:
    """Give the effective user of a process, -1 if that cannot be seen."""
    try:
        rows = Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return -1
    return next((int(row.split()[2]) for row in rows if row.startswith("Uid:")), -1)


def number(text: str) -> int:
    """Give the number that a text from a note is, 0 if it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
