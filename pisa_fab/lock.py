"""One head per run directory: a lock that says who holds it.

The lock is a POSIX record lock, which NFS version 4 carries from PC to PC and the kernel gives back when its
holder dies, however it dies. The text in the file is for people.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from pisa_fab.errors import RunError


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a run directory: machine, process, since when (Unix seconds)."""

    head: str
    pid: int
    since: float


class RunLock:
    """Hold a run directory's lock as long as the `with` lasts. Raises RunError when another head has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1

    def __enter__(self) -> RunLock:
        """Take the lock at once or not at all."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be opened: {error.strerror}", "is it yours?") from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise RunError(f"{self.path}: cannot be locked: {error.strerror}") from error
            raise RunError(
                f"{self.path.parent.parent}: is being run by {describe(holder(self.path))}",
                "watch it with `inv status`; it goes on by itself",
            ) from error
        self.descriptor = descriptor
        me = Holder(socket.gethostname(), os.getpid(), time.time())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(me)).encode("ascii"), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        os.close(self.descriptor)


def holder(path: Path) -> Holder | None:
    """Give who wrote a lock file last, whether it still holds the lock or not; None if nobody can be read."""
    try:
        return Holder(**json.loads(path.read_text("ascii")))
    except (OSError, ValueError, TypeError):
        return None


def is_held(path: Path) -> bool:
    """Say whether a head holds the lock now. Not for the head itself: its own lock never blocks it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def describe(who: Holder | None) -> str:
    """Say who it is: `pc01 (process 4711) since 14:05:09`."""
    if who is None:
        return "another head"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(who.since))
    return f"{who.head} (process {who.pid}) since {since}"
