"""The head's half of the lease, and when to call a host again: one `Contact` a host.

Pure: times are arguments, in seconds of the head's monotonic clock; chance is an argument too. The other
half is `worker.Lease`. The two fit together like this (a test drives both through a network that loses,
delays, repeats and reorders what they say):

- The worker says a ping with the time of its own clock, and the head gives that time back. The worker's lease
  runs from when it SAID what was answered, so an answer that the network kept for a while extends nothing.
- The head knows when it HEARD the last ping that it has answered, which was later. So a lease and a margin
  after that moment no job of that worker runs any more, whatever the network still holds.

Calling again: soon and often while a lease runs that could be saved, then ever less often, each time spread
by chance, so that thirty links that broke together do not come back together. What only a person can mend is
tried now and then all the same, because a person may.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SILENCE = 0.5  # of a lease without a word, after which a link is taken for broken
START_TIMEOUT = 60.0  # seconds from the call until a worker has said that it is ready


class Trouble(StrEnum):
    """What kept a host from coming to work, by what helps against it."""

    BROKEN = "broken"  # it was at work: call at once
    BUSY = "busy"  # its SSH server refuses for the moment: call again soon
    AWAY = "away"  # it does not answer: call again, it may be switched on
    PERSON = "person"  # key, host key, home, venv, Python: somebody has to mend that


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to call: `first` seconds after the trouble, doubling up to `longest`."""

    first: float
    longest: float


PACES = {
    Trouble.BROKEN: Pace(0.2, 30.0),
    Trouble.BUSY: Pace(0.5, 15.0),
    Trouble.AWAY: Pace(4.0, 60.0),
    Trouble.PERSON: Pace(30.0, 300.0),
}
COMING = 0.3  # seconds in which a host comes to work that is there and not busy
SPREAD = 0.5  # a wait is up to so much longer than that, by chance
MOST_BUSY = 8  # refusals in a row after which a host that was never at work counts as failed


@dataclass(slots=True)
class Contact:
    """Where the head stands with one host.

    Attributes:
        lease: seconds.
        called_at: when the link was last told to connect, None while it has not been.
        up: whether the link has been told to connect and has not closed since.
        ready: whether a worker is at work on it.
        heard_at: when anything was last heard.
        answered_at: when the last ping was heard that got an answer, or a worker's first word: no worker's
            lease was begun or renewed after it.
        tries: calls in a row that did not bring the host to work.
        call_at: when to call again, None while the link is up, or never.
        trouble: what the last call ended with.
    """

    lease: float
    called_at: float = 0.0
    up: bool = False
    ready: bool = False
    heard_at: float = 0.0
    answered_at: float = 0.0
    tries: int = 0
    call_at: float | None = 0.0
    trouble: Trouble | None = None

    def called(self, now: float) -> None:
        """Note that the link was told to connect."""
        self.up, self.called_at, self.call_at = True, now, None

    def came(self, now: float) -> None:
        """Note that a worker is ready."""
        self.ready, self.tries, self.trouble = True, 0, None
        self.heard_at = self.answered_at = now

    def heard(self, now: float) -> None:
        """Note that the worker said something."""
        self.heard_at = now

    def answered(self, now: float) -> None:
        """Note that a ping was heard at this moment and is being answered."""
        self.answered_at = now

    def closed(self, now: float, trouble: Trouble, chance: float) -> None:
        """Note that the link is over. `chance` is in [0, 1)."""
        if self.ready:
            self.tries, trouble = 0, Trouble.BROKEN
        self.up, self.ready, self.trouble = False, False, trouble
        pace = PACES[trouble]
        longest = pace.longest
        if trouble is Trouble.AWAY and self.answered_at:
            longest = min(longest, max(pace.first, self.lease))  # it was here, and may be back any moment
        wait = min(pace.first * 2.0**self.tries, longest)
        if now < self.answered_at + self.lease and trouble is not Trouble.PERSON:
            wait = min(wait, self.lease / 8)  # there may be a worker to save
        self.call_at = now + wait * (1 + SPREAD * chance)
        self.tries += 1

    def hurry(self, now: float) -> None:
        """Call now, if it is to be called at all."""
        if self.call_at is not None:
            self.call_at = now

    def dismiss(self) -> None:
        """Never call again."""
        self.call_at = None

    def is_due(self, now: float) -> bool:
        """Say whether to call now."""
        return self.call_at is not None and now >= self.call_at

    def is_coming(self, now: float) -> bool:
        """Say whether it was called just now and may come to work any moment."""
        return self.up and not self.ready and now < self.called_at + COMING

    def problem(self, now: float) -> str:
        """Say why the link is to be given up, "" if it is not."""
        if self.ready and now > self.silent_at:
            return f"nothing heard for {self.lease * SILENCE:.3g} s"
        if self.up and not self.ready and now > self.called_at + START_TIMEOUT:
            return f"no answer within {START_TIMEOUT:.0f} s; its home may hang"
        return ""

    @property
    def silent_at(self) -> float:
        """When a ready worker that says nothing more is taken for unreachable."""
        return self.heard_at + self.lease * SILENCE

    def wake_at(self) -> float | None:
        """Say when `is_due` or `problem` may have something new to say."""
        if self.ready:
            return self.silent_at
        return self.called_at + START_TIMEOUT if self.up else self.call_at

    @property
    def has_failed(self) -> bool:
        """Whether a call has ended in a way that calling again at once will not change."""
        return not self.up and self.tries >= (MOST_BUSY if self.trouble is Trouble.BUSY else 1)
