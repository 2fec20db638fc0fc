"""How many jobs a host is sent ahead of its free slots, so that no slot stands idle while an order travels.

A part of `scheduler`, and pure like it: names, numbers and given times, in seconds. Which jobs are sent, and
which are taken back, is decided there; what a host does with them is `worker`'s business.

The policy. Between a result and the order that follows it lies an overhead: the network twice, the journal's
way to the disk, a turn of the head. Measured, as what is left of the time from order to result when the run
time and the wait on the host are taken off. A host is sent what its slots do in three times that, as run
times were of late: nothing of note while jobs take seconds, and many while they take milliseconds. The way
takes one of the three; in the others worker and head may collect what they have to say (see `news`). So the
wait is short for every job, and what is sent ahead needs to be no forecast.

Nothing is sent ahead when one of the latest jobs took long, for the next may, and should not wait behind one
that does. A host is trusted with more by each success and with half by each failure: one that fails jobs fast
is not to be given many.
"""

from __future__ import annotations

from math import ceil

LONG = 0.5  # seconds; while jobs take that long, none is sent ahead, and no host is sent more work than this
COVER = 3.0  # how many overheads the work covers that is sent ahead
MOST = 1000  # jobs a host
FRESH = 0.1  # what the latest job counts for in the means
FORGETTING = 0.97  # by which the longest job of late shrinks with each that ends
LONGEST_OVERHEAD = 1.0  # seconds; what takes longer was not the way but a link that was down
SHORTEST = 0.0002  # seconds; what is shorter is taken for it
WORTH = 0.002  # of a run time; slots that stand idle for less are not worth sending anything ahead
GAIN = 2  # jobs that a host is trusted with for each success


class Ahead:
    """What was measured of one run."""

    def __init__(self) -> None:
        self._seconds = 0.0  # that a job takes, in the mean of late
        self._longest = LONG  # of late; at first nothing is known
        self._overheads: dict[str, float] = {}
        self._trust: dict[str, int] = {}

    def succeeded(self, host: str, seconds: float, overhead: float) -> None:
        """Take in a job that ran so long; from its order to its result it took so much more."""
        known = self._seconds or seconds
        self._seconds = known + FRESH * (seconds - known)
        self._longest = max(seconds, self._longest * FORGETTING)
        overhead = min(max(overhead, 0.0), LONGEST_OVERHEAD)
        known = self._overheads.get(host, overhead)
        self._overheads[host] = known + FRESH * (overhead - known)
        self._trust[host] = min(MOST, self._trust.get(host, 0) + GAIN)

    def failed(self, host: str, seconds: float) -> None:
        """Take in a job that failed there after so long."""
        self._longest = max(seconds, self._longest * FORGETTING)
        self._trust[host] = self._trust.get(host, 0) // 2

    def overhead(self, host: str) -> float:
        """Give the seconds between a result of this host and the order that follows it."""
        return self._overheads.get(host, 0.0)

    def work(self, jobs: int, slots: int) -> float:
        """Give the seconds that a host needs for so many jobs like those of late."""
        return jobs * self._seconds / max(1, slots)

    def most(self, host: str, slots: int) -> int:
        """Give how many jobs a host may be sent ahead that has so many slots."""
        if self._longest >= LONG:
            return 0
        seconds = max(self._seconds, SHORTEST)
        cover = min(COVER * self.overhead(host), LONG)
        if cover < WORTH * seconds:
            return 0
        return min(ceil(slots * cover / seconds), self._trust.get(host, 0), MOST)
