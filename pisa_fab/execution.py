"""One execution of a job on a host: its processes, files and turns, how it stands still and how it is ended.

Travels to the host with `worker`, so it needs nothing but the standard library of Python 3.8. When which of
that happens is `worker`'s business.
"""

from __future__ import annotations

import os
import struct

from pisa_fab.light import call_libc, signal
from pisa_fab.processes import children, clock, descendants, is_stopped, kill_all, mark_of, send

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from typing import Any

TAIL_BYTES = 4096
TAIL_LINES = 8
KILL_INTERVAL = 1.0  # seconds between two attempts to kill what does not end
SLICE = 100_000_000  # nanoseconds, the longest that Linux grants
SHORTEST_SLICE = 100_000  # the shortest
SCHED_ATTR = "=IIQiIQQQ"  # sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period
RESET_ON_FORK = 1  # SCHED_FLAG_RESET_ON_FORK
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # numbers of a system call that Python does not wrap


class Attempt:
    """One execution of a job: its process, its files, and how it is being ended, if it is.

    Attributes:
        out, err: names of its files in the attempts' folder; they may lead through a subfolder.
        mark: what the environment of all its processes holds, by which they are told from other jobs'.
        given, began: when it was given to this worker, and when it was started.
        ended: what the head was told of its end, until it has acknowledged it.
    """

    def __init__(self, message: dict[str, Any], mark: str) -> None:
        self.job: int = message["job"]
        self.number: int = message["attempt"]
        self.argv: list[str] = message["argv"]
        self.env: dict[str, str] = message["env"]
        self.timeout: float | None = message["timeout"]
        self.out, self.err = message["files"]
        self.published_out, self.published_err = message["published"]
        self.mark = f"{mark}/{self.job}.{self.number}"
        self.pid = 0
        self.given = self.began = clock()
        self.paused_at: float | None = None  # since when it stands still, if it does
        self.paused = 0.0  # seconds that it has stood still before
        self.nice = 0  # if its processes stand back further than the worker
        self.ending = ""  # "timeout", "stopped" or "memory" once it is being ended
        self.kill_at = 0.0  # when SIGTERM has had its time, or SIGKILL is to be sent again
        self.is_killed = False
        self.ended: dict[str, Any] = {}

    @property
    def id(self) -> tuple[int, int]:
        """Job and attempt number, by which the head knows it."""
        return (self.job, self.number)

    def deadline(self) -> float | None:
        """Give the time at which something has to be done about it, None for never."""
        if self.ending:
            return self.kill_at
        if self.timeout is None or self.paused_at is not None:
            return None
        return self.began + self.paused + self.timeout

    def stood_still(self, now: float) -> float:
        """Give for how many seconds it has stood still in all."""
        return self.paused + (0.0 if self.paused_at is None else now - self.paused_at)

    def processes(self) -> list[int]:
        """Give all that it has started, as far as that can be told.

        What lost its parent is a child of ours, and has the mark. What has cleared its environment as well
        is swept up when no job runs that it may belong to.
        """
        own = [pid for pid in children(os.getpid()) if pid == self.pid or mark_of(pid) == self.mark]
        return own + descendants(*own)

    def signal(self, *numbers: int) -> None:
        """Send signals to all that it has started: each process gets each of them once."""
        outside = [pid for pid in self.processes() if group_of(pid) not in (self.pid, None)]
        for number in numbers:
            send(-self.pid, number)
            for pid in outside:
                send(pid, number)

    def pause(self, now: float) -> None:
        """Let all that it has started stand still. Said again it finds what was being started meanwhile."""
        if self.paused_at is None:
            self.paused_at = now
        send(-self.pid, signal.SIGSTOP)
        for pid in self.processes():
            if not is_stopped(pid):
                send(pid, signal.SIGSTOP)

    def stand_back(self, nice: int) -> None:
        """Let other programs go before it, further than they do now."""
        self.nice = nice
        for pid in self.processes():
            try:
                os.setpriority(os.PRIO_PROCESS, pid, max(nice, os.getpriority(os.PRIO_PROCESS, pid)))
            except (ProcessLookupError, PermissionError):
                pass  # gone already, or a set-user-id program

    def go_on(self, now: float) -> None:
        """Let it go on."""
        if self.paused_at is not None:
            self.paused += now - self.paused_at
            self.paused_at = None
        self.signal(signal.SIGCONT)

    def end(self, why: str, kill_at: float) -> None:
        """Ask it to end, and note when to stop asking; the earliest such time holds."""
        if self.is_killed:
            return
        if self.ending:
            self.kill_at = min(self.kill_at, kill_at)
            return
        self.ending = why
        self.kill_at = kill_at
        now = clock()
        if now < kill_at:
            self.signal(signal.SIGTERM)
            self.go_on(now)

    def kill(self) -> None:
        """Kill all that it has started; once more after a moment if it is still there."""
        self.is_killed = True
        kill_all(self.processes)
        send(-self.pid, signal.SIGKILL)
        self.kill_at = clock() + KILL_INTERVAL

    def tail(self, folder: int) -> str:
        """Give the last lines of its standard error, a file in that folder."""
        try:
            with open(os.open(self.err, os.O_RDONLY, dir_fd=folder), "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError as error:
            return f"(its standard error cannot be read: {error.strerror})"
        return "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])


def open_output(name: str, folder: int) -> int:
    """Open a file in that folder for what a job writes, and give its descriptor. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    try:
        return os.open(name, flags, 0o666, dir_fd=folder)
    except FileNotFoundError:
        if not make_way(name, folder):
            raise
    return os.open(name, flags, 0o666, dir_fd=folder)


def rename(name: str, folder: int, new_name: str, new_folder: int) -> None:
    """Move a file from one folder to another. Raises OSError."""
    try:
        os.replace(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder)
    except FileNotFoundError:
        if not make_way(new_name, new_folder):
            raise
        os.replace(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder)


def make_way(name: str, folder: int) -> bool:
    """Make the subfolder that a name leads through; False if it leads through none. Raises OSError.

    One that another PC has made may not show yet on a network home: that it is there is what we learn then.
    """
    way = os.path.dirname(name)
    if not way:
        return False
    try:
        os.mkdir(way, 0o700, dir_fd=folder)
    except FileExistsError:
        pass
    return True


def group_of(pid: int) -> int | None:
    """Give a process's group, None if it has ended."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


class Turns:
    """Which turns of the processor jobs get, and all that they start: late ones, few, and long.

    A scheduler that knows the length of turns (EEVDF, Linux 6.12) lets programs with short ones go first,
    which is what people sit in front of. And jobs that share a core throw each other out of its caches less
    often (docs/performance.md). Where it does not know them nice alone holds.
    """

    def __init__(self) -> None:
        number = SCHED_SETATTR.get(os.uname().machine)
        release = [int(part) for part in os.uname().release.split(".")[:2] if part.isdigit()]
        self.number = number if release >= [6, 12] else None
        self.asked: dict[int, bytes] = {}  # by nice value

    def give(self, pid: int, nice: int) -> None:
        """Let a job that has just been started stand back."""
        if nice <= 0:
            return
        if self.number is None:
            os.setpriority(os.PRIO_PROCESS, pid, nice)
            return
        if nice not in self.asked:
            self.asked[nice] = turns(nice, SLICE)
        call_libc("syscall", self.number, pid, self.asked[nice], 0)

    def hurry(self) -> None:
        """Let this process have early turns: a job that it has just started runs as any other until then.

        Nothing that it starts inherits them: jobs that do not stand back would run before what people use.
        """
        if self.number is not None:
            own = os.getpriority(os.PRIO_PROCESS, 0)
            call_libc("syscall", self.number, 0, turns(own, SHORTEST_SLICE, RESET_ON_FORK), 0)


def turns(nice: int, length: int, flags: int = 0) -> bytes:
    """Pack what sched_setattr(2) is told: how far to stand back, and nanoseconds of a turn."""
    return struct.pack(SCHED_ATTR, 48, os.SCHED_OTHER, flags, nice, 0, length, 0, 0)
