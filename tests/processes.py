"""Waiting for things and finding processes, for tests and benchmarks; nothing here knows SSH or pytest."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PROC = Path("/proc")


def wait_for(predicate: Callable[[], T], what: str, deadline: float = 60.0) -> T:
    """Ask until the answer is true, and give it.

    Raises AssertionError, which names `what`, after `deadline` seconds. The deadline is for tests that have
    gone wrong: it is long, so that a busy machine does not meet it.
    """
    end = time.monotonic() + deadline
    while not (answer := predicate()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline:.0f} s in vain for {what}")
        time.sleep(0.01)
    return answer


@dataclass(frozen=True, slots=True)
class Process:
    """A process; `started` (clock ticks since boot) tells it from a later one with the same pid."""

    pid: int
    parent: int
    started: int
    name: str
    state: str

    def alive(self) -> bool:
        """Whether it still runs: a zombie has ended and only waits for its parent to ask."""
        now = look(self.pid)
        return now is not None and now.started == self.started and now.state != "Z"

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that comes too late is no error."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def describe(self) -> str:
        """Give pid, state and command line."""
        try:
            raw = (PROC / str(self.pid) / "cmdline").read_bytes()
        except OSError:
            raw = b""
        command = raw.replace(b"\0", b" ").decode("utf-8", "replace").strip()
        return f"{self.pid} ({self.state}) {command[:200] or self.name}"


def look(pid: int) -> Process | None:
    """Read what the kernel says of a process, None if there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return Process(pid, int(fields[1]), int(fields[19]), name, fields[0])


def everything() -> list[Process]:
    """Give every living process of this machine, zombies and our own process left out."""
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    found = (look(pid) for pid in pids if pid != os.getpid())
    return [process for process in found if process is not None and process.state != "Z"]


def below(roots: Iterable[int], among: list[Process]) -> list[Process]:
    """Give the descendants of some processes, parents before their children."""
    found: list[Process] = []
    wanted = set(roots)
    while wanted:
        generation = [process for process in among if process.parent in wanted]
        found += generation
        wanted = {process.pid for process in generation}
    return found


def carries(process: Process, mark: bytes) -> bool:
    """Whether the environment that a process was started with contains `mark`."""
    try:
        return mark in (PROC / str(process.pid) / "environ").read_bytes()
    except OSError:
        return False


def works_in(process: Process, folder: Path) -> bool:
    """Whether a process has its working directory in a folder."""
    try:
        return (PROC / str(process.pid) / "cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


def born_in(folder: Path) -> list[Process]:
    """Give the processes whose environment or working directory shows that they belong to a folder."""
    mark = os.fsencode(folder) + b"/"  # not that of its neighbour `test_a10`, too
    return [process for process in everything() if carries(process, mark) or works_in(process, folder)]


def kill_all(find: Callable[[], list[Process]], what: str) -> None:
    """Kill until nothing is found; all are stopped first, so that none can tell of another's death."""

    def gone() -> bool:
        found = find()
        for process in found:
            process.send(signal.SIGSTOP)
        for process in found:
            process.send(signal.SIGKILL)
        return not found

    wait_for(gone, f"the end of {what}")


def assert_all_gone(folder: Path, deadline: float = 30.0) -> None:
    """Wait until nothing that belongs to a folder runs; kill what does not end, and raise AssertionError."""
    try:
        wait_for(lambda: not born_in(folder), "the last process of the test", deadline)
    except AssertionError:
        left = [process.describe() for process in born_in(folder)]
        kill_all(lambda: born_in(folder), f"what is left of {folder}")
        if left:
            raise AssertionError("left behind:\n  " + "\n  ".join(left)) from None
