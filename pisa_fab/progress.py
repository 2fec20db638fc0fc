"""What a person sees while a batch runs: a bar on a terminal, a line now and then elsewhere, `--log` for all.

And the words for it that `status` shares. Nothing is known here that is not in the history.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from pisa_fab.canary import CommonFailure, Signature, signature
from pisa_fab.endings import JobResult
from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
    Ending,
    Event,
    HostCleared,
    HostLost,
    HostProbed,
    HostQuarantined,
    HostReady,
    HostReleased,
    HostUnusable,
    JobGivenUp,
    JobRecord,
    JobsPaused,
    JobState,
    SecondStarted,
    SlotsChanged,
)
from pisa_fab.history import History
from pisa_fab.invocation import as_typed
from pisa_fab.model import job_name

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY = 15.0  # seconds between two plain lines
BAR_EVERY = 0.2  # seconds between two pictures of the bar
TAIL_LINES = 3  # of a failed job's standard error
ARGUMENTS_WIDTH = 70  # characters
FAILURES = 10  # that a summary shows
NAMES = 8  # of jobs or hosts that a line has room for
HOPELESS = "hopeless"  # how a run is closed in which the first jobs all failed in the same way
# How a run was closed, in the words of a person; anything else is shown as it is.
CLOSED = {
    HOPELESS: "stopped early",
    "no host": "ended because no usable host was left",
}


class PlainView:
    """Lines for a file or a pipe: what goes wrong at once, how far it is now and then."""

    def __init__(self, *, log: bool = False) -> None:
        self.log = log
        self.shown_at = float("-inf")
        self.out: set[str] = set()  # the hosts of which it was said that they get no jobs
        self.refusing: set[str] = set()  # and that they can start nothing

    def __enter__(self) -> PlainView:
        """Begin to show."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Stop showing."""

    def say(self, text: str) -> None:
        """Show a line at once; when nobody can read any more, the run goes on all the same."""
        with self.as_long_as_anybody_reads():
            sys.stdout.write(harmless_lines(text) + "\n")
            sys.stdout.flush()

    @contextmanager
    def as_long_as_anybody_reads(self) -> Iterator[None]:
        """Write to standard output; once its terminal or reader is gone, all that is written is dropped."""
        try:
            yield
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            if not can_write(sys.stderr.fileno()):
                os.dup2(null, sys.stderr.fileno())
            os.close(null)

    def happened(self, event: Event) -> None:
        """Show what somebody has to know, and with `--log` everything that is done."""
        if isinstance(event, AttemptStarted) and not self.log:
            return
        known = not self.is_news(event)
        line = ("" if known else notable(event)) or (logged(event) if self.log else "")
        if line:
            self.say(f"{time.strftime('%H:%M:%S')} {line}" if self.log else line)

    def is_news(self, event: Event) -> bool:
        """Take note of an event, and say whether it tells what was not said of its host already."""
        match event:
            case HostQuarantined():  # once more when it fails what it still had
                known = self.out
            case AttemptEnded() if event.outcome.ending is Ending.REFUSED:
                known = self.refusing
            case HostProbed():
                self.out.discard(event.host)
                return True
            case AttemptEnded():
                self.refusing.discard(event.host)
                return True
            case _:
                return True
        if event.host in known:
            return False
        known.add(event.host)
        return True

    def refresh(self, history: History, now: float) -> None:
        """Show how far it is, every now and then."""
        if now >= self.shown_at + PLAIN_EVERY:
            first = self.shown_at == float("-inf")
            self.shown_at = now
            if not first:
                self.say(standing(history))


class NoView(PlainView):
    """Shows nothing, for a program that runs a batch by itself."""

    def say(self, text: str) -> None:
        """Say nothing."""


