"""What one job writes, as it is: while it runs, and after.

An attempt writes to files of its own, which get the job's names when its result has counted (see `layout`).
Which attempt that is, the journal says; files are looked for where they are then, and again for a while,
because a network home shows late what other PCs did. Why there is nothing to show is `why`'s business.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

from pisa_fab.attempts import Attempt, Attempts
from pisa_fab.errors import EXIT_FAILED, EXIT_OK, PisaError, UsageError
from pisa_fab.events import Ending, Event, JobState
from pisa_fab.follow import HeadFollower, JournalFollower
from pisa_fab.invocation import as_typed
from pisa_fab.journal_format import may_concern
from pisa_fab.layout import Layout
from pisa_fab.model import job_name
from pisa_fab.progress import harmless_lines
from pisa_fab.results import VISIBILITY_PATIENCE, VISIBILITY_PAUSE
from pisa_fab.transitions import BY_RESULT, FINAL
from pisa_fab.why import unknown, why

Stream = Literal["out", "err"]

LOOK_EVERY = 0.5  # seconds between two looks at a job that is followed
ABSENT = 2.0  # seconds without a head after which nobody is believed to go on with the job
PIECE = 1 << 20  # bytes


def show(
    layout: Layout,
    job: int,
    *,
    attempt: int | None = None,
    follow: bool = False,
    stream: Stream = "out",
    out: BinaryIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Show what a job wrote, and give an exit code: 0, or 1 if there is nothing to show.

    With `follow`, go on until the job has ended for good, or the run: 0 if the job succeeded, else 1; 0 if
    the person leaves (Ctrl-C). Raises UsageError for a job or an attempt that there is not, PisaError for a
    file that cannot be read or is gone.
    """
    followed = Followed(layout, job, stream, sys.stdout.buffer if out is None else out, err or sys.stderr)
    if attempt is not None:
        return followed.show_attempt(attempt)
    if not follow:
        return followed.show()
    try:
        return followed.follow()
    except KeyboardInterrupt:
        return EXIT_OK


class Followed:
    """A job whose output is shown."""

    def __init__(self, layout: Layout, job: int, stream: Stream, out: BinaryIO, err: TextIO) -> None:
        self.layout = layout
        self.job = job
        self.name = job_name(job)
        self.out = out
        self.err = err
        self.output = Output(layout, job, stream)
        self._attempts = Attempts(job)
        self._begun = 0
        self._journal = JournalFollower(layout.journal, self._take, layout, partial(may_concern, job=job))
        self._head = HeadFollower(layout)
        self._shown = 0  # the place among the attempts of the one whose output is being shown
        self._announce = False  # whether to say when an attempt begins
        self.alive = self._head.look()
        self._journal.update()
        if job not in self._journal.history.records:
            raise UsageError(
                unknown(self._journal.history, job), f"see the assignment file, or: {as_typed('status')}"
            )

    def _take(self, moment: float, event: Event) -> None:
        """Take in an event; anew, when the journal is read anew."""
        if self._begun != self._journal.begun:
            self._begun, self._shown = self._journal.begun, 0
            self._attempts = Attempts(self.job)
        self._attempts.take(moment, event)

    # -- at once ----------------------------------------------------------------------------------------

    def show(self) -> int:
        """Show what there is now."""
        current = self._attempts.last
        if current is None:
            self.say_why()
            return EXIT_FAILED
        self.output.choose(current.number, counted=self.counted(current.number))
        if not self.copy_all():
            self.say(f"{self.name}.{current.number} on {current.host}: its output does not show here yet")
            return EXIT_FAILED
        self.say_how_it_ended(current)
        return EXIT_OK

    def show_attempt(self, number: int) -> int:
        """Show what a certain attempt wrote, if that is still there."""
        found = [attempt for attempt in self._attempts.all if attempt.number == number]
        if not found:
            known = ", ".join(str(attempt.number) for attempt in self._attempts.all) or "none yet"
            raise UsageError(f"{self.name} has no attempt {number}", f"its attempts: {known}")
        self.output.choose(number, counted=self.counted(number))
        if not self.copy_all():
            raise PisaError(
                f"{self.name}.{number}: what it wrote is not there any more",
                "a later attempt counts; see its output without the number of an attempt",
            )
        self.say_how_it_ended(found[-1])
        return EXIT_OK

    def copy_all(self) -> bool:
        """Write all that the chosen attempt wrote; False if no file shows within some patience."""
        patience = VISIBILITY_PATIENCE
        while not self.output.copy(self.out):
            if patience <= 0:
                return False
            patience -= VISIBILITY_PAUSE
            time.sleep(VISIBILITY_PAUSE)
        return True

    # -- as it comes ------------------------------------------------------------------------------------

    def follow(self) -> int:
        """Show what comes until the job has ended for good, or nobody works on it any more."""
        absent_since: float | None = None
        found = self._attempts
        self._shown = found.all.index(found.last) if found.last else max(0, len(found.all) - 1)
        if self._attempts.last is None and self.state not in FINAL:
            self.say_why()
            self._announce = True
        while True:
            self.turn_to_the_last()
            if self.state in FINAL:
                return self.finish()
            if self.output.attempt is not None:
                self.output.copy(self.out)
            if self.alive:
                absent_since = None
            else:
                absent_since = absent_since or time.monotonic()
                if self._journal.history.closed or time.monotonic() >= absent_since + ABSENT:
                    self.say_why()
                    return EXIT_FAILED
            time.sleep(LOOK_EVERY)
            self.alive = self._head.look()
            self._journal.update()

    def turn_to_the_last(self) -> None:
        """Show all of the attempts that have been followed by another, and turn to the last."""
        for attempt in self._attempts.all[max(self._shown, self._attempts.asked) :]:
            if attempt.number == self.output.attempt:
                continue
            if attempt.second and attempt is not self._attempts.last:
                continue  # it may never count
            if self.output.attempt is not None:
                self.finish_attempt()
            if self._announce:
                self.say(f"-- attempt {attempt.number} on {attempt.host} --")
            self._announce = True
            self._shown = self._attempts.all.index(attempt)
            self.output.choose(attempt.number, counted=False)

    def finish_attempt(self) -> None:
        """Show the rest of an attempt after which there was another, and say how it ended."""
        attempt = self._attempts.all[self._shown]
        if attempt.outcome is None or attempt.outcome.ending is Ending.REFUSED:
            self.output.copy(self.out)  # perhaps nothing was ever written
        else:
            self.copy_all()
        self.say(f"{self.name}.{attempt.number} on {attempt.host}: {attempt.describe()}")

    def finish(self) -> int:
        """Show the rest of a job that has ended, and say how it did unless it succeeded."""
        if (current := self._attempts.last) is not None:
            self.output.choose(current.number, counted=self.counted(current.number))
            if not self.copy_all():
                self.say(f"{self.name}.{current.number}: its output is gone")
            self.say_how_it_ended(current)
        else:
            self.say_why()
        return EXIT_OK if self.state is JobState.SUCCEEDED else EXIT_FAILED

    # -- words ------------------------------------------------------------------------------------------

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        return self._journal.history.scheduler.state(self.job)

    def counted(self, number: int) -> bool:
        """Say whether the job has ended with this attempt, so that its files get the job's names."""
        result = self._journal.history.results.get(self.job)
        ended = self.state in BY_RESULT
        return ended and result is not None and result.attempt == number

    def say(self, text: str) -> None:
        """Say something beside the output."""
        self.out.flush()
        self.err.write(f"{harmless_lines(text)}\n")
        self.err.flush()

    def say_why(self) -> None:
        """Say why there is no output, or no more."""
        lines = why(self._journal.history, self.job, head=self.alive, now=time.time())
        self.say(f"{self.name}: {lines[0]}")

    def say_how_it_ended(self, attempt: Attempt) -> None:
        """Say how an attempt ended, unless it succeeded or has not; and what follows, if it is run again."""
        if attempt.outcome is None and not attempt.note:
            return
        if attempt.outcome is None or not attempt.outcome.succeeded:
            self.say(f"{self.name}.{attempt.number} on {attempt.host}: {attempt.describe()}")
            if self.state not in FINAL:
                self.say_why()


