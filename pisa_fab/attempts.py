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
    SecondStarted,
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
        second: whether it was given to another host while the one before it ran.
        beaten: whether the other one of these two was first.
    """

    number: int
    host: str
    started: float
    ended: float | None = None
    outcome: Outcome | None = None
    note: str = ""
    second: bool = False
    beaten: bool = False

    def describe(self) -> str:
        """Say what became of it: `succeeded`, `exit code 3`, `runs`, `its host was lost: ...`."""
        if self.outcome is None:
            return self.note or (
                "runs, because the other takes longer than expected" if self.second else "runs"
            )
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
        last: the latest attempt since the job was last asked for, None if there is none; where two ran at a
            time, the one that counts, and the first while none does.
    """

    def __init__(self, job: int) -> None:
        self.job = job
        self.all: list[Attempt] = []
        self.asked = 0
        self.cancelled_at: float | None = None
        self.cancelled_by = ""
        self.last: Attempt | None = None
        self._two: list[Attempt] = []  # `last` and the second attempt beside it, while both run

    def take(self, time: float, event: Event) -> None:
        """Take in an event, if it is about this job."""
        match event:
            case AttemptStarted() if event.job == self.job:
                self._close("nothing was heard of it any more")
                self.last = Attempt(event.attempt, event.host, time)
                self.all.append(self.last)
            case SecondStarted() if event.job == self.job:
                self.all.append(Attempt(event.attempt, event.host, time, second=True))
                self._two = [] if self.last is None else [self.last, self.all[-1]]
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
                self.last = None
            case CancelAsked() if self.job in event.jobs:
                self.cancelled_by = event.by
            case JobsCancelled() if self.job in event.jobs:
                self.cancelled_at = time

    def _open(self, host: str = "") -> Attempt | None:
        """Give the last attempt if nothing was heard of its end; on this host, if one is named."""
        last = self.last
        return last if last and last.ended is None and host in ("", last.host) else None

    def _close(self, note: str) -> None:
        for attempt in self._two or filter(None, [self._open()]):
            attempt.note = attempt.note or note
        self._two = []

    def _leave_to_other(self, gone: Attempt) -> Attempt | None:
        """Let the other of two be the last, if `gone` was one of two that ran; give that other."""
        others = [attempt for attempt in self._two if attempt is not gone]
        if len(others) != 1:
            return None
        self.last, self._two = others[0], []
        return self.last

    def _on_ended(self, time: float, event: AttemptEnded) -> None:
        for attempt in self.all:
            if (attempt.number, attempt.host) != (event.attempt, event.host) or attempt.outcome is not None:
                continue
            attempt.ended, attempt.outcome = time, event.outcome
            if (other := self._leave_to_other(attempt)) is None:
                if not attempt.beaten:
                    is_last = attempt is self.last
                    attempt.note = "" if is_last else "too late, it had been given to another host"
            elif event.outcome.succeeded:
                self.last, attempt.note = attempt, ""
                other.beaten = True
                other.note = f"not needed, attempt {attempt.number} was first"
            else:
                attempt.note = f"does not count, attempt {other.number} went on"

    def _on_host_lost(self, time: float, event: HostLost) -> None:
        for attempt in self._two or filter(None, [self._open()]):
            if attempt.host == event.host:
                attempt.note = f"{event.host} was lost: {event.reason}"
                attempt.ended = time if event.worker_ended else None
                self._leave_to_other(attempt)
                return
