"""The journal: every event is one line of JSON, appended by the one head, replayed by whoever wants to know.

The only writer of the file: it appends in batches, brings them safely to the disk, and cuts a torn tail. How
a line is written is in `journal_format`; what events mean is `scheduler`'s and `history`'s business; who may
write is `lock`'s.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pisa_fab.errors import RunError
from pisa_fab.events import Event
from pisa_fab.invocation import as_typed
from pisa_fab.journal_format import decode, encode

Replay = Callable[[float, Event], object]
PIECE = 1 << 20  # bytes that are hashed at a time


@dataclass(frozen=True, slots=True)
class Position:
    """The end of what is safe of a journal, by which a checkpoint knows it again.

    Attributes:
        offset, lines: how many bytes and lines stand before it.
        digest: the hash of those bytes, see `hash_of`.
        number, moment: of the file, and when it was last written to in its file system's nanoseconds.
    """

    offset: int
    lines: int
    digest: bytes
    number: int
    moment: int


def hash_of(file: BinaryIO, size: int) -> hashlib.blake2b:
    """Hash the next so many bytes, or what there is of them. Raises OSError."""
    found = hashlib.blake2b(digest_size=16)
    while size > 0 and (piece := file.read(min(size, PIECE))):
        found.update(piece)
        size -= len(piece)
    return found


Begin = Callable[[BinaryIO], tuple[int, int]]


def read_all(file: BinaryIO) -> tuple[int, int]:
    """Begin to read at the beginning."""
    return 0, 0


def read(
    path: Path, begin: Begin = read_all, skip: Callable[[bytes], bool] | None = None
) -> Iterator[tuple[float, Event]]:
    """Give the events of a journal that somebody else may be writing; a missing file has none.

    `begin` says how many bytes and lines of the open file need not be read; lines that `skip` is true of are
    passed over. Stops in silence before a torn tail. Raises RunError for a journal that is damaged in its
    middle or too new, or may not be read; OSError if reading it fails.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}", "is it yours?") from error
    with file:
        start, before = begin(file)
        file.seek(start)
        for _, found in lines(file, path, before, skip):
            if found is not None:
                yield found


def lines(
    file: BinaryIO, path: Path, before: int = 0, skip: Callable[[bytes], bool] | None = None
) -> Iterator[tuple[int, tuple[float, Event] | None]]:
    """Give what each line from here on says, and where it ends, from here; so many lines stand `before`.

    Without torn or spoilt lines at the end: a power cut may leave blocks of zero bytes, or old text, too.
    """
    end = bad = 0
    for count, text in enumerate(file, start=before + 1):
        if not text.endswith(b"\n"):
            return  # what follows, if a head is writing, would be half a line
        end += len(text)
        try:
            found = None if skip is not None and skip(text) else decode(text.decode("ascii"))
        except ValueError:
            bad = bad or count
            continue
        if bad:
            raise RunError(
                f"{path}:{bad}: this line is damaged, and good ones follow",
                "delete the line; the job that it spoke of may be run once more",
            )
        yield end, found


class Journal:
    """The journal file, open for appending; made by `Journal.open`.

    Attributes:
        path: of the file.
        cut: how many bytes of a torn or spoilt tail were cut off when it was opened.
        cut_lines: how many lines that was, the last of them perhaps a piece.
        size: how many bytes are safe; there the next write begins.
    """

    def __init__(self, path: Path, descriptor: int, lines: int, safe: hashlib.blake2b, size: int) -> None:
        self.path = path
        self.cut = self.cut_lines = 0
        self.size = size
        self._lines = lines
        self._safe = safe  # the hash of it
        self._descriptor = descriptor
        self._torn = False  # whether more of ours may be in the file: it could be neither written nor removed
        self._pending = bytearray()
        self._closed = False

    @classmethod
    def open(cls, path: Path, replay: Replay | None = None, begin: Begin = read_all) -> Journal:
        """Open a journal, or make it (0600), and hand its events to `replay` on the way.

        `begin` says how many bytes and lines of the open file need not be read. A torn or spoilt tail is cut
        off: it was never acknowledged. Raises RunError for a journal that is damaged in its middle or too
        new, OSError if it cannot be opened.
        """
        with contextlib.ExitStack() as stack:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                start, count = begin(file)
                size = start
                file.seek(start)
                for end, found in lines(file, path, count):
                    size = start + end
                    count += 1
                    if replay is not None and found is not None:
                        replay(*found)
                file.seek(size)
                lengths = [len(line) for line in file]
                file.seek(0)
                safe = hash_of(file, size)
            if lengths:
                os.ftruncate(descriptor, size)
            stack.pop_all()
        journal = cls(path, descriptor, count, safe, size)
        journal.cut, journal.cut_lines = sum(lengths), len(lengths)
        if size == 0:
            journal._keep_name()
        return journal

    def _keep_name(self) -> None:
        """Bring a new file's name to the disk, where a file system wants to be asked for that."""
        with contextlib.suppress(OSError):
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def append(self, time: float, events: Iterable[Event]) -> None:
        """Put events behind the others; they reach the file with the next `sync`. `time` is Unix time."""
        for event in events:
            self._pending += f"{encode(time, event)}\n".encode("ascii")

    def position(self) -> Position:
        """Give the end of what is safe. Raises OSError."""
        found = os.fstat(self._descriptor)
        return Position(self.size, self._lines, self._safe.digest(), found.st_ino, found.st_mtime_ns)

    def sync(self) -> None:
        """Bring everything appended to the disk; when this returns it is safe.

        Raises OSError if that does not work (no space, quota, a broken disk). Nothing is lost then: the file
        ends where it did before, and the next `sync` tries the same again. Raises RunError, and writes
        nothing, if the file is not as this journal left it.
        """
        if not self._pending:
            return
        self._check_untouched()
        try:
            self._write()
            os.fsync(self._descriptor)
        except OSError:
            # Should this fail too, the next try writes over the torn piece, and the next `open` cuts it.
            self._torn = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
                self._torn = False
            raise
        self._torn = False
        self.size += len(self._pending)
        self._lines += self._pending.count(b"\n")
        self._safe.update(self._pending)
        self._pending.clear()

    def _check_untouched(self) -> None:
        """Raise RunError if somebody else wrote to the file or deleted it; OSError if it cannot be asked."""
        found = os.fstat(self._descriptor)
        if found.st_nlink == 0:
            raise RunError(
                f"{self.path}: was deleted while the run went on",
                "what ended since then is not recorded; submit again to go on with what is there",
            )
        more = found.st_size - self.size
        if more == 0 or (self._torn and more > 0 and self._is_ours(more)):
            return
        raise RunError(
            f"{self.path}: somebody else writes here; this head writes no more",
            f"is another head at work on this run directory? That says: {as_typed('status')}",
        )

    def _is_ours(self, more: int) -> bool:
        """Whether what stands behind the safe end is the beginning of what could not be written."""
        return self._pending.startswith(os.pread(self._descriptor, more, self.size))

    def _write(self) -> None:
        with memoryview(self._pending) as left:
            done = 0
            while done < len(left):
                done += os.pwrite(self._descriptor, left[done:], self.size + done)

    def close(self) -> None:
        """Sync and close. Raises OSError as `sync` does; the file is closed then, too."""
        if self._closed:
            return
        self._closed = True
        try:
            self.sync()
        finally:
            os.close(self._descriptor)
