"""One head per run directory: a lock that says who holds it.

The lock is a POSIX record lock. NFS version 4 carries it from PC to PC, and the kernel gives it back when its
holder dies, however it dies. Two things are left for the text in the file:

- On some mounts (`nolock`, `local_lock=all`, FUSE) locks end at the PC. So the head raises a number in the
  text every few seconds, its beat. Who gets the lock but finds the text of a head on another PC, which did
  not say that it left, watches that for three beats, and takes over only if nothing moves.
- When the head's whole PC dies, the file server keeps its lock for a while. Who does not get the lock asks
  again for as long, unless the beat shows that the head lives.

PCs are told apart by the boot id of their kernel, because that is who knows about locks: host names and
machine ids are the same on PCs that were cloned. A PC that was booted anew is another one.

POSIX gives a lock to a process, to each of its threads, and drops it when any of them closes a descriptor of
the file. So a holder opens it only to keep it open, and what the threads of its process ask is answered from
memory: a program may run a batch in one thread, and look at it in another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from types import TracebackType

from pisa_fab.errors import RunError
from pisa_fab.invocation import as_typed

BEAT = 2.0  # seconds
SILENT = 3  # beats without a sign after which a head is dead
LAPSE = 60  # beats for which a file server may keep the lock of a PC that died; NFS 4: 90 s unless configured
GLANCE = 0.3  # seconds; `is_held` of somebody else holds the lock for less
SIZE = 1024  # bytes of the text, always, so that whoever reads while it is written sees an old one or a new
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TAKEN = (errno.EACCES, errno.EAGAIN)  # what a lock that another process has is refused with

_ours: dict[str, RunLock] = {}  # the locks of this process, by the real path of the file
_ours_guard = threading.Lock()


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a run directory.

    Attributes:
        head, pid: name of the machine; process there.
        since: Unix seconds.
        machine: whose kernel keeps the lock; "" from versions that did not say.
        beat: goes up as long as the head lives.
        released: whether it said that it left.
    """

    head: str
    pid: int
    since: float
    machine: str = ""
    beat: int = 0
    released: bool = False

    def is_same(self, other: Holder | None) -> bool:
        """Whether this is the same head, at whatever beat."""
        return other is not None and replace(other, beat=self.beat, released=self.released) == self


