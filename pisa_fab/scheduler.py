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
- A doubt ends early when its host is heard of again: the worker was taken up and still has the attempt, or
  never got it, or is a new one on the same machine, where nothing of the old one is left.
- A job that is given up if it is lost once more runs beside no other such job.
- A failure that a quarantined host is to blame for is forgiven: it counts as if it had not been.
"""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Sequence

from pisa_fab.doubts import Doubt, Doubts
from pisa_fab.events import (
    Accept,
    Action,
    AttemptEnded,
    AttemptStarted,
    Discard,
    Ending,
    Event,
    HostCleared,
    HostLost,
    HostProbed,
    HostQuarantined,
    HostReady,
    HostReleased,
    HostUnusable,
    JobGivenUp,
    JobsAdded,
    JobsReopened,
    JobState,
    RunClosed,
    RunOpened,
    SlotsChanged,
    Stop,
)
from pisa_fab.model import Policy
from pisa_fab.quarantine import Quarantine, Standing
from pisa_fab.queues import Queues
from pisa_fab.slots import Slots
from pisa_fab.states import WAITING, States
from pisa_fab.transitions import Happening

Decision = AttemptStarted | JobGivenUp | HostQuarantined | HostProbed | HostCleared


class Scheduler:
    """Which job runs where, and what became of it.

    Attributes:
        policy: in force since the last `RunOpened`.
        running: the attempts on ready hosts, by job; read only.
        doubts: the attempts in doubt; read only.
    """

    def __init__(self) -> None:
        self.policy = Policy()
        self.running: dict[int, AttemptStarted] = {}
        self.doubts = Doubts()
        self._queues = Queues()
        self._states = States()
        self._failures: dict[int, tuple[str, ...]] = {}  # the hosts where a job failed
        self._losses: dict[int, tuple[str, ...]] = {}  # the hosts that were lost with it
        self._hosts = Slots()
        self._machines: dict[str, str] = {}  # what each host was when it was last ready
        self._quarantine = Quarantine()
        self._draining = False

    # -- what one may ask ----------------------------------------------------------------------------

    def state(self, job: int) -> JobState:
        """Say where a job stands; a job that nothing is known of is waiting."""
        return self._states[job]

    def counts(self) -> dict[JobState, int]:
        """Count the batch's jobs in each state."""
        return self._states.counts()

    def jobs_in(self, state: JobState) -> Iterator[int]:
        """Give the batch's jobs that are in this state, ascending."""
        return self._states.jobs_in(state)

    def lost_with(self, job: int) -> tuple[str, ...]:
        """Name the hosts that were lost with this job, in that order."""
        doubt = self.doubts.get(job)
        return self._losses.get(job, ()) + ((doubt.started.host,) if doubt and doubt.blamed else ())

    @property
    def jobs(self) -> Sequence[int]:
        """The numbers of the batch's jobs, ascending."""
        return self._queues.jobs

    @property
    def unfinished(self) -> int:
        """How many of the batch's jobs are in no final state."""
        return len(self.jobs) - self._states.final()

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

    def is_quarantined(self, host: str) -> bool:
        """Say whether a host gets no jobs, or one at a time, because of what it failed."""
        return self._quarantine.standing(host) is not Standing.TRUSTED

    def wake_at(self) -> float | None:
        """Say when `decide` may have something new to say though nothing happens."""
        if self._draining:
            return None
        due = [self.doubts.wake_at(), self._quarantine.wake_at()]
        return min((moment for moment in due if moment is not None), default=None)

    def snapshot(self) -> dict[str, object]:
        """Give everything that the events determine, as one value to compare.

        Left out is what only the clock determines: when doubts end, and who is eligible because one did.
        """
        return {
            "policy": self.policy,
            "jobs": tuple(self.jobs),
            "states": bytes(self._states.codes),
            "attempts": self._states.attempts.tolist(),
            "counts": self.counts(),
            "failures": self._failures.copy(),
            "losses": self._losses.copy(),
            "running": self.running.copy(),
            "doubts": self.doubts.snapshot(),
            "queues": self._queues.snapshot(without=self.doubts.keys()),
            "hosts": {name: host.jobs.copy() for name, host in self._hosts.by_name.items()},
            "machines": self._machines.copy(),
            "quarantine": self._quarantine.snapshot(),
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
        decisions: list[Decision] = [*self._quarantine.decide(now)]
        for job in self.doubts.over(now):
            self._queue_lost(job)
        decisions += [JobGivenUp(job, self.lost_with(job)) for job in self._queues.hopeless]
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

    # -- what has happened ---------------------------------------------------------------------------

    def apply(self, event: Event, now: float = 0.0) -> list[Action]:
        """Take in a fact; give what is to be done with a result. `now` is in monotonic seconds."""
        match event:
            case AttemptEnded():
                return [self._on_ended(event, now)]
            case AttemptStarted():
                self._on_started(event)
            case HostReady():
                return self._on_host_ready(event)
            case HostLost():
                self._on_host_lost(event, now)
            case HostReleased():
                self._on_host_lost(HostLost(event.host, event.reason, worker_ended=True), now)
            case SlotsChanged():
                self._on_slots_changed(event)
            case HostQuarantined() | HostProbed() | HostCleared():
                self._on_standing(event, now)
            case JobGivenUp():
                self._on_given_up(event)
            case JobsReopened():
                self._on_reopened(event)
            case RunOpened():
                self._on_run_opened(event, now)
            case JobsAdded() | HostUnusable() | RunClosed():
                pass
        return []

    def _on_started(self, event: AttemptStarted) -> None:
        job = event.job
        moved = self._states.move(job, Happening.STARTED)
        self._states.saw(job, event.attempt)
        if not moved:
            return
        if job in self.doubts:  # so the doubt is over
            self._count_loss(job)
        self._run(event)

    def _run(self, started: AttemptStarted) -> None:
        self._queues.remove(started.job)
        self.running[started.job] = started
        self._hosts.take(started.host, started.job)

    def _on_ended(self, event: AttemptEnded, now: float) -> Action:
        job, attempt, host = event.job, event.attempt, event.host
        self._states.saw(job, attempt)  # also one whose start a torn journal forgot
        doubt = self.doubts.get(job)
        current = doubt.started if doubt else self.running.get(job)
        if current is None or (current.attempt, current.host) != (attempt, host):
            return Discard(job, attempt, host)
        what = self._judge(event)
        self._states.move(job, what)
        if doubt:
            self.doubts.end(job)
            self._queues.remove(job)
        else:
            del self.running[job]
            self._hosts.give_back(host, job)
        self._quarantine.ended(event, now)
        if what in (Happening.FAILED, Happening.FAILED_ONCE):
            self._failures[job] = (*self._failures.get(job, ()), host)
        if what is Happening.FAILED_ONCE and self._states.wanted[job]:
            self._queues.put_last(job, host)
        elif what is Happening.STOPPED:
            self._queue_first(job, host if event.outcome.ending is Ending.REFUSED else "")
        return Accept(job, attempt, host, publish=what in (Happening.SUCCEEDED, Happening.FAILED))

    def _judge(self, event: AttemptEnded) -> Happening:
        if event.outcome.succeeded:
            return Happening.SUCCEEDED
        if event.outcome.ending in (Ending.STOPPED, Ending.REFUSED):
            return Happening.STOPPED
        left = self.policy.retries - len(self._failures.get(event.job, ()))
        return Happening.FAILED_ONCE if left > 0 else Happening.FAILED

    # -- hosts ---------------------------------------------------------------------------------------

    def _on_host_ready(self, event: HostReady) -> list[Action]:
        """Take a host in, and settle what was in doubt there.

        A worker that was taken up again knows what runs on its machine. Any other has made sure that it is
        alone there. Neither knows of another machine that the name has led to before.
        """
        host = event.host
        self._machines[host] = event.machine
        self._quarantine.ready(host, event.slots, resumed=event.resumed)
        self._hosts.ready(host, self._quarantine.slots(host))
        doubted = [(job, doubt) for job, doubt in self.doubts.items() if doubt.started.host == host]
        for job, doubt in doubted:
            if (job, doubt.started.attempt) in event.holds:
                self._states.move(job, Happening.FOUND)
                self.doubts.end(job)
                self._run(doubt.started)
            elif not event.machine or event.machine != doubt.machine:
                pass  # it may run there still
            elif event.resumed:  # the order was lost with the connection
                self._states.move(job, Happening.UNKNOWN_THERE)
                self.doubts.end(job)
                self._queue_first(job, "")
            else:
                self._end_with_host(job)
        running = {(job, started.attempt) for job, started in self.running.items() if started.host == host}
        return [Stop(job, attempt, host) for job, attempt in event.holds if (job, attempt) not in running]

    def _on_slots_changed(self, event: SlotsChanged) -> None:
        if event.host in self._hosts.by_name:
            self._quarantine.resized(event.host, event.slots)
            self._set_slots()

    def _set_slots(self) -> None:
        for host in sorted(self._quarantine.moved()):
            if host in self._hosts.by_name:
                self._hosts.ready(host, self._quarantine.slots(host))

    def _on_host_lost(self, event: HostLost, now: float) -> None:
        patience = self.policy.lease + self.policy.margin
        self._quarantine.gone(event.host)
        machine = self._machines.get(event.host, "")
        for job in self._hosts.lose(event.host):
            doubt = Doubt(self.running.pop(job), now + patience, patience, blamed=True, machine=machine)
            self.doubts.put(job, doubt, watch=bool(self._states.wanted[job]))
            if event.worker_ended:
                self._end_with_host(job)
            else:
                self._states.move(job, Happening.HOST_SILENT)

    def _end_with_host(self, job: int) -> None:
        self._states.move(job, Happening.HOST_ENDED)
        self._count_loss(job)
        self._queue_lost(job)

    def _on_standing(self, event: HostQuarantined | HostProbed | HostCleared, now: float) -> None:
        self._quarantine.apply(event, now)
        self._set_slots()
        if isinstance(event, HostQuarantined):
            for job in event.jobs:
                self._forgive(job, event.host)

    def _forgive(self, job: int, host: str) -> None:
        """Let a job's failures on a host not count; one that has failed for good is run again."""
        if left := tuple(other for other in self._failures.pop(job, ()) if other != host):
            self._failures[job] = left
        if self._states.move(job, Happening.FORGIVEN):
            self._queue_first(job, host)

    # -- the user ------------------------------------------------------------------------------------

    def _on_given_up(self, event: JobGivenUp) -> None:
        if self._states.move(event.job, Happening.GIVEN_UP):
            self.doubts.end(event.job)
            self._losses[event.job] = event.hosts
            self._queues.remove(event.job)

    def _on_reopened(self, event: JobsReopened) -> None:
        moved = [job for job in event.jobs if self._states.move(job, Happening.REOPENED)]
        for job in moved:
            self._failures.pop(job, None)
            self._losses.pop(job, None)
        if moved:
            self._queues.rewind(min(moved))

    def _on_run_opened(self, event: RunOpened, now: float) -> None:
        before = self.policy.lease + self.policy.margin
        for job, started in self.running.items():
            self._states.move(job, Happening.HEAD_GONE)
            machine = self._machines.get(started.host, "")
            self.doubts.put(job, Doubt(started, now, before, blamed=False, machine=machine), watch=False)
        self.running.clear()
        self._hosts = Slots()
        self._quarantine = Quarantine()
        self.policy = event.policy
        self._queues.start(event.jobs)
        self._states.want(event.jobs)
        for job in [job for job, hosts in self._failures.items() if len(hosts) <= event.policy.retries]:
            self._allow(job, JobState.FAILED)
        for job in [job for job, hosts in self._losses.items() if hosts and not self._is_hopeless(job)]:
            self._allow(job, JobState.LOST)
        # The old deadlines were of another head's clock.
        self.doubts.renew(now, event.policy.lease + event.policy.margin, self._states.wanted)
        self._queue_all()

    def _allow(self, job: int, state: JobState) -> None:
        if self._states.wanted[job] and self.state(job) is state:
            self._states.move(job, Happening.ALLOWED)

    def _queue_all(self) -> None:
        for job in [job for job in self._losses if self._states.is_waiting(job)]:
            self._queue_lost(job)
        for job, hosts in self._failures.items():
            if self._states.is_waiting(job) and job not in self._losses:
                self._queues.put_last(job, hosts[-1])

    # -- losses --------------------------------------------------------------------------------------

    def _count_loss(self, job: int) -> None:
        """Turn the doubt about a job into a loss, if a host is to blame."""
        hosts = self.lost_with(job)
        self.doubts.end(job)
        if hosts:
            self._losses[job] = hosts

    def _is_hopeless(self, job: int) -> bool:
        return len(self.lost_with(job)) >= max(1, self.policy.max_losses)

    def _has_last_chance(self, job: int) -> bool:
        return 0 < len(self.lost_with(job)) == self.policy.max_losses - 1

    def _queue_first(self, job: int, avoid: str) -> None:
        if self._states.wanted[job]:
            put = self._queues.put_alone if self._has_last_chance(job) else self._queues.put_first
            put(job, avoid)

    def _queue_lost(self, job: int) -> None:
        if self._states.wanted[job] and self._is_hopeless(job):
            self._queues.hopeless[job] = None
        else:
            self._queue_first(job, next(reversed(self.lost_with(job)), ""))
