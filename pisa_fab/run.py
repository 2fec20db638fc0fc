"""The run directory, opened by the one head that works on it: lock, journal, what the journal amounts to.

Everything that writes under the run directory on the head's side goes through here; what the names are is
`layout`'s business, and what happens next is the head's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pisa_fab import checkpoint, requests
from pisa_fab.assignments import write_assignments
from pisa_fab.checkpoint import Keeper
from pisa_fab.errors import RunError
from pisa_fab.events import (
    Action,
    CancelAsked,
    Event,
    JobRecord,
    JobsAdded,
    JobsCancelled,
    JobsReopened,
    JobState,
    RunOpened,
)
from pisa_fab.history import History
from pisa_fab.journal import Journal
from pisa_fab.journal import read as read_journal
from pisa_fab.layout import Layout
from pisa_fab.lock import RunLock
from pisa_fab.model import Batch, Job, Policy
from pisa_fab.numbering import Numbering
from pisa_fab.processes import clock
from pisa_fab.records import PackedRecords, Records
from pisa_fab.scheduler import Decision
from pisa_fab.table import replacing
from pisa_fab.transitions import BY_RESULT
from pisa_fab.version import __version__

RECORDS_A_LINE = 1000  # jobs that one line of the journal holds
LINES_AT_ONCE = 64  # such lines that are kept in memory until they are written


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asks of one run.

    Attributes:
        retry_failed: whether jobs are run again that have failed, were given up or cancelled.
        rerun: whether all are.
        only: the numbers of the jobs to run, ascending; None for the whole batch.
        jobs_file: the text of a jobs file that describes the batch, for the run directory; "" for none.
    """

    retry_failed: bool = False
    rerun: bool = False
    only: tuple[int, ...] | None = None
    jobs_file: str = ""


class Run:
    """A run directory that is held by this process.

    Attributes:
        layout: its paths.
        history: what the journal's events amount to; `record` keeps it up to date.
        numbering: which combination of the batch has which number.
        nonce: the text by which a host shows that it sees the directory.
        epoch: which head this is, from 1.
        secret: a text that nobody else knows, the same for every head.
        keeper: of its checkpoint.
    """

    def __init__(
        self, batch: Batch, lock: RunLock, journal: Journal, history: History, spared: int = 0
    ) -> None:
        self.batch = batch
        self.lock = lock
        self.layout = Layout(batch.output)
        self.journal = journal
        self.history = history
        self.numbering = Numbering.of(batch.plan, history.numbers(), history.next_number)
        self.nonce = secrets.token_hex(16)
        self.epoch = history.epochs + 1
        with told(self.layout.secret):
            self.secret = take_secret(self.layout.secret)
        self.keeper = Keeper(self.layout, self.secret, spared)

    def record(self, event: Event, now: float) -> list[Action]:
        """Apply an event and put it into the journal; it is safe on disk after the next `sync`."""
        moment = round(time.time(), 3)  # as the journal has it, so that a replay knows the same times
        actions = self.history.apply(moment, event, now)
        self.journal.append(moment, [event])
        return actions

    def decide(self, now: float) -> list[Decision]:
        """Let the scheduler decide, and put what it decided into the journal."""
        moment = round(time.time(), 3)
        decisions = self.history.decide(moment, now)
        self.journal.append(moment, decisions)
        return decisions

    def sync(self) -> None:
        """Bring the journal to the disk. Raises RunError."""
        try:
            self.journal.sync()
            self.keeper.look(self.history, self.journal)
        except OSError as error:
            raise self._no_journal(error) from error

    def try_sync(self) -> str:
        """Bring the journal to the disk, or say in a few words that there is no room for it. Raises RunError.

        What could not be written is kept, and written by the next call that succeeds.
        """
        try:
            self.journal.sync()
            self.keeper.look(self.history, self.journal)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise self._no_journal(error) from error
            return str(error.strerror)
        return ""

    def _no_journal(self, error: OSError) -> RunError:
        return RunError(
            f"{self.layout.journal}: cannot be written: {error.strerror}",
            "mend that, then submit again: it goes on where it stopped",
        )

    def begin(self, policy: Policy, now: float, wish: Wish) -> None:
        """Journal the batch, write the assignment file and the nonce. Raises RunError or UsageError."""
        self.numbering.check(wish.only or ())
        known = self.history.records
        for count, chunk in enumerate(consecutive(self._new_jobs(known), RECORDS_A_LINE), start=1):
            self.record(JobsAdded(chunk[0].number, PackedRecords.of([record_of(job) for job in chunk])), now)
            self.beat(clock())  # a million jobs take a while
            if count % LINES_AT_ONCE == 0:
                self.sync()
        batch = self.numbering.sorted
        jobs = batch if wish.only is None else wish.only
        me = (__version__, socket.gethostname(), os.getpid())
        self.record(RunOpened(*me, jobs, policy, self.epoch, len(batch) - len(jobs)), now)
        again = self._asked_for_again(wish)
        if again:
            self.record(JobsReopened(again), now)
        write_assignments(self.batch, self.numbering, self.history.records, lambda: self.beat(clock()))
        with told(self.layout.nonce):
            self.layout.nonce.write_text(self.nonce, "ascii")
        if wish.jobs_file:
            with told(self.layout.jobs), replacing(self.layout.jobs) as file:
                file.write(wish.jobs_file)
        self.sync()

    def cancel(self, jobs: Sequence[int], by: str, now: float) -> None:
        """Journal that jobs are not to be run, while no head is at work; those that wait are cancelled then.

        Others may still run on their hosts: that is for the next head to find out.
        """
        self.record(CancelAsked(jobs, by), now)
        waiting = [job for job in jobs if self.history.scheduler.state(job) is JobState.WAITING]
        if waiting:
            self.record(JobsCancelled(waiting), now)

    def _new_jobs(self, known: Records) -> Iterator[Job]:
        """Render the jobs that the journal does not know, by number."""
        numbers = self.numbering.sorted
        if known.has_all(numbers):
            return iter(())
        return (job for job in self.numbering.jobs(self.batch.plan) if job.number not in known)

    def _asked_for_again(self, wish: Wish) -> list[int]:
        ended_badly = [JobState.FAILED, JobState.LOST, JobState.CANCELLED]
        states = ended_badly if wish.rerun or wish.retry_failed else []
        states += [JobState.SUCCEEDED] if wish.rerun else []
        return sorted(job for state in states for job in self.history.scheduler.jobs_in(state))

    def beat(self, now: float) -> None:
        """Show other PCs that this head lives; `now` is on the clock of `worker`."""
        self.lock.beat(now)

    def free_space(self) -> int:
        """Give the bytes that the home has room for. A quota shows only when it is used up."""
        try:
            found = os.statvfs(self.layout.root)
        except OSError:
            return sys.maxsize
        return found.f_bavail * found.f_frsize

    def publish(self, job: int, attempt: int) -> None:
        """Give an attempt's files the job's own names, unless its worker has done so already. Raises OSError.

        What there is no room for is left to the next head; until then it is read under the attempt's name.
        """
        for sources in self.layout.attempt_places(job, attempt):
            for source, target in zip(sources, self.layout.job_files(job), strict=True):
                try:
                    move(source, target)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOSPC, errno.EDQUOT):
                        raise

    def publish_leftovers(self) -> None:
        """Publish what counted under an earlier head but was not published when that ended."""
        for job, attempt in self.layout.leftovers():
            result = self.history.results.get(job)
            if result and result.attempt == attempt and self.history.scheduler.state(job) in BY_RESULT:
                self.publish(job, attempt)