class BarView(PlainView):
    """A bar that stays in the last line of a terminal; lines scroll above it."""

    def __init__(self, *, log: bool = False) -> None:
        super().__init__(log=log)
        self.bar: Progress | None = None
        self.id: TaskID | None = None

    def __enter__(self) -> BarView:
        """Begin to show."""
        from rich.progress import BarColumn, Progress, TextColumn

        self.bar = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.fields[standing]}", markup=False),
            auto_refresh=False,
            expand=True,
        )
        self.bar.start()
        self.id = self.bar.add_task("", total=None, standing="connecting")
        return self

    def __exit__(self, *problem: object) -> None:
        """Leave the last picture standing and give the terminal back."""
        if self.bar is not None:
            with self.as_long_as_anybody_reads():
                self.bar.refresh()
                self.bar.stop()

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        if self.bar is None:
            super().say(text)
        else:
            with self.as_long_as_anybody_reads():
                self.bar.console.print(harmless_lines(text), markup=False, highlight=False, soft_wrap=True)

    def refresh(self, history: History, now: float) -> None:
        """Draw the bar anew, unless it was just drawn."""
        if self.bar is None or self.id is None:
            return
        scheduler = history.scheduler
        if now >= self.shown_at + BAR_EVERY or scheduler.finished or history.closed:
            self.shown_at = now
            total = len(scheduler.jobs)
            done = total - scheduler.unfinished
            with self.as_long_as_anybody_reads():
                self.bar.update(self.id, total=total, completed=done, standing=brief(history))
                self.bar.refresh()


def view(*, log: bool = False) -> PlainView:
    """Give the view that suits where standard output goes."""
    return BarView(log=log) if sys.stdout.isatty() else PlainView(log=log)


def can_write(descriptor: int) -> bool:
    """Say whether the terminal that is written to, if it is one, is still there."""
    try:
        os.write(descriptor, b"")
    except OSError:
        return False
    return True


# -- words --------------------------------------------------------------------------------------------------