class RunLock:
    """Hold a run directory's lock as long as the `with` lasts. Raises RunError when another head has it.

    Args:
        path: of the lock file.
        waiting: is told in one line why it takes a while, if it does.
        beat: seconds between two signs of life.
    """

    def __init__(
        self, path: Path, waiting: Callable[[str], None] = lambda line: None, beat: float = BEAT
    ) -> None:
        self.path = path
        self._waiting = waiting
        self._seconds = beat
        self._due = float("-inf")
        self._descriptors: list[int] = []  # the first holds the lock
        self._me = Holder(socket.gethostname(), os.getpid(), time.time(), boot_id())
        self._place = os.path.realpath(path)

    def __enter__(self) -> RunLock:
        """Take the lock; at once, or after watching a head on another PC that may be dead."""
        with _ours_guard:
            other = _ours.setdefault(self._place, self)
        if other is not self:
            raise refusal(self.path, other._me)
        with contextlib.ExitStack() as stack:
            stack.callback(_ours.pop, self._place)
            stack.callback(self._close)
            confirm = self._wait_until_free()
            self._claim()
            if confirm:
                # Another head may have watched the same dead one from a third PC. Who wrote last goes on.
                time.sleep(self._seconds)
                self._look()  # stays open until the end: closing it would give the lock back
                self._check_ours()
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back, and say so in the text unless that is another's by now."""
        with contextlib.suppress(OSError):
            if self._me.is_same(read(self._descriptors[0])):
                self._write(replace(self._me, released=True))
        self._close()
        del _ours[self._place]

    def beat(self, now: float) -> None:
        """Show that this head lives, if it is time to; to be called about once a beat, or more often.

        `now` is in monotonic seconds. Raises RunError if another head took over; that can happen where locks
        do not reach other PCs and this one stood still.
        """
        if now < self._due:
            return
        self._due = now + self._seconds
        try:
            # We have the lock: asked for again it changes nothing, but makes an NFS client read anew.
            fcntl.lockf(self._descriptors[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_ours()
            self._write(replace(self._me, beat=self._me.beat + 1))
        except OSError as error:
            if error.errno in (*TAKEN, errno.ESTALE):
                raise self._overtaken(None) from error
            # No room, or a file server in trouble: the next beat may do better.

    def _wait_until_free(self) -> bool:
        """Get the lock. Say whether it was a dead head's of another PC. Raises RunError if a head lives."""
        first: Holder | None = None  # a head of another PC, as it was at the first look
        began = time.monotonic()
        told = False
        while True:
            locked, found = self._look()
            if found is None or found.released or found.machine in ("", self._me.machine):
                if locked:  # the kernel's word is enough
                    return False
                if first is not None:
                    first, began = None, time.monotonic()
                pause, patience = 0.05, GLANCE
            elif first is None:
                first, began = found, time.monotonic()
                pause, patience = self._seconds / 4, self._seconds * LAPSE
                self._waiting(
                    f"{found.head} was running this (since {moment(found.since)}); "
                    "looking whether it still is ..."
                )
            elif found != first:
                raise refusal(self.path, found)
            elif time.monotonic() - began >= self._seconds * SILENT:
                if locked:
                    return True
                if not told:
                    self._waiting(f"{found.head} gives no sign of life; waiting until its lock is freed ...")
                    told = True
            self._close()
            if not locked and time.monotonic() - began >= patience:
                raise refusal(self.path, found, silent=first is not None)
            time.sleep(pause)

    def _look(self) -> tuple[bool, Holder | None]:
        """Open the file, try to lock it, and say whether that worked and whose text is in it.

        Always anew: opening is what makes every network file system show what other PCs wrote.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be opened: {error.strerror}", "is it yours?") from error
        self._descriptors.append(descriptor)
        try:
            return try_to_lock(descriptor), read(descriptor)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be locked: {error.strerror}") from error

    def _claim(self) -> None:
        """Put in that the lock is ours."""
        try:
            self._write(self._me)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror}", "is there room?") from error

    def _check_ours(self) -> None:
        """Raise RunError if the text is that of another head, or the file was deleted."""
        found = read(self._descriptors[-1])
        gone = os.fstat(self._descriptors[0]).st_nlink == 0
        if gone or (found is not None and not self._me.is_same(found)):
            raise self._overtaken(None if gone else found)

    def _overtaken(self, by: Holder | None) -> RunError:
        return RunError(
            f"{self.path.parent.parent}: has been taken over by {describe(by)}; this head stops",
            f"was this PC suspended, or cut off? to watch that one: {as_typed('status')}",
        )

    def _write(self, me: Holder) -> None:
        """Replace the text, and bring it to where other PCs see it. Raises OSError."""
        text = json.dumps(asdict(me)).ljust(SIZE - 1) + "\n"
        os.pwrite(self._descriptors[0], text.encode("ascii"), 0)
        os.ftruncate(self._descriptors[0], SIZE)
        os.fsync(self._descriptors[0])
        self._me = me

    def _close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def refusal(path: Path, found: Holder | None, *, silent: bool = False) -> RunError:
    """Say who holds a lock file, how to watch that, and how to stop it."""
    if found is None or found.released:
        who, tip = describe(None), f"it goes on by itself; to watch it: {as_typed('status')}"
    elif silent:
        who = f"{describe(found)}, which gives no sign of life but keeps its lock"
        tip = f"if {found.head} is off or was booted anew, delete {path} and submit again"
    else:
        who = describe(found)
        tip = f"watch it from any PC: {as_typed('status')}; stop it: {as_typed('cancel')}"
    return RunError(f"{path.parent.parent}: is being run by {who}", tip)


def try_to_lock(descriptor: int) -> bool:
    """Lock a file that is open for writing, without waiting; False if another process has it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise
    return True


def read(descriptor: int) -> Holder | None:
    """Give whose text is in an open lock file; None if it is not whole. Raises OSError."""
    return parse(os.pread(descriptor, SIZE, 0))


def parse(text: bytes) -> Holder | None:
    """Give who is named in a text; None if it is torn. Fields of newer versions are skipped."""
    try:
        data = json.loads(text)
        who = Holder(**{field.name: data[field.name] for field in fields(Holder) if field.name in data})
        whole = all(type(value) is type(like) for value, like in zip(astuple(who), LIKE, strict=True))
    except (ValueError, TypeError, RecursionError):
        return None
    return who if whole else None


LIKE = ("", 0, 0.0, "", 0, False)  # what the fields of a holder are like


def boot_id() -> str:
    """Give what tells this kernel from all others while it runs; where it does not say, the host name."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        return socket.gethostname()


def holder(path: Path) -> Holder | None:
    """Give who wrote a lock file last, whether it still holds the lock or not; None if nobody can be read."""
    if (ours := _ours.get(os.path.realpath(path))) is not None:
        return ours._me
    try:
        return parse(path.read_bytes())
    except OSError:
        return None


def is_held(path: Path) -> bool:
    """Say whether a head holds the lock now."""
    if os.path.realpath(path) in _ours:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in TAKEN  # anything else says nothing of a head
    finally:
        os.close(descriptor)
    return False


def describe(who: Holder | None) -> str:
    """Say who it is: `pc01 (process 4711) since 2026-11-22 14:05:09`."""
    if who is None:
        return "another head"
    return f"{who.head} (process {who.pid}) since {moment(who.since)}"


def moment(seconds: float) -> str:
    """Write Unix time as people here do: `2026-11-22 14:05:09`."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
