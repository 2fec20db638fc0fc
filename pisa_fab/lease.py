"""Until when a worker may go on without its head.

Travels to the host with `worker`, so it needs nothing but the standard library of Python 3.8; and it is pure.
"""

from __future__ import annotations

PINGS_PER_LEASE = 8


class Lease:
    """Until when the worker may go on without the head. Pure: the times are given, of the worker's own clock.

    Attributes:
        seconds: how long an answer is good for, counted from when that was sent which it answers.
        ends_at: when it is over.
        next_ping: when to ask the head again.
    """

    def __init__(self, began: float, seconds: float) -> None:
        self.seconds = seconds
        self.ends_at = began + seconds
        self.next_ping = began

    def resize(self, now: float, seconds: float) -> None:
        """Go on with another length. It never ends later than it would have, until the head has answered."""
        self.ends_at = min(self.ends_at, now + seconds)
        self.seconds = seconds
        self.next_ping = now

    def answered(self, at: float) -> None:
        """Take note that the head has answered what was sent at that time."""
        self.ends_at = max(self.ends_at, at + self.seconds)

    def is_over(self, now: float) -> bool:
        """Say whether the jobs have to be ended."""
        return now >= self.ends_at

    def ping_due(self, now: float) -> bool:
        """Say whether to ask the head again."""
        return now >= self.next_ping

    def pinged(self, now: float) -> None:
        """Take note that the head is asked now."""
        self.next_ping = now + self.seconds / PINGS_PER_LEASE
