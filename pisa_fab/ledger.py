"""What has happened to jobs and hosts: a fold over the events of the journal.

A part of `scheduler`, pure as that: `apply` takes in what has happened, and says what is to be done then.
What to start next is decided there. A restart replays the journal through the same `apply`; there is no other
way to restore.

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
- A job that somebody wants to be cancelled is so when nothing of it can run any more: at once if it waits,
  when its worker has ended it, or when the doubt about it is over. If it ends by itself before, that counts;
  a failure that is forgiven does not, and then it is cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Sequence

from pisa_fab.budgets import Budgets
from pisa_fab.doubts import Doubt, Doubts
from pisa_fab.events import (
    Accept,
    Action,
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
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
    JobsCancelled,
    JobsPaused,
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
from pisa_fab.states import WAITING, JobView, States
from pisa_fab.transitions import FINAL, Happening


class Ledger:
    """Which job runs where, and what became of it.

    Attributes:
        running: the attempts on ready hosts, by job; read only.
        doubts: the attempts in doubt; read only.
    """

    def __init__(self) -> None:
        self.running: dict[int, AttemptStarted] = {}
        self.doubts = Doubts()
        self._queues = Queues()
        self._states = States()
        self._budgets = Budgets()
        self._unwanted: set[int] = set()  # the jobs that are to be cancelled, or failed before they could be
        self._hosts = Slots()
        self._machines: dict[str, str] = {}  # what each host was when it was last ready
        self._quarantine = Quarantine()

    # -- what one may ask ----------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """What is in force since the last `RunOpened`."""
        return self._budgets.policy

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
        return self._budgets.lost_with(job) + ((doubt.started.host,) if doubt and doubt.blamed else ())

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

    def is_unwanted(self, job: int) -> bool:
        """Say whether a job is to be cancelled as soon as nothing of it can run any more."""
        return job in self._unwanted

    def is_quarantined(self, host: str) -> bool:
        """Say whether a host gets no jobs, or one at a time, because of what it failed."""
        return self._quarantine.standing(host) is not Standing.TRUSTED

    def held_until(self, host: str) -> float | None:
        """Say until when a host gets no jobs because of what it failed or refused, at least, or None."""
        return self._quarantine.until(host)

    def look(self, job: int) -> JobView:
        """Give what is known of a job. If it waits, those before it are counted, which may take a moment."""
        states = self._states
        known = 0 <= job < len(states.codes)
        return JobView(
            state=self.state(job),
            wanted=known and bool(states.wanted[job]),
            unwanted=job in self._unwanted,
            attempts=states.attempts[job] if known else 0,
            failed_on=self._budgets.failed_on(job),
            lost_with=self.lost_with(job),
            last_chance=self._has_last_chance(job),
            before=self._queues.before(job, states.codes, WAITING) if known and states.is_waiting(job) else 0,
        )

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
            "budgets": self._budgets.snapshot(),
            "unwanted": self._unwanted.copy(),
            "running": self.running.copy(),
            "doubts": self.doubts.snapshot(),
            "queues": self._queues.snapshot(without=self.doubts.keys()),
            "hosts": {name: host.jobs.copy() for name, host in self._hosts.by_name.items()},
            "machines": self._machines.copy(),
            "quarantine": self._quarantine.snapshot(),
        }

    def shift(self, seconds: float) -> None:
        """Let all times be later by so many seconds: they are read on another clock from here on."""
        self.doubts.shift(seconds)
        self._quarantine.shift(seconds)

    # -- what has happened ---------------------------------------------------------------------------

    def apply(self, event: Event, now: float = 0.0) -> list[Action]:
        """Take in a fact; give what is to be done then. `now` is in monotonic seconds."""
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
            case RunOpened():
                self._on_run_opened(event, now)
            case CancelAsked():
                return self._on_cancel_asked(event)
            case _:
                self._on_jobs(event)
        return []

    def _on_jobs(self, event: Event) -> None:
        match event:
            case JobGivenUp():
                self._on_given_up(event)
            case JobsReopened():
                self._on_reopened(event)
            case JobsCancelled():
                self._on_cancelled(event)
            case JobsAdded() | JobsPaused() | HostUnusable() | RunClosed():
                pass

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
            self._budgets.fail(job, host)
        if what is Happening.SUCCEEDED:
            self._unwanted.discard(job)
        elif what is Happening.FAILED:
            pass  # and if that is forgiven, a job that nobody wants is still not run again
        elif job in self._unwanted:
            self._queue_first(job, "")
        elif what is Happening.FAILED_ONCE and self._states.wanted[job]:
            self._queues.put_last(job, host)
        elif what is Happening.STOPPED:
            self._queue_first(job, host if event.outcome.ending is Ending.REFUSED else "")
        return Accept(job, attempt, host, publish=what in (Happening.SUCCEEDED, Happening.FAILED))

    def _judge(self, event: AttemptEnded) -> Happening:
        if event.outcome.succeeded:
            return Happening.SUCCEEDED
        if event.outcome.ending in (Ending.STOPPED, Ending.REFUSED):
            return Happening.STOPPED
        return Happening.FAILED_ONCE if self._budgets.has_retries(event.job) else Happening.FAILED

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
        wanted = {
            (job, started.attempt)
            for job, started in self.running.items()
            if started.host == host and job not in self._unwanted
        }
        return [Stop(job, attempt, host) for job, attempt in event.holds if (job, attempt) not in wanted]

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
        self._budgets.forgive(job, host)
        if self._states.move(job, Happening.FORGIVEN):
            self._queue_first(job, host)

    # -- the user ------------------------------------------------------------------------------------

    def _on_given_up(self, event: JobGivenUp) -> None:
        if self._states.move(event.job, Happening.GIVEN_UP):
            self.doubts.end(event.job)
            self._unwanted.discard(event.job)
            self._budgets.lose(event.job, event.hosts)
            self._queues.remove(event.job)

    def _on_cancel_asked(self, event: CancelAsked) -> list[Action]:
        """Take jobs out of the queues; those that run are to be stopped, those in doubt waited for."""
        stops: list[Action] = []
        for job in event.jobs:
            if job in self._unwanted or self.state(job) in FINAL:
                continue
            self._unwanted.add(job)
            if (started := self.running.get(job)) is not None:
                stops.append(Stop(job, started.attempt, started.host))
            elif self._queues.remove(job) or self.state(job) is JobState.WAITING:
                self._queue_first(job, "")
        return stops

    def _on_cancelled(self, event: JobsCancelled) -> None:
        for job in event.jobs:
            if self._states.move(job, Happening.CANCELLED):
                self.doubts.end(job)
                self._unwanted.discard(job)
                self._queues.remove(job)

    def _on_reopened(self, event: JobsReopened) -> None:
        moved = [job for job in event.jobs if self._states.move(job, Happening.REOPENED)]
        for job in moved:
            self._budgets.clear(job)
            self._unwanted.discard(job)
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
        self._budgets.policy = event.policy
        self._queues.start(event.jobs)
        self._states.want(event.jobs)
        for job in self._budgets.allows_again():
            self._allow(job, JobState.FAILED)
        for job in self._budgets.jobs_that_were_lost():
            if not self._budgets.is_hopeless(self.lost_with(job)):
                self._allow(job, JobState.LOST)
        # The old deadlines were of another head's clock.
        self.doubts.renew(now, event.policy.lease + event.policy.margin, self._states.wanted)
        self._queue_all()

    def _allow(self, job: int, state: JobState) -> None:
        if self._states.wanted[job] and self.state(job) is state:
            self._states.move(job, Happening.ALLOWED)

    def _queue_all(self) -> None:
        for job in [job for job in self._unwanted if self._states.is_waiting(job)]:
            self._queue_first(job, "")
        for job in self._budgets.jobs_that_were_lost():
            if self._states.is_waiting(job):
                self._queue_lost(job)
        for job in self._budgets.jobs_that_failed():
            lost = self._budgets.lost_with(job)
            if self._states.is_waiting(job) and not lost and job not in self._unwanted:
                self._queues.put_last(job, self._budgets.failed_on(job)[-1])

    # -- losses --------------------------------------------------------------------------------------

    def _count_loss(self, job: int) -> None:
        """Turn the doubt about a job into a loss, if a host is to blame."""
        hosts = self.lost_with(job)
        self.doubts.end(job)
        if hosts:
            self._budgets.lose(job, hosts)

    def _has_last_chance(self, job: int) -> bool:
        return self._budgets.is_last_chance(self.lost_with(job))

    def _queue_first(self, job: int, avoid: str) -> None:
        self._queues.remove(job)  # it is queued already where the doubt about it was over before it ended
        if job in self._unwanted:
            self._queues.unwanted[job] = None
        elif self._states.wanted[job]:
            put = self._queues.put_alone if self._has_last_chance(job) else self._queues.put_first
            put(job, avoid)

    def _queue_lost(self, job: int) -> None:
        losses = self.lost_with(job)
        self._queues.remove(job)
        if self._states.wanted[job] and job not in self._unwanted and self._budgets.is_hopeless(losses):
            self._queues.hopeless[job] = None
        else:
            self._queue_first(job, next(reversed(losses), ""))
