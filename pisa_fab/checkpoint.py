"""The checkpoint: what a long journal amounts to up to a byte of it, so that nobody reads that part again.

The journal stays the only truth. A checkpoint only spares time, so one that is missing, torn, of another
version or of another journal is passed over in silence, and all of the journal is read. It is used only where

- it belongs to whoever reads it, and nobody else may write to it: root trusts no student's,
- it carries the mark that only those can make who know the secret of the run directory,
- the modules that made it are those that read it, to the byte,
- the journal has not been written to since, by its number, size and time; or, as in a run that goes on, the
  part that is spared has the hash that it had. So a cut tail, a line mended by hand or another journal is
  noticed; what is not is an edit that keeps the size, after which somebody sets the time back.

Even then nothing but the classes of a few pure rooms is made of it, which do nothing but be there.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import os
import pickle
import secrets
import stat
import struct
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO

from pisa_fab.history import History
from pisa_fab.journal import Journal, Position, hash_of
from pisa_fab.layout import Layout
from pisa_fab.processes import clock

LEAST = 8 << 20  # bytes of a journal: reading so many takes about a second
GROWTH = 4  # a new one when the journal has grown by this part of what the last one spares

# The modules whose classes a checkpoint is made of, and those that say what the lines of a journal amount to.
STATE = (
    "budgets",
    "canary",
    "doubts",
    "endings",
    "events",
    "forecast",
    "history",
    "keys",
    "model",
    "order",
    "pace",
    "quarantine",
    "queues",
    "records",
    "scheduler",
    "slots",
    "states",
)
RULES = ("checkpoint", "doubling", "journal", "journal_format", "ledger", "transitions")
_PLAIN = {
    ("array", "_array_reconstructor"),
    ("array", "array"),
    ("builtins", "range"),
    ("collections", "OrderedDict"),
    ("collections", "deque"),
}
_MARK = 32
# What stands before the state: program, hash of the journal, its length, lines, number and time; seconds that
# the clock of the scheduler was behind Unix time.
_FACTS = struct.Struct("<16s16sQQQqd")


@dataclass(frozen=True, slots=True)
class Restored:
    """What a checkpoint spares: the history up to a byte of the journal, and the lines before it."""

    history: History
    offset: int
    lines: int


@lru_cache(maxsize=1)
def program() -> bytes:
    """Give what tells these modules, and this Python, from all others; b"" where no source is there."""
    found = hashlib.blake2b(repr((sys.version_info[:2], sys.byteorder)).encode(), digest_size=16)
    folder = Path(__file__).parent
    try:
        for name in (*STATE, *RULES):
            found.update((folder / f"{name}.py").read_bytes())
    except OSError:
        return b""
    return found.digest()


# -- reading ------------------------------------------------------------------------------------------------


def load(layout: Layout, journal: BinaryIO) -> Restored | None:
    """Give what the checkpoint of a journal, which is open here, spares; None if it cannot be used."""
    try:
        data, secret = _own(layout.checkpoint), layout.secret.read_bytes()
        if len(data) < _MARK + _FACTS.size or not secret or not program():
            return None
        content = memoryview(data)[_MARK:]
        if not hmac.compare_digest(_mark(secret, content), data[:_MARK]):
            return None
        made_by, digest, offset, lines, number, moment, behind = _FACTS.unpack_from(content)
        if made_by != program() or not _is_of(journal, digest, offset, number, moment):
            return None
    except OSError:
        return None
    history = _unpacked(content[_FACTS.size :])
    if history is None:
        return None
    history.scheduler.shift(behind)
    return Restored(history, offset, lines)


def _own(path: Path) -> bytes:
    """Give the content of a file that nobody else can have written, b"" of any other. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode) or found.st_mode & 0o022:
            return b""
        return file.read()


def _is_of(journal: BinaryIO, digest: bytes, offset: int, number: int, moment: int) -> bool:
    """Say whether a journal begins with what was read when the checkpoint was made."""
    found = os.fstat(journal.fileno())
    if found.st_size < offset:
        return False
    if (found.st_ino, found.st_mtime_ns, found.st_size) == (number, moment, offset):
        return True
    journal.seek(0)
    return hash_of(journal, offset).digest() == digest


class _Unpickler(pickle.Unpickler):
    """Makes what a history consists of, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        package, _, room = module.partition(".")
        if (module, name) in _PLAIN:
            return getattr(import_module(module), name)
        if package == "pisa_fab" and room in STATE:
            found = getattr(import_module(module), name, None)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a history")


def _unpacked(content: memoryview) -> History | None:
    """Give the history that was packed, None if it is none."""
    try:
        found = _Unpickler(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError):
        return None
    except (ImportError, MemoryError, RecursionError, TypeError, ValueError):
        return None
    if type(found) is not History:
        return None
    fresh, ours = vars(History()), vars(found)
    alike = fresh.keys() == ours.keys() and all(
        value is None or type(ours[name]) is type(value) for name, value in fresh.items()
    )
    return found if alike else None


# -- writing ------------------------------------------------------------------------------------------------


class Keeper:
    """Writes the checkpoint of a run now and then; made by the one head that holds the run directory.

    `offset` is what the last one spares.
    """

    def __init__(self, layout: Layout, secret: str, offset: int = 0) -> None:
        self.offset = offset
        self._layout = layout
        self._secret = secret.encode()
        self._program = program()  # of now: somebody may install another while the run goes on
        self._writer: Thread | None = None

    def look(self, history: History, journal: Journal) -> None:
        """Write one if it is time to: the journal, of which all is on the disk, is long and has grown much.

        And when a run is over, if the journal is long. The file is written on a thread; `close` waits for it.
        """
        size, closed = journal.size, history.closed is not None
        if size < LEAST or size == self.offset or not self._program:
            return
        if not closed and size - self.offset < max(LEAST, self.offset // GROWTH):
            return
        if self._writer is not None and self._writer.is_alive() and not closed:
            return
        self.close()
        self.offset = size
        data = packed(history, journal.position(), self._program, time.time() - clock())
        self._writer = Thread(target=self._write, args=(data,), name="checkpoint")
        self._writer.start()

    def close(self) -> None:
        """Wait until nothing is written any more."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write(self, data: bytes) -> None:
        path = self._layout.checkpoint
        new = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_mark(self._secret, data))
                file.write(data)
            new.replace(path)
        except OSError:  # no room, perhaps: then the journal is read from its beginning
            with contextlib.suppress(OSError):
                new.unlink()


def packed(history: History, position: Position, made_by: bytes, behind: float) -> bytes:
    """Give facts and state as they stand in the file behind their mark."""
    facts = _FACTS.pack(
        made_by,
        position.digest,
        position.offset,
        position.lines,
        position.number,
        position.moment,
        behind,
    )
    return facts + pickle.dumps(history, protocol=5)


def _mark(secret: bytes, content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_MARK, key=secret[:64]).digest()
