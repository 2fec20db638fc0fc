"""A run that another process works on, watched: what its journal gains, and whether its head lives.

From any PC that sees the run directory, so with what network file systems do in mind: only opening a file is
sure to show what another PC wrote to it. Nothing is written here, and nothing said to anybody.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pisa_fab import checkpoint, lock
from pisa_fab.errors import RunError
from pisa_fab.events import Event
from pisa_fab.history import History
from pisa_fab.journal import lines
from pisa_fab.journal_format import decode
from pisa_fab.layout import Layout

PAUSE = 0.25  # seconds between two looks at a head of which the lock says nothing
MARK = 512  # bytes before the end of what was read, by which the file is known again


class JournalFollower:
    """What a journal amounts to, kept up to date by reading only what was appended.

    `tell` is given every event when it has been taken in, with its Unix time. Times in the history are Unix
    times, those of the scheduler too. `spared` is the run directory whose checkpoint may stand for the events
    before it; of those `tell` is given only the ones of whose lines `past` says so.

    Attributes:
        path: of the journal, which need not exist yet.
        history: what it amounts to; another object after the journal was found to be another.
        begun: how often it was read from its beginning, 0 while there is none.
    """

    def __init__(
        self,
        path: Path,
        tell: Callable[[float, Event], object] | None = None,
        spared: Layout | None = None,
        past: Callable[[bytes], bool] = lambda line: False,
    ) -> None:
        self.path = path
        self._past = past
        self._spared = spared
        self.history = History()
        self.begun = 0
        self._tell = tell
        self._end = 0  # of what was taken in
        self._lines = 0
        self._mark = b""  # what stands before that end

    def update(self) -> bool:
        """Take in what is new, and say whether anything was. Raises RunError.

        A last line that is not whole, or not yet good, is left for the next time. A journal that is shorter
        than before, or another, is read from its beginning: a head cuts a torn tail off, and a person may
        delete the folder and submit again.
        """
        try:
            with self.path.open("rb") as file:
                return self._read(file)
        except FileNotFoundError:
            return self._forget() if self._end else False
        except OSError as error:
            if error.errno == errno.ESTALE:  # replaced between opening and reading: the next time shows it
                return False
            raise RunError(f"{self.path}: cannot be read: {error.strerror}", "is it yours?") from error

    def _read(self, file: BinaryIO) -> bool:
        start = self._end - len(self._mark)
        file.seek(start)
        news = False
        if self._end == 0 or file.read(len(self._mark)) != self._mark:
            news = self._forget() if self._end else False
            self.begun += 1
            if self._spared is not None and (found := checkpoint.load(self._spared, file)) is not None:
                self.history, self._end, self._lines = found.history, found.offset, found.lines
                self._tell_past(file)
                news = True
        start = self._end
        file.seek(start)
        try:
            for end, line in lines(file, self.path, self._lines):
                self._end = start + end
                self._lines += 1
                if line is not None:
                    news = True
                    moment, event = line
                    self.history.apply(moment, event, moment)
                    if self._tell is not None:
                        self._tell(moment, event)
        finally:
            file.seek(max(0, self._end - MARK))
            self._mark = file.read(self._end - file.tell())
        return news

    def _tell_past(self, file: BinaryIO) -> None:
        """Tell of what the checkpoint stands for as much as is asked for."""
        if self._tell is None:
            return
        file.seek(0)
        left = self._end
        for line in file:
            left -= len(line)
            if left < 0:
                return
            if self._past(line) and (found := decode(line.decode("ascii"))) is not None:
                self._tell(*found)

    def _forget(self) -> bool:
        self.history = History()
        self._end = self._lines = 0
        self._mark = b""
        return True


class HeadFollower:
    """Whether a head is at work on a run directory, and which.

    The lock says so at once where it reaches from PC to PC. Where it does not, a head on another PC that did
    not say that it left is believed to live while its beat goes up, as another head would do (see `lock`).

    Attributes:
        holder: who wrote the lock file last, at the last look.
        held: whether somebody held the lock then.
        alive: what the last look found.
    """

    def __init__(self, layout: Layout) -> None:
        self.holder: lock.Holder | None = None
        self.held = self.alive = False
        self._path = layout.lock
        self._moved_at = 0.0

    def look(self) -> bool:
        """Say whether a head is at work now. Read the journal after that: then its last words are there."""
        now = time.monotonic()
        self.held = lock.is_held(self._path)
        found = lock.holder(self._path)
        if found != self.holder:
            self.holder, self._moved_at = found, now
        elsewhere = found is not None and not found.released and found.machine not in ("", lock.boot_id())
        beats = now < self._moved_at + lock.BEAT * lock.SILENT
        self.alive = self.held or (elsewhere and beats)
        return self.alive

    @property
    def silence(self) -> float:
        """How many seconds ago the head gave its last sign of life, as far as it was watched."""
        return time.monotonic() - self._moved_at


def is_at_work(layout: Layout) -> bool:
    """Say whether a head is at work, for who looks only once; read the journal after that.

    That takes as long as three beats where the lock says nothing and the last head, on another PC, did not
    say that it left.
    """
    head = HeadFollower(layout)
    if not head.look() or head.held:
        return head.held
    first = head.holder
    while head.look():
        if head.held or head.holder != first:
            return True
        time.sleep(PAUSE)
    return False