def move(source: Path, target: Path) -> None:
    """Move a file, into a folder that may have to be made first. Raises OSError."""
    try:
        source.replace(target)
    except FileNotFoundError:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        source.replace(target)


def take_secret(path: Path) -> str:
    """Give the text in this file, which is made if there is none. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if text := path.read_text("ascii"):
            return text
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(16), "ascii")
    return path.read_text("ascii")


def record_of(job: Job) -> JobRecord:
    """Give what the journal keeps of a job."""
    return JobRecord(job.key, job.argv, job.arguments)


def consecutive(jobs: Iterable[Job], most: int) -> Iterator[list[Job]]:
    """Cut jobs with ascending numbers into runs without a gap, of at most `most` each."""
    chunk: list[Job] = []
    for job in jobs:
        if chunk and (job.number != chunk[-1].number + 1 or len(chunk) == most):
            yield chunk
            chunk = []
        chunk.append(job)
    if chunk:
        yield chunk


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn a failure of the file system into one line about this path. Raises RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{error.filename or path}: cannot be used: {error.strerror}", "is it yours, and is there room?"
        ) from error


@contextlib.contextmanager
def open_run(batch: Batch, waiting: Callable[[str], None]) -> Iterator[Run]:
    """Make or take up a batch's run directory, and hold it. Raises RunError.

    `waiting` is told in one line why it takes a while, if it does.
    """
    layout = Layout(batch.output)
    with told(layout.root):
        layout.create()
    batch.plan.keys()  # here, because nothing would show meanwhile that a head lives
    old_requests = [path for path, _ in requests.pending(layout)]
    with RunLock(layout.lock, waiting) as lock:
        for path in old_requests:
            requests.remove(path)  # they were asked of a head that has died; newer ones are for us
        known = checkpoint.Restored(History(), 0, 0)

        def begin(file: BinaryIO) -> tuple[int, int]:
            nonlocal known
            known = checkpoint.load(layout, file) or known
            return known.offset, known.lines

        def replay(moment: float, event: Event) -> None:
            known.history.apply(moment, event)
            lock.beat(clock())  # a long journal must not look like a dead head

        with told(layout.journal):
            journal = Journal.open(layout.journal, replay, begin)
        try:
            run = Run(batch, lock, journal, known.history, known.offset)
            with told(layout.attempts):
                run.publish_leftovers()
            try:
                yield run
                run.sync()
            finally:
                run.keeper.close()
        finally:
            with contextlib.suppress(OSError):  # whoever was not told of it above has another reason to end
                journal.close()


def read_history(root: Path) -> History:
    """Give what a run directory's journal amounts to, without holding it; empty where there is none."""
    layout = Layout(root)
    history = History()

    def begin(file: BinaryIO) -> tuple[int, int]:
        nonlocal history
        found = checkpoint.load(layout, file)
        if found is None:
            return 0, 0
        history = found.history
        return found.offset, found.lines

    for moment, event in read_journal(layout.journal, begin):
        history.apply(moment, event, moment)  # so what the scheduler waits for ends at a Unix time
    return history
