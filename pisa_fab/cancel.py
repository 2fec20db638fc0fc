"""`cancel`: a run is stopped, or some of its jobs are, from any PC that sees the run directory.

Where a head is at work it is asked to (see `requests`), where none is the journal is told. What cancelling
means for a job is `ledger`'s business.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence

from pisa_fab import requests
from pisa_fab.errors import RunError, UsageError
from pisa_fab.events import JobState
from pisa_fab.follow import HeadFollower, JournalFollower
from pisa_fab.history import History
from pisa_fab.invocation import as_typed
from pisa_fab.layout import Layout
from pisa_fab.messages import STOP_GRACE
from pisa_fab.model import Batch, job_name
from pisa_fab.processes import clock
from pisa_fab.progress import listing, plural
from pisa_fab.run import open_run
from pisa_fab.ssh_config import local_user

ANSWER_PATIENCE = 30.0  # seconds that a head may take to answer, and then to end
END_PATIENCE = STOP_GRACE + 5.0  # seconds for jobs to end that were running
PAUSE = 0.2


def cancel_run(layout: Layout) -> None:
    """Have the head end the run, if there is one, and wait a while for that. Raises RunError."""
    name = layout.root.name
    if not ask_head(layout, None):
        print(f"{name}: nothing is running")
        return
    print(f"{name}: is being stopped; running jobs are ended, everything is kept", flush=True)
    head = HeadFollower(layout)
    if wait_for(lambda: not head.look(), ANSWER_PATIENCE):
        print(f"it has ended; to go on: {as_typed('submit')}")
    else:
        print(f"it takes a while; see: {as_typed('status')}")


def cancel_jobs(batch: Batch, history: History, jobs: Sequence[int]) -> None:
    """Let some jobs be run no more, and say what became of them. Raises RunError or UsageError.

    `history` is that of the batch, of a moment ago.
    """
    new = [job_name(job) for job in jobs if job not in history.records]
    if new:  # with another jobs file other jobs may get their numbers
        raise UsageError(f"not submitted yet: {listing(new)}", "what is not to be run belongs in exclude:")
    layout = Layout(batch.output)
    patience = END_PATIENCE
    if not ask_head(layout, tuple(jobs)):
        patience = 0.0  # what still runs is ended by the next head
        with open_run(batch, waiting=print) as run:
            run.cancel(jobs, me(), clock())
    for line in what_became_of(layout, jobs, patience):
        print(line)


def me() -> str:
    """Name the person at this terminal: `student@pc07`."""
    return f"{local_user()}@{socket.gethostname()}"


def ask_head(layout: Layout, jobs: tuple[int, ...] | None) -> bool:
    """Have the head cancel jobs, or stop, and wait until it has noted that; False if no head is at work.

    Raises RunError.
    """
    head = HeadFollower(layout)
    if not head.look():
        return False
    by_hand = f"to stop it, on {head.holder.head}: kill -INT {head.holder.pid}" if head.holder else ""
    try:
        path = requests.put(layout, requests.Request(jobs, me()))
        try:
            # One that is about to end looks for no requests any more.
            happened = wait_for(lambda: requests.is_answered(path) or not head.look(), ANSWER_PATIENCE)
        finally:
            was_answered = not requests.withdraw(path)
    except OSError as error:
        problem = f"{layout.requests}: cannot be used: {error.strerror}"
        raise RunError(problem, by_hand) from error
    if happened or was_answered:
        return was_answered
    raise RunError(f"{layout.root.name}: the head has not answered within {ANSWER_PATIENCE:.0f} s", by_hand)


def wait_for(happened: Callable[[], bool], seconds: float) -> bool:
    """Wait until something has happened; False if it has not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def what_became_of(layout: Layout, jobs: Sequence[int], patience: float) -> Iterator[str]:
    """Say how many of the jobs are cancelled, and what the others are, when those that ran have ended.

    `patience` is for how many seconds that is waited for.
    """
    journal = JournalFollower(layout.journal, spared=layout)

    def are_at_rest() -> bool:
        journal.update()
        return not any(journal.history.scheduler.is_unwanted(job) for job in jobs)

    wait_for(are_at_rest, patience)
    scheduler = journal.history.scheduler
    for state in (JobState.CANCELLED, *(state for state in JobState if state is not JobState.CANCELLED)):
        found = [job for job in jobs if scheduler.state(job) is state]
        if found:
            names = listing([job_name(job) for job in found])
            later = any(scheduler.is_unwanted(job) for job in found)
            note = "; as soon as nothing of it runs, it is cancelled" if later else ""
            yield f"{plural(len(found), 'job')} {state.value}: {names}{note}"
