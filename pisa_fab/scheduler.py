"""The scheduler: facts in, decisions out.

`ledger` takes in what has happened; here is decided what to do next, and that has been applied when `decide`
returns.

Only numbers and names live in both: no argv, no clock, no file, no thread. Time is an argument, in seconds of
a monotonic clock. Every event costs O(1), because a batch may have a million jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from pisa_fab.allowance import Horizon
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
)
from pisa_fab.ledger import Ledger
from pisa_fab.states import WAITING

LOOK_AHEAD = 100  # jobs that are looked at when those before them would not end in time
LOOK_AROUND = 100  # and so many more all over the batch: in a sweep those that come next are all alike

Decision = AttemptStarted | JobGivenUp | JobsCancelled | HostQuarantined | HostProbed | HostCleared


class Scheduler(Ledger):
    """Which job runs where next."""

    def __init__(self) -> None:
        super().__init__()
        self._draining = False
        self._horizons: dict[str, Horizon] = {}  # of hosts that will have fewer slots
        self._ends: dict[int, float] = {}  # when jobs are expected to have ended that such hosts run
        self.expected: Callable[[int], float | None] = _unknown

    def __getstate__(self) -> dict[str, object]:
        """Give what the events determine: that is in the ledger; what is here is of this head and clock."""
        state = {name: vars(self)[name] for name in vars(Ledger())}
        # When a doubt ends the clock says, and with it who is queued because of that.
        return state | {"_queues": self._queues.without(self.doubts.keys())}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take that up, with everything else as in the beginning."""
        self.__init__()  # type: ignore[misc]  # nobody makes a class of this one
        vars(self).update(state)

    def apply(self, event: Event, now: float = 0.0) -> list[Action]:
        """Take in a fact; give what is to be done then. `now` is in monotonic seconds."""
        actions = super().apply(event, now)
        if isinstance(event, AttemptEnded) and event.job not in self.running:
            self._ends.pop(event.job, None)
        return actions

    def wake_at(self) -> float | None:
        """Say when `decide` may have something new to say though nothing happens."""
        if self._draining:
            return None
        due = [self.doubts.wake_at(), self._quarantine.wake_at()]
        return min((moment for moment in due if moment is not None), default=None)

    def set_horizon(self, host: str, horizon: Horizon) -> None:
        """Let no job be started on a host that is not expected to end in time; times as for `decide`."""
        if horizon.falls:
            self._horizons[host] = horizon
        else:
            self._horizons.pop(host, None)

    def drain(self) -> None:
        """Let `decide` decide nothing any more."""
        self._draining = True

    def decide(self, now: float) -> list[Decision]:
        """Fill the free slots and give up what is hopeless; already applied when it returns.

        Jobs lost with their hosts come first, fresh ones in the order of their numbers next, retries last.
        Each goes to the host that runs the fewest, but not where it just failed if another host is free.
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
        decisions += self._start_last_chances(now)
        decisions += self._start_in_time(now) if self._horizons else self._start_all()
        return decisions

    def _start_all(self) -> Iterator[AttemptStarted]:
        while (found := self._queues.next(self._states.codes, WAITING)) is not None:
            host = self._hosts.pick(found[1])
            if host is None:
                break
            yield self._start(found[0], host, 0.0, None)

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


def _unknown(job: int) -> None:
    """Expect nothing of a job."""