def plural(count: int, noun: str) -> str:
    """Count things: `1 job`, `2 jobs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """Give a time for people: `0.4 s`, `42 s`, `5 min`, `2 h 05 min`, `3 d 4 h`."""
    whole = round(seconds)
    if seconds < 9.95 and seconds != whole:
        return f"{seconds:.1f} s"
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def brief(history: History) -> str:
    """Give the numbers beside the bar, short enough for 80 columns."""
    scheduler = history.scheduler
    counts = scheduler.counts()
    total = len(scheduler.jobs)
    parts = [f"{total - scheduler.unfinished}/{total}"]
    if history.failed:
        parts.append(f"{history.failed} failed")
    if counts[JobState.RUNNING]:
        parts.append(f"{history.begun} running{paused(history)}")
    parts.append(plural(len(scheduler.ready_hosts), "host") + closed(history))
    rate, left = history.rate(time.time()), history.eta(time.time())
    if rate:
        parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min")
    if left is not None and scheduler.unfinished:
        parts.append(f"{duration(round(left))} left")
    return ", ".join(parts)


def closed(history: History) -> str:
    """Say that no host may run anything now, "" if one may; `hosts` says why of each."""
    ready = [view for view in history.hosts.values() if view.state == "ready"]
    if not ready or any(view.slots for view in ready):
        return ""
    return " without slots now"


def standing(history: History) -> str:
    """Give the same for a plain line."""
    done, _, rest = brief(history).partition(", ")
    return f"{done} done, {rest}"


def notable(event: Event) -> str:
    """Say what somebody has to know at once; "" of everything else."""
    match event:
        case HostUnusable():
            return f"{event.host}: cannot be used: {event.reason}"
        case HostLost(worker_ended=True):
            return f"{event.host}: lost: {event.reason}; what it was running is run again"
        case HostLost():
            return f"{event.host}: lost: {event.reason}; it is called again"
        case HostReady(resumed=True):
            return f"{event.host}: back, with {plural(len(event.holds), 'job')} that it still has"
        case HostReleased():
            return f"{event.host}: {event.reason}" if event.reason else ""
        case HostQuarantined():
            again = f"; {plural(len(event.jobs), 'job')} run again elsewhere" if event.jobs else ""
            return f"{event.host}: gets no jobs for a while: {event.reason}{again}"
        case HostCleared():
            return f"{event.host}: did well again and gets all its slots"
        case AttemptEnded() if event.outcome.ending is Ending.REFUSED:
            return f"{event.host}: can start nothing at the moment: {event.outcome.tail}; it is tried again"
        case CancelAsked():
            return f"{event.by} cancels {listing([job_name(job) for job in event.jobs])}"
        case JobGivenUp():
            return f"{job_name(event.job)}: given up: lost with {', '.join(event.hosts)}"
    return ""


def logged(event: Event) -> str:
    """Say what was done, for `--log`."""
    if isinstance(event, HostReady):
        return f"{event.host}: ready, {plural(event.slots, 'slot')}, Python {event.python}"
    if isinstance(event, SlotsChanged):
        return f"{event.host}: {plural(event.slots, 'slot')}{f' ({event.reason})' if event.reason else ''}"
    if isinstance(event, JobsPaused):
        still = listing([job_name(job) for job in event.jobs])
        return f"{event.host}: {f'{still} stand still' if still else 'its jobs go on'}"
    if isinstance(event, HostProbed):
        return f"{event.host}: gets one job, to see whether it does well again"
    if isinstance(event, AttemptStarted):
        return f"{job_name(event.job)}.{event.attempt} started on {event.host}"
    if isinstance(event, SecondStarted):
        what = f"{job_name(event.job)}.{event.attempt}: second attempt on {event.host}"
        return f"{what}, because it takes longer than expected"
    if isinstance(event, AttemptEnded):
        outcome = event.outcome
        how = "succeeded" if outcome.succeeded else outcome.describe()
        return f"{job_name(event.job)}.{event.attempt} on {event.host}: {how}, {outcome.seconds:.1f} s"
    return ""


def arguments(record: JobRecord) -> str:
    """Give a job's arguments in one line that is not too long: `-n 3, --mode fast`."""
    text = ", ".join(
        f"{name} {shlex.quote(value)}" for name, value in record.arguments.items() if value is not None
    )
    return text if len(text) <= ARGUMENTS_WIDTH else text[: ARGUMENTS_WIDTH - 1] + "…"


def harmless(line: str) -> str:
    """Give a line that a program or a host has written without what would steer a terminal."""
    return "".join(
        letter if letter.isprintable() or letter == "\t" else "\N{REPLACEMENT CHARACTER}" for letter in line
    )


def harmless_lines(text: str) -> str:
    """Give several lines like that."""
    return "\n".join(map(harmless, text.split("\n")))


def paused(history: History) -> str:
    """Say how many of the running jobs stand still, "" if none does."""
    return f" ({len(history.paused)} paused)" if history.paused else ""


def twice(history: History) -> str:
    """Say how many of the running jobs run a second time, because they take too long; "" if none does."""
    count = len(history.scheduler.seconds)
    return f" ({count} with a second attempt)" if count else ""


def running(history: History) -> str:
    """Say how many jobs run, how many of them stand still or run twice, and how many wait on their hosts."""
    ahead = history.scheduler.sent_ahead
    waiting = f", {ahead} sent ahead" if ahead else ""
    return f"{history.begun} running{paused(history)}{twice(history)}{waiting}"


def counted(history: History) -> str:
    """Count the jobs by state: `400 jobs: 397 succeeded, 3 failed`."""
    counts = history.scheduler.counts()
    parts = [
        running(history) if state is JobState.RUNNING else f"{counts[state]} {state.value}"
        for state in JobState
        if counts[state]
    ]
    left_out = history.opened.left_out if history.opened else 0
    others = f" ({left_out} others were left out)" if left_out else ""
    return f"{plural(len(history.scheduler.jobs), 'job')}{others}: {', '.join(parts) or 'none'}"


