"""The scheduler: facts in, decisions out.

Its state is a fold over the events of the journal: `apply` takes what has happened, `decide` says what to do
next and has applied that when it returns. A restart replays the journal through the same `apply`; there is no
other way to restore.

Only numbers and names live here: no argv, no clock, no file, no thread. Time is an argument, in seconds of a
monotonic clock. Every event costs O(1), because a batch may have a million jobs.

Rules that a reader may want to know:

- A job's final state follows from its counters and the policy in force. So a batch that is submitted again
  with more `retries` (or `max_losses`) runs the jobs again that had used up the old number. Fewer of them end
  nothing that still waits: such a job gets the run that it was promised.
- The end of a doubt is no event. A job in doubt may be started when its time is over, but its loss is counted
  only when it is started or given up, and until then a late result counts. This keeps replay equal to life.
- The death of a head makes doubts too, but is no host's fault: it counts as no loss.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, KeysView, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import compress

from pisa_fab.model import (
    Accept,
    Action,
    AttemptEnded,
    AttemptStarted,
    Discard,
    Ending,
    Event,
    HostLost,
    HostReady,
    HostUnusable,
    JobGivenUp,
    JobsAdded,
    JobsReopened,
    JobState,
    Policy,
    RunClosed,
    RunOpened,
)
from pisa_fab.slots import Slots
from pisa_fab.transitions import FINAL, TRANSITIONS, Happening

Decision = AttemptStarted | JobGivenUp


# A million states are a million bytes; a byte is a state's place in the enumeration, 0 is WAITING.
_STATES = tuple(JobState)
_CODES = {state: code for code, state in enumerate(_STATES)}
_WAITING = _CODES[JobState.WAITING]
_NEXT = {(_CODES[old], what): _CODES[new] for (old, what), new in TRANSITIONS.items()}


@dataclass(frozen=True, slots=True)
class Doubt:
    """An attempt that may still run although nobody hears of it.

    Attributes:
        started: the attempt.
        until: when it is surely over, on the head's monotonic clock.
        patience: seconds from silence to that moment: lease and margin that the attempt was started under.
        blamed: whether its host was lost (a loss), or only the head.
    """

    started: AttemptStarted
    until: float
    patience: float
    blamed: bool


class Scheduler:
    """Which job runs where, and what became of it.

    Attributes:
        policy: in force since the last `RunOpened`.
        running: the attempts on ready hosts, by job; read only.
        doubts: the attempts in doubt, by job; read only.
    """

    def __init__(self) -> None:
        self.policy = Policy()
        self.running: dict[int, AttemptStarted] = {}
        self.doubts: dict[int, Doubt] = {}
        self._jobs: Sequence[int] = ()
        self._cursor = 0  # no fresh job of the batch stands before it
        self._state = bytearray()
        self._wanted = bytearray()  # 1 for the jobs of the batch
        self._attempts = array("Q")  # the highest number ever seen
        self._counts = [0] * len(_STATES)
        self._failures: dict[int, tuple[str, ...]] = {}  # the hosts where a job failed
        self._losses: dict[int, tuple[str, ...]] = {}  # the hosts that were lost with it
        # A heap; what has gone stale stays until its time.
        self._doubt_ends: list[tuple[float, int]] = []
        # To be run before fresh jobs, and after them; each with the host to avoid, or "".
        self._first: OrderedDict[int, str] = OrderedDict()
        self._last: OrderedDict[int, str] = OrderedDict()
        self._hopeless: OrderedDict[int, None] = OrderedDict()  # to be given up
        self._hosts = Slots()
        self._draining = False

    # -- what one may ask ----------------------------------------------------------------------------

    def state(self, job: int) -> JobState:
        """Say where a job stands; a job that nothing is known of is waiting."""
        return _STATES[self._state[job]] if 0 <= job < len(self._state) else JobState.WAITING

    def counts(self) -> dict[JobState, int]:
        """Count the batch's jobs in each state."""
        return dict(zip(_STATES, self._counts, strict=True))

    def jobs_in(self, state: JobState) -> Iterator[int]:
        """Give the batch's jobs that are in this state, ascending."""
        code = _CODES[state]
        job = self._state.find(code)
        while job >= 0:
            if self._wanted[job]:
                yield job
            job = self._state.find(code, job + 1)

    def lost_with(self, job: int) -> tuple[str, ...]:
        """Name the hosts that were lost with this job, in that order."""
        doubt = self.doubts.get(job)
        return self._losses.get(job, ()) + ((doubt.started.host,) if doubt and doubt.blamed else ())

    @property
    def jobs(self) -> Sequence[int]:
        """The numbers of the batch's jobs, ascending."""
        return self._jobs

    @property
    def unfinished(self) -> int:
        """How many of the batch's jobs are in no final state."""
        return len(self._jobs) - sum(self._counts[_CODES[state]] for state in FINAL)

    @property
    def finished(self) -> bool:
        """Whether every job of the batch is in a final state."""
        return self.unfinished == 0

    @property
    def ready_hosts(self) -> KeysView[str]:
        """The names of the hosts that may be given jobs."""
        return self._hosts.by_name.keys()

    def load(self, host: str) -> tuple[int, int]:
        """Give how many jobs a ready host runs, and its slots. Raises KeyError for any other host."""
        found = self._hosts.by_name[host]
        return len(found.jobs), found.slots

    def wake_at(self) -> float | None:
        """Say when `decide` may have something new to say though nothing happens: when a doubt ends."""
        heap = self._doubt_ends
        while heap and not self._is_current(*heap[0]):
            heappop(heap)
        return heap[0][0] if heap and not self._draining else None

    def snapshot(self) -> dict[str, object]:
        """Give everything that the events determine, as one value to compare.

        Left out is what only the clock determines: when doubts end, and who is eligible because one did.
        """

        def certain(queue: Iterable[int]) -> list[int]:
            return [job for job in queue if job not in self.doubts]

        return {
            "policy": self.policy,
            "jobs": tuple(self._jobs),
            "states": bytes(self._state),
            "attempts": self._attempts.tolist(),
            "counts": self.counts(),
            "failures": self._failures.copy(),
            "losses": self._losses.copy(),
            "running": self.running.copy(),
            "doubts": {job: replace(doubt, until=0.0) for job, doubt in self.doubts.items()},
            "queues": [certain(queue) for queue in (self._first, self._last, self._hopeless)],
            "hosts": self._hosts.snapshot(),
        }

    # -- what to do next -----------------------------------------------------------------------------

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
        self._end_doubts(now)
        decisions: list[Decision] = [JobGivenUp(job, self.lost_with(job)) for job in self._hopeless]
        for decision in decisions:
            self.apply(decision, now)
        while (found := self._next_job()) is not None:
            job, avoid = found
            host = self._hosts.pick(avoid)
            if host is None:
                break
            started = AttemptStarted(job, self._attempts[job] + 1, host)
            self._on_started(started)
            decisions.append(started)
        return decisions

    def _next_job(self) -> tuple[int, str] | None:
        if self._first:
            job = next(iter(self._first))
            return job, self._first[job]
        jobs, state = self._jobs, self._state
        while self._cursor < len(jobs):
            job = jobs[self._cursor]
            if state[job] == _WAITING and job not in self._last:
                return job, ""
            self._cursor += 1
        if self._last:
            job = next(iter(self._last))
            return job, self._last[job]
        return None

    def _end_doubts(self, now: float) -> None:
        heap = self._doubt_ends
        while heap and heap[0][0] <= now:
            until, job = heappop(heap)
            if self._is_current(until, job):
                self._queue_lost(job)

    def _is_current(self, until: float, job: int) -> bool:
        doubt = self.doubts.get(job)
        return doubt is not None and doubt.until == until

    # -- what has happened ---------------------------------------------------------------------------

    def apply(self, event: Event, now: float = 0.0) -> list[Action]:
        """Take in a fact; give what is to be done with a result. `now` is in monotonic seconds."""
        match event:
            case AttemptEnded():
                return [self._on_ended(event)]
            case AttemptStarted():
                self._on_started(event)
            case HostReady():
                self._hosts.ready(event.host, event.slots)
            case HostLost():
                self._on_host_lost(event, now)
            case JobGivenUp():
                self._on_given_up(event)
            case JobsReopened():
                self._on_reopened(event)
            case RunOpened():
                self._on_run_opened(event, now)
            case JobsAdded() | HostUnusable() | RunClosed():
                pass
        return []

    def _move(self, job: int, what: Happening) -> bool:
        """Make the transition, if there is one."""
        self._know(job)
        old = self._state[job]
        new = _NEXT.get((old, what))
        if new is None:
            return False
        self._state[job] = new
        if self._wanted[job]:
            self._counts[old] -= 1
            self._counts[new] += 1
        return True

    def _know(self, job: int) -> None:
        missing = job + 1 - len(self._state)
        if missing > 0:
            self._state.extend(bytes(missing))
            self._wanted.extend(bytes(missing))
            self._attempts.frombytes(bytes(missing * self._attempts.itemsize))

    def _on_started(self, event: AttemptStarted) -> None:
        job = event.job
        moved = self._move(job, Happening.STARTED)
        self._attempts[job] = max(self._attempts[job], event.attempt)
        if not moved:
            return
        if job in self.doubts:  # so the doubt is over
            self._count_loss(job)
        self._unqueue(job)
        self.running[job] = event
        self._hosts.take(event.host, job)

    def _on_ended(self, event: AttemptEnded) -> Action:
        job, attempt, host = event.job, event.attempt, event.host
        if 0 <= job < len(self._state):  # also of an attempt whose start a torn journal forgot
            self._attempts[job] = max(self._attempts[job], attempt)
        doubt = self.doubts.get(job)
        current = doubt.started if doubt else self.running.get(job)
        if current is None or (current.attempt, current.host) != (attempt, host):
            return Discard(job, attempt, host)
        what = self._judge(event)
        self._move(job, what)
        if doubt:
            del self.doubts[job]
            self._unqueue(job)
        else:
            del self.running[job]
            self._hosts.give_back(host, job)
        if what in (Happening.FAILED, Happening.FAILED_ONCE):
            self._failures[job] = (*self._failures.get(job, ()), host)
        if what is Happening.FAILED_ONCE and self._wanted[job]:
            self._last[job] = host
        elif what is Happening.STOPPED and self._wanted[job]:
            self._first[job] = ""
        return Accept(job, attempt, host, publish=what in (Happening.SUCCEEDED, Happening.FAILED))

    def _judge(self, event: AttemptEnded) -> Happening:
        if event.outcome.succeeded:
            return Happening.SUCCEEDED
        if event.outcome.ending is Ending.STOPPED:
            return Happening.STOPPED
        left = self.policy.retries - len(self._failures.get(event.job, ()))
        return Happening.FAILED_ONCE if left > 0 else Happening.FAILED

    def _on_host_lost(self, event: HostLost, now: float) -> None:
        patience = self.policy.lease + self.policy.margin
        for job in self._hosts.lose(event.host):
            doubt = Doubt(self.running.pop(job), now + patience, patience, blamed=True)
            self.doubts[job] = doubt
            if event.worker_ended:
                self._move(job, Happening.HOST_ENDED)
                self._count_loss(job)
                self._queue_lost(job)
            else:
                self._move(job, Happening.HOST_SILENT)
                self._watch(job, doubt)

    def _on_given_up(self, event: JobGivenUp) -> None:
        if self._move(event.job, Happening.GIVEN_UP):
            self.doubts.pop(event.job, None)
            self._losses[event.job] = event.hosts
            self._unqueue(event.job)

    def _on_reopened(self, event: JobsReopened) -> None:
        moved = [job for job in event.jobs if self._move(job, Happening.REOPENED)]
        for job in moved:
            self._failures.pop(job, None)
            self._losses.pop(job, None)
        if moved:
            self._cursor = min(self._cursor, bisect_left(self._jobs, min(moved)))

    def _on_run_opened(self, event: RunOpened, now: float) -> None:
        before = self.policy.lease + self.policy.margin
        for job, started in self.running.items():
            self._move(job, Happening.HEAD_GONE)
            self.doubts[job] = Doubt(started, now, before, blamed=False)
        self.running.clear()
        self._hosts = Slots()
        self.policy = event.policy
        self._set_jobs(event.jobs)
        for job in [job for job, hosts in self._failures.items() if len(hosts) <= event.policy.retries]:
            self._allow(job, JobState.FAILED)
        for job in [job for job, hosts in self._losses.items() if hosts and not self._is_hopeless(job)]:
            self._allow(job, JobState.LOST)
        self._renew_doubts(now)
        self._queue_all()

    def _set_jobs(self, jobs: Sequence[int]) -> None:
        self._jobs = jobs
        self._cursor = 0
        self._know(max(jobs, default=-1))
        self._wanted = bytearray(len(self._state))
        for job in jobs:
            self._wanted[job] = 1
        found = Counter(compress(self._state, self._wanted))
        self._counts = [found[code] for code in range(len(_STATES))]

    def _allow(self, job: int, state: JobState) -> None:
        if self._wanted[job] and self.state(job) is state:
            self._move(job, Happening.ALLOWED)

    def _renew_doubts(self, now: float) -> None:
        """Let every doubt begin anew: the old deadlines were of another head's clock."""
        self._doubt_ends.clear()
        patience = self.policy.lease + self.policy.margin
        for job, old in self.doubts.items():
            longest = max(old.patience, patience)
            self.doubts[job] = replace(old, until=now + longest, patience=longest)
            self._watch(job, self.doubts[job])

    def _queue_all(self) -> None:
        for queue in (self._first, self._last, self._hopeless):
            queue.clear()
        waiting = [job for job in self._losses if self._state[job] == _WAITING]
        for job in waiting:
            self._queue_lost(job)
        for job, hosts in self._failures.items():
            if self._wanted[job] and self._state[job] == _WAITING and job not in self._losses:
                self._last[job] = hosts[-1]

    # -- losses and queues ---------------------------------------------------------------------------

    def _watch(self, job: int, doubt: Doubt) -> None:
        if self._wanted[job]:
            heappush(self._doubt_ends, (doubt.until, job))

    def _count_loss(self, job: int) -> None:
        """Turn the doubt about a job into a loss, if a host is to blame."""
        hosts = self.lost_with(job)
        del self.doubts[job]
        if hosts:
            self._losses[job] = hosts

    def _is_hopeless(self, job: int) -> bool:
        return len(self.lost_with(job)) >= max(1, self.policy.max_losses)

    def _queue_lost(self, job: int) -> None:
        if not self._wanted[job]:
            return
        if self._is_hopeless(job):
            self._hopeless[job] = None
        else:
            self._first[job] = next(reversed(self.lost_with(job)), "")

    def _unqueue(self, job: int) -> None:
        self._first.pop(job, None)
        self._last.pop(job, None)
        self._hopeless.pop(job, None)
