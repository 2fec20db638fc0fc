"""The attempts that may still run although nobody hears of them, and when that is surely over.

A part of `scheduler`, pure as that: times are arguments, in seconds of the head's monotonic clock. What
becomes of the job when a doubt ends, and whether that is a loss, is decided there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from pisa_fab.events import AttemptStarted


@dataclass(frozen=True, slots=True)
class Doubt:
    """An attempt in doubt.

    Attributes:
        started: the attempt.
        until: when it is surely over.
        patience: seconds from silence to that moment: lease and margin that the attempt was started under.
        blamed: whether its host was lost (a loss), or only the head.
        machine: where it was started, "" if that is not known; its host's name may lead elsewhere later.
    """

    started: AttemptStarted
    until: float
    patience: float
    blamed: bool
    machine: str


class Doubts:
    """The doubts by job. Those of jobs that somebody waits for are watched: `over` gives them in time."""

    def __init__(self) -> None:
        self._by_job: dict[int, Doubt] = {}
        self._ends: list[tuple[float, int]] = []  # a heap; what has gone stale stays until its time

    def __len__(self) -> int:
        return len(self._by_job)

    def __contains__(self, job: int) -> bool:
        return job in self._by_job

    def get(self, job: int) -> Doubt | None:
        """Give the doubt about a job, None if there is none."""
        return self._by_job.get(job)

    def keys(self) -> Collection[int]:
        """Give the jobs in doubt."""
        return self._by_job.keys()

    def values(self) -> Collection[Doubt]:
        """Give the doubts."""
        return self._by_job.values()

    def items(self) -> list[tuple[int, Doubt]]:
        """Give jobs and doubts, as they are now."""
        return list(self._by_job.items())

    def put(self, job: int, doubt: Doubt, *, watch: bool) -> None:
        """Begin to doubt."""
        self._by_job[job] = doubt
        if watch:
            heappush(self._ends, (doubt.until, job))

    def end(self, job: int) -> None:
        """Doubt a job no more."""
        self._by_job.pop(job, None)

    def renew(self, now: float, patience: float, wanted: bytearray) -> None:
        """Let every doubt begin anew, for `patience` at least; watch those of the jobs that are wanted."""
        self._ends.clear()
        for job, old in self.items():
            longest = max(old.patience, patience)
            self.put(job, replace(old, until=now + longest, patience=longest), watch=bool(wanted[job]))

    def over(self, now: float) -> Iterator[int]:
        """Give the watched jobs whose doubts are over, each once; they stay until `end`."""
        while self._ends and self._ends[0][0] <= now:
            until, job = heappop(self._ends)
            if self._is_current(until, job):
                yield job

    def wake_at(self) -> float | None:
        """Say when the next watched doubt is over."""
        while self._ends and not self._is_current(*self._ends[0]):
            heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def shift(self, seconds: float) -> None:
        """Let all times be later by so many seconds."""
        watched = sorted(job for until, job in self._ends if self._is_current(until, job))
        for job, doubt in self.items():
            self._by_job[job] = replace(doubt, until=doubt.until + seconds)
        self._ends = sorted((self._by_job[job].until, job) for job in watched)

    def _is_current(self, until: float, job: int) -> bool:
        doubt = self._by_job.get(job)
        return doubt is not None and doubt.until == until

    def snapshot(self) -> dict[int, Doubt]:
        """Give everything but the times, which only the clock determines."""
        return {job: replace(doubt, until=0.0) for job, doubt in self._by_job.items()}