def failures(history: History, most: int | None = FAILURES) -> Iterator[str]:
    """Give a few lines for each job that failed: how, where, and the end of its standard error."""
    for failure in islice(history.failures(), most):
        if isinstance(failure, JobGivenUp):
            yield f"  {job_name(failure.job)}  given up: lost with {', '.join(failure.hosts)}"
            continue
        how = failure.outcome.describe()
        yield f"  {job_name(failure.job)}  {how} on {failure.host}, attempt {failure.attempt}"
        if given := arguments(history.records[failure.job]):
            yield f"        {given}"
        for line in last_words(failure.outcome.tail):
            yield f"        {harmless(line)}"
    hidden = history.failed - (most or sys.maxsize)
    if hidden > 0:
        yield f"  and {hidden} more; see all with: {as_typed('status', '--failed')}"


def last_words(tail: str) -> list[str]:
    """Give the last few lines of a standard error, without those in which Python only marks a place."""
    lines = [line for line in tail.splitlines() if line.strip(" ~^")]
    return lines[-TAIL_LINES:]


def alike(history: History) -> CommonFailure | None:
    """Give what the first jobs of this run have in common, or else the failures of the commonest kind."""
    if (found := history.canary.verdict(0)) is not None:  # those that were forgiven are among them
        return found
    kinds: dict[Signature, list[JobResult]] = defaultdict(list)
    for job in history.results.others():
        result = history.results[job]
        if (
            result.started >= history.opened_at
            and not result.outcome.succeeded
            and is_among(job, history.jobs)
        ):
            kinds[signature(result.outcome)].append(result)
    results = max(kinds.values(), key=len, default=[])
    if not results:
        return None
    jobs = tuple(result.job for result in results)
    return CommonFailure(jobs, tuple(dict.fromkeys(r.host for r in results)), results[0].outcome)


def is_among(job: int, jobs: Sequence[int]) -> bool:
    """Say whether a job is one of these, which ascend."""
    place = bisect_left(jobs, job)
    return place < len(jobs) and jobs[place] == job


def hopeless(history: History) -> Iterator[str]:
    """Say what the first jobs, which all failed in the same way, have in common; what they wrote, once."""
    found = alike(history)
    if found is None:
        return
    jobs = sorted(found.jobs)
    # One that was forgiven has no result; the outcome is of the job that failed first.
    shown = next((job for job in jobs if job in history.results), found.jobs[0])
    outcome = history.results[shown].outcome if shown in history.results else found.outcome
    yield f"stopped early: {plural(len(jobs), 'job')} failed in the same way, so no more were started"
    yield f"  {listing([job_name(job) for job in jobs])}: {outcome.describe()}"
    yield f"  on {listing(sorted(found.hosts))}"
    if outcome.tail:
        yield f"  the last that {job_name(shown)} wrote to its standard error:"
        for line in outcome.tail.splitlines():
            yield f"    {harmless(line)}"
    others = history.failed - sum(history.scheduler.state(job) is JobState.FAILED for job in found.jobs)
    if others:
        yield f"  {plural(others, 'other job')} failed, too; see all with: {as_typed('status', '--failed')}"
    yield f"mend the cause, then go on with all jobs: {as_typed('submit', '--retry-failed')}"
    yield "to have failing jobs stop nothing, put into the jobs file: stop_after: 0"


def listing(names: Sequence[str]) -> str:
    """Give the first few names, and how many more there are."""
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def problems(history: History, most: int = FAILURES) -> Iterator[str]:
    """Say in a few lines what failed in the last run: all that is alike once, or each job for itself."""
    lines = list(hopeless(history)) if was_hopeless(history) else []
    yield from lines or failures(history, most)


def was_hopeless(history: History) -> bool:
    """Say whether the last run was stopped because its first jobs all failed in the same way."""
    return history.closed is not None and history.closed.reason == HOPELESS
