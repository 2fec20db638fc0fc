"""Which running jobs take much longer than they should, so that a second attempt is worth a free slot.

A part of `scheduler`, pure as that: times are arguments, in seconds of the head's monotonic clock. What a job
should take is known elsewhere; whether there is a slot, and on which host, is decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pisa_fab.events import AttemptStarted

LEAST = 2.0  # seconds that a job has run, at least: for less, a second attempt could hardly be first


class Stragglers:
    """When the running attempts were given to their hosts, and which of them are overdue.

    Attributes:
        wake_at: when the next one that runs now will be; None while nobody looks.
    """

    def __init__(self) -> None:
        self.wake_at: float | None = None
        self._given: dict[int, tuple[int, float]] = {}  # by job: the attempt, and when

    def started(self, start: AttemptStarted, now: float) -> None:
        """Note that an attempt was given to its host."""
        self._given[start.job] = start.attempt, now

    def ended(self, job: int) -> None:
        """Note that nothing of a job runs any more."""
        self._given.pop(job, None)

    def rest(self) -> None:
        """Look no more, until `overdue` is asked for again."""
        self.wake_at = None

    def overdue(
        self,
        running: Iterable[AttemptStarted],
        longest: Callable[[int], float | None],
        factor: float,
        now: float,
    ) -> list[int]:
        """Give the jobs that have run more than `factor` times as long as they should, longest overdue first.

        `longest` says how many seconds a job should take at the most, None where nobody knows. The time for
        which a job stands still counts: on another host it may go on. An attempt that this head has not
        started itself counts from the first look on.
        """
        found = []
        self.wake_at = None
        for start in running:
            attempt, given = self._given.get(start.job, (0, now))
            if attempt != start.attempt:
                given = now
                self.started(start, now)
            seconds = longest(start.job)
            if seconds is None:
                continue
            due = given + max(LEAST, factor * seconds)
            if due <= now:
                found.append((due, start.job))
            elif self.wake_at is None or due < self.wake_at:
                self.wake_at = due
        return [job for _, job in sorted(found)]
