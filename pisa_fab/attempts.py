"""What became of every attempt of one job, in the order of their starts.

A fold over the journal for somebody who asks about this job; the head and the others need only what `history`
keeps of every job. Pure: it is fed with events, and times are those of the journal.
"""

from __future__ import annotations

from dataclasses import dataclass

from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
    Event,
    HostLost,
    HostQuarantined,
    HostReady,
    JobsCancelled,
    JobsReopened,
    Outcome,
    RunOpened,
)


@dataclass(slots=True)
class Attempt:
    """One attempt.

    Attributes:
        number, host: which, and where.
        started: Unix time.
        ended: Unix time at which its end was heard of, None if none was.
        outcome: what the worker said of its end, None if it said nothing.
        note: what else is to be said: why nothing was heard, or that it does not count; or "".
    """

    number: int
    host: str
    started: float
    ended: float | None = None
    outcome: Outcome | None = None
    note: str = ""

    def describe(self) -> str:
        """Say what became of it: `succeeded`, `exit code 3`, `runs`, `its host was lost: ...`."""
        if self.outcome is None:
            return self.note or "runs"
        how = "succeeded" if self.outcome.succeeded else self.outcome.describe()
        return f"{how}; {self.note}" if self.note else how


class Attempts:
    """The attempts of one job.

    Attributes:
        job: its number.
        all: its attempts.
        asked: how many of them there were when the job was last asked for again; those are past.
        cancelled_at: Unix time at which it was cancelled, None if it is not.
        cancelled_by: who asked for that, or "".
    """

    def __init__(self, job: int) -> None:
        self.job = job
        self.all: list[Attempt] = []
        self.asked = 0
        self.cancelled_at: float | None = None
        self.cancelled_by = ""

    @property
    def last(self) -> Attempt | None:
        """The latest attempt since the job was last asked for, None if there is none."""
        return self.all[-1] if len(self.all) > self.asked else None

    def take(self, time: float, event: Event) -> None:
        """Take in an event, if it is about this job."""
        match event:
            case AttemptStarted() if event.job == self.job:
                self._close("nothing was heard of it any more")
                self.all.append(Attempt(event.attempt, event.host, time))
            case AttemptEnded() if event.job == self.job:
                self._on_ended(time, event)
            case HostLost():
                self._on_host_lost(time, event)
            case HostReady() if (last := self._open(event.host)) and (self.job, last.number) in event.holds:
                last.note = ""
            case HostQuarantined() if self.job in event.jobs:
                for attempt in self.all[self.asked :]:
                    if attempt.host == event.host and attempt.outcome and not attempt.outcome.succeeded:
                        attempt.note = "does not count, the host was to blame"
            case RunOpened():
                self._close("its head was gone")
            case _:
                self._on_wish(time, event)

    def _on_wish(self, time: float, event: Event) -> None:
        match event:
            case JobsReopened() if self.job in event.jobs:
                self.asked, self.cancelled_at, self.cancelled_by = len(self.all), None, ""
            case CancelAsked() if self.job in event.jobs:
                self.cancelled_by = event.by
            case JobsCancelled() if self.job in event.jobs:
                self.cancelled_at = time

    def _open(self, host: str = "") -> Attempt | None:
        """Give the last attempt if nothing was heard of its end; on this host, if one is named."""
        last = self.all[-1] if self.all else None
        return last if last and last.ended is None and host in ("", last.host) else None

    def _close(self, note: str) -> None:
        if (last := self._open()) is not None and not last.note:
            last.note = note

    def _on_ended(self, time: float, event: AttemptEnded) -> None:
        for attempt in self.all:
            if (attempt.number, attempt.host) == (event.attempt, event.host) and attempt.outcome is None:
                attempt.ended, attempt.outcome = time, event.outcome
                is_last = attempt is self.all[-1]
                attempt.note = "" if is_last else "too late, it had been given to another host"

    def _on_host_lost(self, time: float, event: HostLost) -> None:
        if (last := self._open(event.host)) is not None:
            last.note = f"{event.host} was lost: {event.reason}"
            if event.worker_ended:
                last.ended = time
