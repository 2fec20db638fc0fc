"""What hosts are sent ahead of their slots: measured from orders and results, and taken back in the end.

A part of `scheduler`, pure as that: times are arguments, in seconds of the head's monotonic clock. How much
is good for a host is the policy of `ahead`; which jobs are sent, and whether any is left to send, is decided
in `scheduler`. All of it belongs to this head: nothing here is in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import inf

from pisa_fab.ahead import LONG, Ahead
from pisa_fab.events import AttemptEnded, AttemptStarted, Ending
from pisa_fab.slots import ReadyHost, Slots

STUCK = 0.1  # seconds without an end on a host after which what waits there is wanted back, if a slot is free
RECALL_AGAIN = 0.25  # seconds that a host has to give back what is wanted


class Supply:
    """When attempts were given to their hosts and have ended there, and what follows for what waits there.

    Attributes:
        recall_at: when to look again whether something is wanted back, None for not.
    """

    def __init__(self) -> None:
        self.recall_at: float | None = None
        self._ahead = Ahead()
        self._given: dict[tuple[int, int], float] = {}  # when this head has given each attempt to its host
        self._changed: dict[str, None] = {}  # the hosts of which something was learned
        self._moved_at: dict[str, float] = {}  # when something last ended on a host
        self._recalled_at: dict[str, float] = {}

    def begin(self) -> None:
        """Begin anew, with another run."""
        self._ahead = Ahead()
        self._given.clear()

    def started(self, start: AttemptStarted, now: float) -> None:
        """Take in that an attempt was given to its host."""
        self._given[start.job, start.attempt] = now

    def ended(self, event: AttemptEnded, now: float) -> None:
        """Take in the end of an attempt.

        One that another head has started says nothing, and no more does one that was taken back or stopped:
        the host may be as slow as before.
        """
        given, outcome = self._given.pop((event.job, event.attempt), None), event.outcome
        if given is None or outcome.ending is Ending.STOPPED:
            return
        self._moved_at[event.host] = now
        self._changed[event.host] = None
        if outcome.succeeded:
            overhead = now - given - outcome.waited - outcome.seconds
            self._ahead.succeeded(event.host, outcome.seconds, overhead)
        else:
            self._ahead.failed(event.host, outcome.seconds)

    def judged(self, host: str) -> None:
        """Take in that a host may be trusted more or less than before."""
        self._changed[host] = None

    def apportion(self, hosts: Slots, is_trusted: Callable[[str], bool], now: float) -> None:
        """Let hosts be given as much as is good for them, by what was learned since the last time.

        That is nothing where nothing has ended for as long as a short job takes at the most.
        """
        for name in self._changed:
            host = hosts.by_name.get(name)
            if host is not None:
                most = self._ahead.most(name, host.slots) if is_trusted(name) else 0
                if most != host.ahead:
                    hosts.set_ahead(name, most)
        self._changed.clear()
        for host in hosts.by_name.values():
            if host.ahead and now > self._stuck_at(host.name, LONG):
                hosts.set_ahead(host.name, 0)

    def _stuck_at(self, host: str, patience: float) -> float:
        return self._moved_at.get(host, -inf) + patience + self._ahead.overhead(host)

    def next_host(self, hosts: Slots, waiting: int, closed: Collection[str]) -> str | None:
        """Give the host that is sent the next job ahead, while so many wait here; never a `closed` one.

        Its slots hold no more of them than their part of what is left here, which can go where a slot gets
        free first: so few of the last jobs wait behind one that turns out long. (Guided self-scheduling,
        C. D. Polychronopoulos and D. J. Kuck, IEEE Transactions on Computers, 1987.)
        """
        name = hosts.pick_ahead(closed)
        if name is None:
            return None
        host = hosts.by_name[name]
        ahead = len(host.jobs) - host.slots
        return name if ahead * hosts.total <= host.slots * waiting else None

    def lasts(self, host: ReadyHost, ended: int) -> float:
        """Give the seconds for which a host has jobs to begin when so many more have ended there."""
        return self._ahead.work(max(0, host.waiting - ended), host.slots)

    def take_back(self, hosts: Slots, now: float, *, is_free: bool) -> list[tuple[str, int]]:
        """Say which hosts are to give back how many jobs: what waits there may be the longest of all.

        From a host on which nothing has ended for as long as a short job takes at the most, all of them. If
        others have slots that nothing else waits for (`is_free`), from all that will not begin them soon:
        from one on which nothing ends all, else the half. They are sent nothing ahead until something ends
        there.
        """
        self.recall_at = None
        found: list[tuple[str, int]] = []
        for host in [host for host in hosts.by_name.values() if host.waiting]:
            stuck_at = self._stuck_at(host.name, STUCK if is_free else LONG)
            overhead = self._ahead.overhead(host.name)
            again_at = self._recalled_at.get(host.name, -inf) + RECALL_AGAIN + overhead
            most = host.waiting if now > stuck_at else self._half(host) if is_free else 0
            if most and now >= again_at:
                self._recalled_at[host.name] = now
                hosts.set_ahead(host.name, 0)
                found.append((host.name, most))
            look_at = now + STUCK if is_free else max(stuck_at, again_at, now + STUCK)
            self.recall_at = min(look_at, self.recall_at or inf)
        return found

    def _half(self, host: ReadyHost) -> int:
        """Give the half of what waits on a host, unless it is begun before anything could come back."""
        is_much = self._ahead.work(host.waiting, host.slots) > 2 * self._ahead.overhead(host.name)
        return (host.waiting + 1) // 2 if is_much else 0
