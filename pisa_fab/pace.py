"""How fast a run goes: jobs ended a second, of late, and how long an attempt takes.

Pure numbers, one instance a run, so that an interruption and what went before it count for nothing. How many
jobs are left and what follows from the rate is `history`'s business.
"""

from __future__ import annotations

from collections import deque

WINDOW = 120.0  # seconds that count as "of late"
ROUNDS = 2  # but at least so many jobs a slot, because slots that were filled together end together


class Pace:
    """The pace of one run, which began at a Unix time."""

    def __init__(self, began: float) -> None:
        self._since = began  # the time from which on the ends are counted
        self._ends: deque[list[float]] = deque()  # [a second, how many jobs ended in it]
        self._ended = 0  # in all of them
        self._attempts = 0
        self._seconds = 0.0

    def job_ended(self, time: float) -> None:
        """Count a job that came to its final state."""
        second = time // 1.0
        if self._ends and self._ends[-1][0] >= second:
            self._ends[-1][1] += 1
        else:
            self._ends.append([second, 1])
        self._ended += 1

    def attempt_ended(self, seconds: float) -> None:
        """Count an attempt that took so long."""
        self._attempts += 1
        self._seconds += seconds

    def mean_seconds(self) -> float | None:
        """Give how long an attempt takes in the mean, None if none has ended."""
        return self._seconds / self._attempts if self._attempts else None

    def rate(self, time: float, slots: int) -> float | None:
        """Give the jobs that ended a second of late, None if none has.

        Of late are the last two minutes, or as long as two jobs a slot took, or all of the run.
        """
        while self._ends and self._ends[0][0] + 1.0 < time - WINDOW:
            second, count = self._ends[0]
            if self._ended - count < ROUNDS * slots:
                break
            self._ends.popleft()
            self._ended -= int(count)
            self._since = second + 1.0
        passed = time - self._since
        return self._ended / passed if self._ended and passed > 0 else None
