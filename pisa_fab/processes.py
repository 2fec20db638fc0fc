"""Other processes on a host: finding those that belong together, and ending them.

Travels to the host with `worker`, so it needs nothing but the standard library of Python 3.8. It knows no
jobs: whose processes are to be ended is said by who calls.
"""

from __future__ import annotations

import os
import time

from pisa_fab.light import call_libc, signal

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from typing import Callable

MARK = "PISA_MARK"  # the variable in the environment of a job's processes that says whose they are
ENVIRONMENT_BYTES = 1 << 16  # that are read at once
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
HOLD_PATIENCE = 2.0  # seconds that processes may take to stand still before they are killed
HOLD_INTERVAL = 0.005  # seconds between two looks whether they do


def clock() -> float:
    """Give seconds on a monotonic clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(CLOCK)


def adopt_orphans() -> None:
    """Become the parent of every process below this one that loses its own. Does nothing but on Linux."""
    try:
        call_libc("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except AttributeError:
        return


def listed(folder: str) -> list[int]:
    """Give the numbers among the names in a folder of /proc, none if it is not there."""
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except OSError:
        return []


def processes() -> list[int]:
    """Give all processes that can be seen, none where there is no /proc."""
    return listed("/proc")


def children(parent: int) -> list[int]:
    """Give the processes whose parent this one is, those that have ended and not been waited for included."""
    found: list[int] = []
    for task in listed(f"/proc/{parent}/task"):
        try:
            with open(f"/proc/{parent}/task/{task}/children", "rb") as file:
                found += [int(pid) for pid in file.read().split()]
        except OSError:
            if not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
                return children_by_parent(parent)  # a kernel without that file
    return found


def children_by_parent(parent: int) -> list[int]:
    """Give the same, from what every process says of itself."""
    return [pid for pid in processes() if parent_of(pid) == parent]


def descendants(*roots: int) -> list[int]:
    """Give the children of these processes, their children, and so on."""
    found: dict[int, None] = {}
    pending = list(roots)
    while pending:
        for pid in children(pending.pop()):
            if pid not in found:
                found[pid] = None
                pending.append(pid)
    return list(found)


def parent_of(pid: int) -> int:
    """Give a process's parent, 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def mark_of(pid: int) -> str:
    """Give the mark in a process's environment, "" if it has none or has ended."""
    try:
        # Without a file object: a worker that starts looks at every process of its host.
        file = os.open(f"/proc/{pid}/environ", os.O_RDONLY)
    except OSError:
        return ""
    data = b"\0"
    try:
        while piece := os.read(file, ENVIRONMENT_BYTES):
            data += piece
    except OSError:
        return ""
    finally:
        os.close(file)
    _, found, rest = data.partition(b"\0" + MARK.encode("ascii") + b"=")
    return rest.partition(b"\0")[0].decode("ascii", "replace") if found else ""


def send(pid: int, number: int) -> None:
    """Send a process a signal, or the group of -pid, if it is still there and we may."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # gone already, or a set-user-id program


def kill_all(find: Callable[[], list[int]]) -> bool:
    """Kill what `find` gives, and say whether it gave anything.

    All are stopped before the first is killed, and looked for until nothing new is found: so what they start
    meanwhile is found below them, and a fork bomb cannot outrun this. A process that was in the middle of a
    fork when it was told to stop still makes that child: so the last look comes when all stand still.
    """
    held: set[int] = set()
    patience = clock() + HOLD_PATIENCE
    while True:
        are_still = all(map(is_still, held))
        new = set(find()) - held
        if not new and (are_still or clock() >= patience):
            break
        for pid in new:
            send(pid, signal.SIGSTOP)
        held |= new
        if not new:
            time.sleep(HOLD_INTERVAL)
        elif clock() >= patience:
            break
    for pid in held:
        send(pid, signal.SIGKILL)
    return bool(held)


def is_still(pid: int) -> bool:
    """Say whether a process runs no more: it is stopped, has ended, or waits for a device."""
    return state_of(pid) not in ("R", "S")


def is_stopped(pid: int) -> bool:
    """Say whether a process was stopped, or has ended."""
    return state_of(pid) in ("T", "t", "Z", "X", "")


def state_of(pid: int) -> str:
    """Give the letter by which Linux tells what a process does, "" if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def end_descendants() -> None:
    """Kill everything below this process, and wait until it has ended."""
    while True:
        kill_all(lambda: descendants(os.getpid()))  # what these leave becomes ours, and is next
        try:
            os.wait()
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
