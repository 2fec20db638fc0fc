"""Where a run stands, from its journal alone: for people and, with `--json`, for programs.

Works from every PC that sees the run directory, while a head writes and after. How it goes on is `watch`'s
business; why a job is where it is, is that of `why`.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from pisa_fab import lock
from pisa_fab.attempts import Attempt, Attempts
from pisa_fab.endings import JobResult
from pisa_fab.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NO_HOST, EXIT_OK, UsageError
from pisa_fab.events import JobState, Outcome
from pisa_fab.follow import JournalFollower, is_at_work
from pisa_fab.forecast import Given
from pisa_fab.history import History
from pisa_fab.invocation import as_typed, short
from pisa_fab.journal_format import may_concern
from pisa_fab.layout import Layout
from pisa_fab.model import job_name
from pisa_fab.names import listed
from pisa_fab.progress import (
    CLOSED,
    counted,
    duration,
    failures,
    harmless,
    plural,
    problems,
    was_hopeless,
)
from pisa_fab.why import AGAIN, Use, unknown, uses, waiting, why

MOST_ATTEMPTS = 8  # of a job that its description shows, the latest


# -- the run ------------------------------------------------------------------------------------------------


def describe(history: History, layout: Layout, *, head: bool, only_failed: bool) -> Iterator[str]:
    """Give the lines of `status`; `head` is whether one was at work just before the journal was read."""
    if history.opened is None:
        yield f"{layout.root.name}: not submitted yet"
        return
    if not only_failed:
        now = time.time()
        yield f"{layout.root.name}: {counted(history)}"
        yield f"  {state_of_run(history, layout, head=head)}"
        if head and (text := pace(history, now)):
            yield f"  {text}"
        if text := waiting(history, head=head, now=now):
            yield f"  {text}"
        yield from hosts(history, now)
    found = list(failures(history, None) if only_failed else problems(history, 5))
    if found:
        if only_failed or not was_hopeless(history):
            yield "failed:"
        yield from found
    elif only_failed:
        yield "no job has failed"


def state_of_run(history: History, layout: Layout, *, head: bool) -> str:
    """Say whether a head is at work, and where, or how the run ended."""
    if head:
        return f"running on {lock.describe(lock.holder(layout.lock))}"
    return past(history)


def past(history: History) -> str:
    """Say how a run ended at which no head works any more."""
    if history.closed is None:
        return f"its head died after {lock.moment(history.last_at)}; submit again to go on"
    return f"{CLOSED.get(history.closed.reason, history.closed.reason)} at {lock.moment(history.closed_at)}"


def pace(history: History, now: float) -> str:
    """Say how fast it goes, and for how long still; "" while that is unknown."""
    rate, left = history.rate(now), history.eta(now)
    speed = "" if not rate else f"{rate:.1f} jobs a second" if rate >= 1 else f"{rate * 60:.1f} jobs a minute"
    return ", ".join(filter(None, [speed, f"about {duration(round(left))} left" if left else ""]))


def hosts(history: History, now: float) -> Iterator[str]:
    """Give a line for the hosts that work or worked, and one for each that does not."""
    found = uses(history, now)
    well = [use for use in found if use.state == "ready"]
    if well:
        slots = plural(sum(use.slots for use in well), "slot")
        # Those without any are among them: their cluster file says so, and `hosts` says until when.
        names = listed([use.host.name for use in well])
        yield f"  {plural(len(well), 'host')} with {slots}: {names}"
    for use in found:
        if use.state != "ready":
            yield f"  {use.host.name}: {use.state}: {use.reason}"


def ending(history: History, layout: Layout) -> Iterator[str]:
    """Say what `submit` says at its end, of a run that was closed or whose head died."""
    closed = history.closed
    yield f"{layout.root.name}: {counted(history)}"
    if closed is None or closed.reason != "finished":
        yield f"  {past(history)}"
    yield from problems(history)
    yield f"outputs: {short(layout.root)}"


def exit_code(history: History) -> int:
    """Give the exit code of a run that no head works on any more, as that of `submit` at its end.

    A head that died left a run that can be gone on with, as one that was interrupted.
    """
    reason = history.closed.reason if history.closed is not None else "interrupted"
    known = {"no host": EXIT_NO_HOST, "interrupted": EXIT_INTERRUPTED}
    return known.get(reason, EXIT_OK if history.all_succeeded else EXIT_FAILED)


def as_json(history: History, layout: Layout, *, head: bool) -> str:
    """Give the same as one JSON object."""
    now = time.time()
    scheduler = history.scheduler
    counts = scheduler.counts()
    data: dict[str, Any] = {
        "output": str(layout.root),
        "running": head,
        "head": history.opened.head if history.opened else None,
        "pid": history.opened.pid if history.opened else None,
        "closed": history.closed.reason if history.closed else None,
        "jobs": len(scheduler.jobs),
        "left_out": history.opened.left_out if history.opened else 0,
        "paused": [job_name(job) for job in sorted(history.paused)],
        "sent_ahead": scheduler.sent_ahead,
        "second": {job_name(job): second.host for job, second in sorted(scheduler.seconds.items())},
        "counts": {state.value: counts[state] for state in JobState},
        "rate": history.rate(now) if head else None,
        "eta_seconds": history.eta(now) if head else None,
        "waiting": waiting(history, head=head, now=now) or None,
        "hosts": [host_as_json(use) for use in uses(history, now)],
        "failed": [result_as_json(history.results[job]) for job in scheduler.jobs_in(JobState.FAILED)],
        "given_up": {
            job_name(job): list(scheduler.lost_with(job)) for job in scheduler.jobs_in(JobState.LOST)
        },
        "cancelled": [job_name(job) for job in scheduler.jobs_in(JobState.CANCELLED)],
    }
    return json.dumps(data, indent=1)


def host_as_json(use: Use) -> dict[str, Any]:
    """Give what is known of a host."""
    host = use.host
    return {
        "host": host.name,
        "state": use.state,
        "slots": host.slots,
        "running": use.running,
        "paused": host.paused,
        "done": host.done,
        "reason": use.reason,
    }


def result_as_json(result: JobResult) -> dict[str, Any]:
    """Give how a job failed."""
    where = {"job": job_name(result.job), "host": result.host, "attempt": result.attempt}
    return where | outcome_as_json(result.outcome)


def outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    """Give how an attempt ended."""
    return {
        "how": "succeeded" if outcome.succeeded else outcome.describe(),
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "stderr": outcome.tail,
    }


# -- one job ------------------------------------------------------------------------------------------------


def describe_job(layout: Layout, job: int, given: Given | None = None) -> Iterator[str]:
    """Give the lines of `status --job`: everything about one job. Raises UsageError if there is none.

    `given` is what the jobs file says of how long jobs take, which the order of those that wait follows.
    """
    head = is_at_work(layout)
    history, attempts = read_job(layout, job, given)
    record, now = history.records[job], time.time()
    yield f"{job_name(job)}  {state_of_job(history, job)}"
    for line in why(history, job, head=head, now=now):
        yield f"  {as_pasted(line)}"
    if attempts.cancelled_at is not None:
        by = f" by {attempts.cancelled_by}" if attempts.cancelled_by else ""
        yield f"  cancelled{by} at {lock.moment(attempts.cancelled_at)}"
    for name, value in record.arguments.items():
        if value is not None:
            yield f"  {name} {shlex.quote(value)}"
    yield f"  $ {shlex.join(record.argv)}"
    if attempts.all:
        yield "attempts:"
    hidden = len(attempts.all) - MOST_ATTEMPTS
    if hidden > 0:
        yield f"  ({hidden} earlier ones)"
    for attempt in attempts.all[-MOST_ATTEMPTS:]:
        yield from attempt_lines(attempt)
    yield from file_lines(layout, job, attempts)


def as_pasted(line: str) -> str:
    """Give a line of `why` with the command in it, if there is one, as the user would type it."""
    tip, found, options = line.partition(AGAIN)
    return f"{AGAIN.partition(':')[0]}: {as_typed('submit', *options.split())}" if found and not tip else line


def read_job(layout: Layout, job: int, given: Given | None) -> tuple[History, Attempts]:
    """Read the journal for the sake of one job. Raises UsageError if there is no such job."""
    attempts = Attempts(job)
    follower = JournalFollower(layout.journal, attempts.take, layout, partial(may_concern, job=job))
    follower.update()
    if job not in follower.history.records:
        raise UsageError(unknown(follower.history, job), f"see the assignment file, or: {as_typed('status')}")
    follower.history.forecast.given = given
    return follower.history, attempts


def state_of_job(history: History, job: int) -> str:
    """Give its state; of a job that the batch no longer has, that too."""
    view = history.scheduler.look(job)
    return view.state.value if view.wanted else f"{view.state.value}, not in the last submit"


def attempt_lines(attempt: Attempt) -> Iterator[str]:
    """Describe an attempt, and what it wrote to its standard error at last."""
    started = lock.moment(attempt.started)
    took = ""
    if attempt.outcome is not None:
        took = f", {duration(attempt.outcome.seconds)}"
    yield f"  {attempt.number}  {started} on {attempt.host}{took}: {attempt.describe()}"
    if attempt.outcome is not None:
        for line in attempt.outcome.tail.splitlines():
            yield f"       {harmless(line)}"


def file_lines(layout: Layout, job: int, attempts: Attempts) -> Iterator[str]:
    """Name the files that hold what it wrote, as far as they show here."""
    places = [layout.job_places(job)]
    places += [layout.attempt_places(job, attempt.number) for attempt in attempts.all[-MOST_ATTEMPTS:]]
    streams = [ways for files in places for ways in zip(*files, strict=True)]
    found = [next((path for path in ways if path.is_file()), None) for ways in streams]
    shown = [path for path in found if path is not None]
    if shown:
        yield "files:"
        yield from (f"  {short(path)}" for path in shown)


def job_as_json(layout: Layout, job: int, given: Given | None = None) -> str:
    """Give everything about one job as one JSON object. Raises UsageError if there is none."""
    head = is_at_work(layout)
    history, attempts = read_job(layout, job, given)
    record = history.records[job]
    view = history.scheduler.look(job)
    data = {
        "job": job_name(job),
        "key": record.key,
        "state": view.state.value,
        "wanted": view.wanted,
        "why": why(history, job, head=head, now=time.time()),
        "arguments": dict(record.arguments),
        "argv": list(record.argv),
        "attempts": [attempt_as_json(attempt) for attempt in attempts.all],
        "cancelled_at": attempts.cancelled_at,
        "cancelled_by": attempts.cancelled_by or None,
    }
    return json.dumps(data, indent=1)


def attempt_as_json(attempt: Attempt) -> dict[str, Any]:
    """Give what is known of an attempt; times are Unix times."""
    data: dict[str, Any] = {
        "attempt": attempt.number,
        "host": attempt.host,
        "started": attempt.started,
        "ended": attempt.ended,
        "seconds": attempt.outcome.seconds if attempt.outcome else None,
        "note": attempt.note or None,
    }
    return data | (outcome_as_json(attempt.outcome) if attempt.outcome else {})