class Output:
    """The file with what one attempt wrote, read from where the last reading stopped, wherever it is by now.

    It is opened anew each time, which is what makes a network file system show what came since.

    Attributes:
        attempt: which attempt, None until one was chosen.
    """

    def __init__(self, layout: Layout, job: int, stream: Stream) -> None:
        self.attempt: int | None = None
        self._layout = layout
        self._job = job
        self._which = 0 if stream == "out" else 1
        self._counted = False
        self._done = 0  # bytes that were read
        self._file: tuple[int, int] | None = None  # the one that they were read from

    def choose(self, attempt: int, *, counted: bool) -> None:
        """Turn to an attempt; `counted` says that its file may have got the job's own name."""
        if attempt != self.attempt:
            self.attempt, self._done, self._file = attempt, 0, None
        self._counted = counted

    def copy(self, out: BinaryIO) -> bool:
        """Write what is new; False if no file shows now. Raises PisaError if it cannot be read."""
        with contextlib.ExitStack() as stack:
            file = self._open()
            if file is None:
                return False
            stack.enter_context(file)
            status = os.fstat(file.fileno())
            self._file = (status.st_dev, status.st_ino)
            file.seek(self._done)
            while piece := file.read(PIECE):
                out.write(piece)
                self._done += len(piece)
            out.flush()
        return True

    def _open(self) -> BinaryIO | None:
        """Open the file; not one of another attempt, which the job's own name may still lead to."""
        for path in self._paths():
            try:
                file = path.open("rb")
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ESTALE):
                    continue
                raise PisaError(f"{path}: cannot be read: {error.strerror}") from error
            status = os.fstat(file.fileno())
            if self._file in (None, (status.st_dev, status.st_ino)):
                return file
            file.close()
        return None

    def _paths(self) -> list[Path]:
        """Say where the file may be, after making an NFS client ask its server what is there now."""
        assert self.attempt is not None
        paths = [files[self._which] for files in self._layout.attempt_places(self._job, self.attempt)]
        if self._counted:
            paths += [files[self._which] for files in self._layout.job_places(self._job)]
            for folder in dict.fromkeys(path.parent for path in paths):
                with contextlib.suppress(OSError):
                    list(folder.iterdir())
        return paths
