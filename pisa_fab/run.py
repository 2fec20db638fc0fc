"""The run directory, opened by the one head that works on it: lock, journal, what the journal amounts to.

Everything that writes under the run directory on the head's side goes through here; what the names are is
`layout`'s business, and what happens next is the head's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pisa_fab.assignments import write_assignments
from pisa_fab.errors import RunError
from pisa_fab.history import History
from pisa_fab.journal import Journal
from pisa_fab.journal import read as read_journal
from pisa_fab.layout import Layout
from pisa_fab.lock import RunLock
from pisa_fab.model import (
    Action,
    Batch,
    Event,
    JobRecord,
    JobsAdded,
    JobsReopened,
    JobState,
    Policy,
    RunOpened,
)
from pisa_fab.numbering import Numbering
from pisa_fab.scheduler import Decision
from pisa_fab.version import __version__

RECORDS_A_LINE = 1000  # jobs that one line of the journal holds


class Run:
    """A run directory that is held by this process.

    Attributes:
        layout: its paths.
        history: what the journal's events amount to; `record` keeps it up to date.
        numbering: which combination of the batch has which number.
        nonce: the text by which a host shows that it sees the directory.
    """

    def __init__(self, batch: Batch, journal: Journal, history: History) -> None:
        self.batch = batch
        self.layout = Layout(batch.output)
        self.journal = journal
        self.history = history
        self.numbering = Numbering.of(batch.plan, history.numbers(), history.next_number)
        self.nonce = secrets.token_hex(16)

    def record(self, event: Event, now: float) -> list[Action]:
        """Apply an event and put it into the journal; it is safe on disk after the next `sync`."""
        moment = time.time()
        actions = self.history.apply(moment, event, now)
        self.journal.append(moment, [event])
        return actions

    def decide(self, now: float) -> list[Decision]:
        """Let the scheduler decide, and put what it decided into the journal."""
        moment = time.time()
        decisions = self.history.decide(moment, now)
        self.journal.append(moment, decisions)
        return decisions

    def sync(self) -> None:
        """Bring the journal to the disk. Raises RunError."""
        try:
            self.journal.sync()
        except OSError as error:
            raise RunError(
                f"{self.layout.journal}: cannot be written: {error.strerror}",
                "make room, then submit again: it goes on where it stopped",
            ) from error

    def begin(self, policy: Policy, now: float, *, rerun: bool, retry_failed: bool) -> None:
        """Journal the batch, write the assignment file and the nonce. Raises RunError."""
        known = self.history.records
        added = [number for number in self.numbering.sorted if number not in known]
        for chunk in consecutive(added, RECORDS_A_LINE):
            self.record(JobsAdded(chunk[0], [self.job_record(number) for number in chunk]), now)
        jobs = self.numbering.sorted
        self.record(RunOpened(__version__, socket.gethostname(), os.getpid(), jobs, policy), now)
        again = self._asked_for_again(rerun=rerun, retry_failed=retry_failed)
        if again:
            self.record(JobsReopened(again), now)
        write_assignments(self.batch, self.numbering, self.history.records)
        with told(self.layout.nonce):
            self.layout.nonce.write_text(self.nonce, "ascii")
        self.sync()

    def job_record(self, number: int) -> JobRecord:
        """Give what the journal keeps of a job."""
        job = self.batch.plan.job(self.numbering.index(number), number)
        return JobRecord(job.key, job.argv, job.arguments)

    def _asked_for_again(self, *, rerun: bool, retry_failed: bool) -> list[int]:
        states = [JobState.FAILED, JobState.LOST] if rerun or retry_failed else []
        states += [JobState.SUCCEEDED] if rerun else []
        return sorted(job for state in states for job in self.history.scheduler.jobs_in(state))

    def publish(self, job: int, attempt: int) -> None:
        """Give an attempt's files the job's own names, unless its worker has done so already."""
        pairs = zip(self.layout.attempt_files(job, attempt), self.layout.job_files(job), strict=True)
        for source, target in pairs:
            with contextlib.suppress(FileNotFoundError):
                source.replace(target)

    def publish_leftovers(self) -> None:
        """Publish what counted under an earlier head but was not published when that ended."""
        ended = (JobState.SUCCEEDED, JobState.FAILED)
        for job, attempt in self.layout.leftovers():
            result = self.history.results.get(job)
            if result and result.attempt == attempt and self.history.scheduler.state(job) in ended:
                self.publish(job, attempt)


def consecutive(numbers: Iterable[int], most: int) -> Iterator[list[int]]:
    """Cut ascending numbers into runs without a gap, of at most `most` each."""
    chunk: list[int] = []
    for number in numbers:
        if chunk and (number != chunk[-1] + 1 or len(chunk) == most):
            yield chunk
            chunk = []
        chunk.append(number)
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
def open_run(batch: Batch) -> Iterator[Run]:
    """Make or take up a batch's run directory, and hold it. Raises RunError."""
    layout = Layout(batch.output)
    with told(layout.root):
        layout.create()
    with RunLock(layout.lock):
        history = History()
        with told(layout.journal):
            journal = Journal.open(layout.journal, history.apply)
        try:
            run = Run(batch, journal, history)
            with told(layout.attempts):
                run.publish_leftovers()
            yield run
        finally:
            journal.close()


def read_history(root: Path) -> History:
    """Give what a run directory's journal amounts to, without holding it; empty where there is none."""
    history = History()
    for moment, event in read_journal(Layout(root).journal):
        history.apply(moment, event)
    return history
