"""The scheduler: facts in, decisions out.

`ledger` takes in what has happened; here is decided what to do next, and that has been applied when `decide`
returns.

Only numbers and names live in both: no argv, no clock, no file, no thread. Time is an argument, in seconds of
a monotonic clock. Every event costs O(1), because a batch may have a million jobs.
"""

from __future__ import annotations

from collections.abc import Iterator

from pisa_fab.events import (
    AttemptStarted,
    HostCleared,
    HostProbed,
    HostQuarantined,
    JobGivenUp,
    JobsCancelled,
)
from pisa_fab.ledger import Ledger
from pisa_fab.states import WAITING

Decision = AttemptStarted | JobGivenUp | JobsCancelled | HostQuarantined | HostProbed | HostCleared


class Scheduler(Ledger):
    """Which job runs where next."""

    def __init__(self) -> None:
        super().__init__()
        self._draining = False

    def wake_at(self) -> float | None:
        """Say when `decide` may have something new to say though nothing happens."""
        if self._draining:
            return None
        due = [self.doubts.wake_at(), self._quarantine.wake_at()]
        return min((moment for moment in due if moment is not None), default=None)

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
        for job in self.doubts.over(now):
            self._queue_lost(job)
        decisions += [JobGivenUp(job, self.lost_with(job)) for job in self._queues.hopeless]
        if self._queues.unwanted:
            decisions.append(JobsCancelled(tuple(sorted(self._queues.unwanted))))
        for decision in decisions:
            self.apply(decision, now)
        self._set_slots()
        decisions += self._start_last_chances()
        while (found := self._queues.next(self._states.codes, WAITING)) is not None:
            host = self._hosts.pick(found[1])
            if host is None:
                break
            decisions.append(self._start(found[0], host))
        return decisions

    def _start(self, job: int, host: str) -> AttemptStarted:
        started = AttemptStarted(job, self._states.attempts[job] + 1, host)
        self._on_started(started)
        return started

    def _start_last_chances(self) -> Iterator[AttemptStarted]:
        """Start the jobs that are given up if they are lost once more, one at most on each host.

        One of them may be what took the hosts down, and must not take the others with it.
        """
        waiting = self._queues.last_chances()
        if not waiting:
            return
        closed = {started.host for job, started in self.running.items() if self._has_last_chance(job)}
        for job, avoid in waiting:
            host = self._hosts.pick(avoid, closed)
            if host is not None:
                closed.add(host)
                yield self._start(job, host)
