"""The scheduler: facts in, decisions out.

`ledger` takes in what has happened; here is decided what to do next, and that has been applied when `decide`
returns.

Only numbers and names live in both: no argv, no clock, no file, no thread. Time is an argument, in seconds of
a monotonic clock. Every event costs O(1), because a batch may have a million jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf

from pisa_fab.ahead import LONG
from pisa_fab.allowance import Horizon
from pisa_fab.doubling import Doubling
from pisa_fab.events import (
    Action,
    AttemptEnded,
    AttemptStarted,
    Event,
    HostCleared,
    HostProbed,
    HostQuarantined,
    JobGivenUp,
    JobsCancelled,
    RunOpened,
    SecondStarted,
)
from pisa_fab.states import WAITING
from pisa_fab.stragglers import Stragglers
from pisa_fab.supply import Supply

LOOK_AHEAD = 100  # jobs that are looked at when those before them would not end in time
LOOK_AROUND = 100  # and so many more all over the batch: in a sweep those that come next are all alike
EDGE = 10.0  # seconds before a host has fewer slots from which on it is sent nothing ahead

Decision = (
    AttemptStarted | SecondStarted | JobGivenUp | JobsCancelled | HostQuarantined | HostProbed | HostCleared
)


class Scheduler(Doubling):
    """Which job runs where next.

    Attributes:
        expected: how many seconds a job is expected to take, None for not known; near the end of a window.
        longest: how many seconds a job should take at the most, None for not known; for `speculate:`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._draining = False
        self._horizons: dict[str, Horizon] = {}  # of hosts that will have fewer slots
        self._ends: dict[int, float] = {}  # when jobs are expected to have ended that such hosts run
        self._stragglers = Stragglers()
        self._supply = Supply()
        self.expected: Callable[[int], float | None] = _unknown
        self.longest: Callable[[int], float | None] = _unknown

    def __getstate__(self) -> dict[str, object]:
        """Give what the events determine: that is in the ledger; what is here is of this head and clock."""
        state = {name: vars(self)[name] for name in vars(Doubling())}
        # When a doubt ends the clock says, and with it who is queued because of that.
        return state | {"_queues": self._queues.without(self.doubts.keys())}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take that up, with everything else as in the beginning."""
        self.__init__()  # type: ignore[misc]  # nobody makes a class of this one
        vars(self).update(state)

    def apply(self, event: Event, now: float = 0.0) -> list[Action]:
        """Take in a fact; give what is to be done then. `now` is in monotonic seconds."""
        actions = super().apply(event, now)
        if isinstance(event, AttemptEnded):
            if event.job not in self.running:
                self._ends.pop(event.job, None)
                self._stragglers.ended(event.job)
            self._supply.ended(event, now)
        elif isinstance(event, HostQuarantined | HostProbed | HostCleared):
            self._supply.judged(event.host)
        elif isinstance(event, RunOpened):
            self._supply.begin()
        return actions

    def wake_at(self) -> float | None:
        """Say when `decide` may have something new to say though nothing happens."""
        if self._draining:
            return None
        due = [self.doubts.wake_at(), self._quarantine.wake_at(), self._stragglers.wake_at]
        due.append(self._supply.recall_at)
        return min((moment for moment in due if moment is not None), default=None)

    def set_horizon(self, host: str, horizon: Horizon) -> None:
        """Let no job be started on a host that is not expected to end in time; times as for `decide`."""
        if horizon.falls:
            self._horizons[host] = horizon
        else:
            self._horizons.pop(host, None)

    def waiting_at(self, host: str) -> int:
        """Give how many jobs wait on a host for a slot there, as far as is known."""
        found = self._hosts.by_name.get(host)
        return found.waiting if found is not None else 0

    def lasts(self, host: str, ended: int) -> float:
        """Give the seconds for which a host has jobs to begin when so many more have ended there."""
        found = self._hosts.by_name.get(host)
        return self._supply.lasts(found, ended) if found is not None else 0.0

    @property
    def sent_ahead(self) -> int:
        """How many of the jobs that count as running wait on their hosts for a slot, as far as is known."""
        return sum(host.waiting for host in self._hosts.by_name.values())

    @property
    def waiting(self) -> int:
        """How many of the batch's jobs wait."""
        return self._states.waiting()

    @property
    def is_in_order(self) -> bool:
        """Whether the fresh jobs come in an order that was given."""
        return self._queues.is_in_order

    def fresh(self) -> list[int]:
        """Give the jobs that wait and have had no turn yet, ascending."""
        return self._queues.fresh(self._states.codes, WAITING)

    def put_in_order(self, jobs: Sequence[int]) -> None:
        """Let the fresh jobs, which are these, come in this order, until some are asked for again.

        That decides nothing about what has happened, so it need not be the same in a replay.
        """
        self._queues.put_in_order(jobs)

    def spread(self, most: int) -> list[int]:
        """Give up to so many of the fresh jobs, evenly from the order that was given."""
        return self._queues.spread(self._states.codes, WAITING, most)

    def drain(self) -> None:
        """Let `decide` decide nothing any more."""
        self._draining = True

    def decide(self, now: float) -> list[Decision]:
        """Fill the free slots and give up what is hopeless; already applied when it returns.

        Jobs lost with their hosts come first, fresh ones next (by their numbers, or in the order that was
        given), retries last. Each goes to the host that runs the fewest, but not where it just failed if
        another host is free. When no slot is free, hosts are sent more that will soon have one (see `ahead`).
        """
        if self._draining:
            return []
        decisions: list[Decision] = [*self._quarantine.decide(now)]
        for decision in decisions:
            self.apply(decision, now)
        ends: list[Decision] = []
        for job in self.doubts.over(now):
            self._queue_lost(job)
        ends += [JobGivenUp(job, self.lost_with(job)) for job in self._queues.hopeless]
        if self._queues.unwanted:
            ends.append(JobsCancelled(tuple(sorted(self._queues.unwanted))))
        for decision in ends:
            self.apply(decision, now)
        decisions += ends
        self._set_slots()
        self._supply.apportion(self._hosts, lambda host: not self.is_quarantined(host), now)
        decisions += self._start_last_chances(now)
        if self._horizons:
            decisions += self._start_in_time(now)
            decisions += self._start_all(now, free=False)
        else:
            decisions += self._start_all(now)
        if self.policy.speculate:
            for decision in decisions:
                if isinstance(decision, AttemptStarted):
                    self._stragglers.started(decision, now)
            decisions += self._start_seconds(now)
        return decisions

    def _start_all(self, now: float, *, free: bool = True) -> Iterator[AttemptStarted]:
        """Start what comes next, in free slots if `free`; and ahead of them, not where slots are gone soon.

        Nothing is sent ahead that was lost or failed: should a host be lost again, then with few of them, and
        none of the others waits behind one that fails. Nor are the last jobs, as many as there are slots: all
        of these go where a slot gets free first.
        """
        near = {host for host, horizon in self._horizons.items() if horizon.falls[0][0] < now + EDGE}
        while (found := self._queues.next(self._states.codes, WAITING)) is not None:
            job, avoid = found
            host = self._hosts.pick(avoid) if free else None
            if host is None and not avoid and self.waiting > self._hosts.total:
                host = self._supply.next_host(self._hosts, self.waiting, near)
            if host is None or (self._horizons and self._is_long(job)):
                break
            yield self._start(job, host, now, None)

    def _is_long(self, job: int) -> bool:
        seconds = self.expected(job)
        return seconds is not None and seconds >= LONG

    def recalls(self, now: float) -> list[tuple[str, int]]:
        """Say which hosts are to give back how many of the jobs that wait there."""
        if self._draining:
            return []
        has_more = self._queues.next(self._states.codes, WAITING) is not None
        return self._supply.take_back(self._hosts, now, is_free=self._hosts.has_free() and not has_more)

    def _start_in_time(self, now: float) -> Iterator[AttemptStarted]:
        """Start what is expected to end in time; a job that is not lets shorter ones behind it go first."""
        too_long = inf  # no host has time for a job that takes so long,
        longest = min(horizon.longest for horizon in self._horizons.values())  # unless it may be paused
        for job, avoid in self._candidates():
            seconds = self.expected(job)
            if seconds is not None and too_long <= seconds <= longest:
                continue
            closed = self._closed_to(seconds, now)
            host = self._hosts.pick(avoid, closed)
            if host is not None:
                yield self._start(job, host, now, seconds)
            elif self._hosts.pick(avoid) is None:
                return
            elif seconds is not None:
                too_long = min(too_long, seconds)

    def _candidates(self) -> Iterator[tuple[int, str]]:
        yield from self._queues.ahead(self._states.codes, WAITING, LOOK_AHEAD)
        for job in self._queues.scattered(self._states.codes, WAITING, LOOK_AROUND):
            yield job, ""

    def _closed_to(self, seconds: float | None, now: float) -> set[str]:
        """Name the hosts where a job of so many seconds would not end in time."""
        return {
            host for host, horizon in self._horizons.items() if not self._is_time(host, horizon, seconds, now)
        }

    def _is_time(self, host: str, horizon: Horizon, seconds: float | None, now: float) -> bool:
        found = self._hosts.by_name.get(host)
        if found is None or len(found.jobs) >= found.slots:
            return True  # it is not asked
        if seconds is None or seconds > horizon.longest:
            return True
        for moment, slots in horizon.falls:
            if now + seconds <= moment:
                return True
            others = sum(self._ends.get(job, inf) > moment for job in found.jobs)
            if others >= slots:
                return False
        return True

    def _start(self, job: int, host: str, now: float, seconds: float | None) -> AttemptStarted:
        self._ends.pop(job, None)
        if seconds is not None:
            self._ends[job] = now + seconds
        started = AttemptStarted(job, self._states.attempts[job] + 1, host)
        self._supply.started(started, now)
        self._on_started(started)
        return started

    def _start_last_chances(self, now: float) -> Iterator[AttemptStarted]:
        """Start the jobs that are given up if they are lost once more, one at most on each host.

        One of them may be what took the hosts down, and must not take the others with it.
        """
        waiting = self._queues.last_chances()
        if not waiting:
            return
        closed = {started.host for job, started in self.running.items() if self._has_last_chance(job)}
        for job, avoid in waiting:
            seconds = self.expected(job) if self._horizons else None
            late = self._closed_to(seconds, now)
            host = self._hosts.pick(avoid, closed | late)
            if host is not None:
                closed.add(host)
                yield self._start(job, host, now, seconds)

    def _start_seconds(self, now: float) -> Iterator[SecondStarted]:
        """Give jobs that take much longer than they should to a second host, when nothing else waits.

        Not what may take hosts down with it, nor on a host that is not trusted, or where the job has failed.
        """
        self._stragglers.rest()
        if self.waiting or self._hosts.pick("") is None:
            return
        untrusted = {host for host in self._hosts.by_name if self.is_quarantined(host)}
        running = [start for job, start in self.running.items() if self._may_be_doubled(job)]
        for job in self._stragglers.overdue(running, self.longest, self.policy.speculate, now):
            seconds = self.expected(job) if self._horizons else None
            bad = {self.running[job].host, *self._budgets.failed_on(job)}
            host = self._hosts.pick("", untrusted | bad | self._closed_to(seconds, now))
            if host is not None:
                second = SecondStarted(job, self._states.attempts[job] + 1, host)
                self._on_second(second)
                yield second

    def _may_be_doubled(self, job: int) -> bool:
        return job not in self._doubled and job not in self._unwanted and not self._has_last_chance(job)


def _unknown(job: int) -> None:
    """Expect nothing of a job."""
