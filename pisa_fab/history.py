"""What the events amount to: for the head while it runs, for `status` and for `collect`.

A fold over the journal like `scheduler`, which is inside: that knows which job is in which state, this knows
also what jobs are, how they ended, what became of the hosts, and how fast it goes. Pure: time is an argument.
Two clocks are told apart: `time` is Unix time, as the journal has it; `now` is monotonic, for the scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pisa_fab.canary import Canary, CommonFailure
from pisa_fab.endings import JobResult, JobResults
from pisa_fab.events import (
    Accept,
    Action,
    AttemptEnded,
    AttemptStarted,
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
    SecondStarted,
    SlotsChanged,
)
from pisa_fab.forecast import Forecast
from pisa_fab.keys import Numbers
from pisa_fab.order import LongestFirst
from pisa_fab.pace import Pace
from pisa_fab.records import Arguments, Records
from pisa_fab.scheduler import Decision, Scheduler
from pisa_fab.transitions import BY_RESULT


@dataclass(slots=True)
class HostView:
    """Where a host stands in the run.

    Attributes:
        name: of the host.
        state: `ready`, `quarantined` (ready, but not trusted), `lost`, `released` or `unusable`.
        slots: how many jobs it may run at once now.
        running: how many it runs, with those that are paused.
        paused: how many of them are made to stand still.
        held: why its slots are fewer than its calendar says, or "".
        done: how many attempts it has ended in this run that counted.
        reason: why it is not ready, or "".
        refused: what it said when it could start nothing, "" if it could since.
    """

    name: str
    state: str
    slots: int = 0
    running: int = 0
    done: int = 0
    reason: str = ""
    refused: str = ""
    paused: int = 0
    held: str = ""


class History:
    """What a run directory's events amount to.

    Attributes:
        scheduler: the state of every job.
        records: what each job is, by number.
        results: how each job went, by number; a job that was asked for again has none until it ends again.
        hosts: the hosts of the last run, by name.
        opened: the event that began the last run, None if there was none.
        opened_at: its Unix time.
        closed: the event that ended the last run, None while it runs, or if its head died.
        closed_at: its Unix time; jobs may be cancelled later.
        paused: the jobs that are made to stand still, each with its host.
        forecast: how long jobs take, by what has succeeded.
        order: which of the fresh jobs come first.
        canary: looks whether the first jobs of the run all fail in the same way.
        last_at: Unix time of the last event.
        epochs: how many heads there have been.
        next_number: the number that the next new job gets.
    """

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.records = Records()
        self.results = JobResults()
        self.hosts: dict[str, HostView] = {}
        self.opened: RunOpened | None = None
        self.opened_at = 0.0
        self.closed: RunClosed | None = None
        self.closed_at = 0.0
        self.last_at = 0.0
        self.epochs = 0
        self.paused: dict[int, str] = {}
        self.forecast = Forecast()
        self.order = LongestFirst(self.scheduler, self.forecast, self.records)
        self.canary = Canary(0)
        self.next_number = 0
        self._started: dict[int, float] = {}  # of the attempts that run or are in doubt
        self._seconds: dict[int, tuple[int, float]] = {}  # of the second attempts: the number, and the time
        self._still: dict[int, str] = {}  # as `paused`, of second attempts
        self._pace = Pace(0.0)

    # -- events --------------------------------------------------------------------------------------

    def apply(self, time: float, event: Event, now: float = 0.0) -> list[Action]:
        """Take in a fact; give what is to be done with a result. `time` is Unix time, `now` monotonic."""
        self.last_at = time
        on_host = isinstance(event, AttemptEnded) and event.job in self.scheduler.running
        actions = self.scheduler.apply(event, now)
        if not isinstance(event, AttemptEnded):
            self._on_event(time, event)
        elif isinstance(action := actions[0], Accept):
            self._on_accepted(time, event, publish=action.publish, on_host=on_host)
        else:
            self._recount(event.host)
        if self._seconds:
            self._follow_seconds()
        return actions

    def _on_event(self, time: float, event: Event) -> None:
        match event:
            case AttemptStarted():
                if self.scheduler.running.get(event.job) is event:
                    self._on_started(time, event)
            case SecondStarted():
                if self._is_second(event):
                    self._on_decision(time, event)
            case JobGivenUp() | JobsCancelled():
                self._on_decision(time, event)
            case JobsAdded() | JobsReopened():
                self._on_jobs(event)
            case RunOpened():
                self.opened, self.opened_at, self.closed = event, time, None
                self.epochs = max(self.epochs + 1, event.epoch)
                self.canary = Canary(event.policy.stop_after)
                self.hosts.clear()
                for of_seconds in (self.paused, self._seconds, self._still):
                    of_seconds.clear()
                self.order.begin()
                self._pace = Pace(time)
            case RunClosed():
                self.closed, self.closed_at = event, time
            case _:
                self._on_host_event(event)

    def _on_jobs(self, event: JobsAdded | JobsReopened) -> None:
        if isinstance(event, JobsAdded):
            self.records.add(event.first, event.records)
            self.next_number = max(self.next_number, event.first + len(event.records))
            return
        for job in event.jobs:
            self.results.discard(job)
        self.order.begin()

    def _on_host_event(self, event: Event) -> None:
        match event:
            case HostReady() | HostLost() | HostReleased() | HostUnusable() | SlotsChanged():
                self._on_host(event)
            case JobsPaused():
                self._on_paused(event)
            case HostQuarantined() | HostProbed() | HostCleared():
                self._on_standing(event)

    def decide(self, time: float, now: float) -> list[Decision]:
        """Let the scheduler decide, and take in what it decided; it need not be applied again."""
        self.order.look()
        decisions = self.scheduler.decide(now)
        for decision in decisions:
            if isinstance(decision, AttemptStarted):
                self._on_started(time, decision)
            else:
                self._on_decision(time, decision)
        return decisions

    def _on_started(self, time: float, event: AttemptStarted) -> None:
        self.last_at = time
        self._started[event.job] = time
        if (host := self.hosts.get(event.host)) is not None:
            host.running += 1

    def _on_decision(self, time: float, event: Decision) -> None:
        self.last_at = time
        match event:
            case JobGivenUp():
                self._started.pop(event.job, None)
                self._pace.job_ended(time)
            case JobsCancelled():
                for job in event.jobs:
                    self._started.pop(job, None)
            case AttemptStarted():
                self._on_started(time, event)
            case SecondStarted():
                self._seconds[event.job] = event.attempt, time
                self._recount(event.host)
            case _:
                self._on_standing(event)

    def _is_second(self, event: SecondStarted) -> bool:
        """Say whether a start was one: whether the job could be started."""
        second = self.scheduler.seconds.get(event.job)
        return second is not None and second.attempt == event.attempt

    def _recount(self, name: str) -> None:
        """Count what a ready host runs, with what it still ends because another host was first."""
        if name in self.hosts and name in self.scheduler.ready_hosts:
            self.hosts[name].running = self.scheduler.load(name)[0]

    def _follow_seconds(self) -> None:
        """Let second attempts be the jobs' own where the first ones are gone, and forget those that are."""
        for job, (attempt, begun) in list(self._seconds.items()):
            if job in self.scheduler.seconds:
                continue
            del self._seconds[job]
            still = self._still.pop(job, "")
            running = self.scheduler.running.get(job)
            if running is not None and running.attempt == attempt:
                self._started[job] = begun
                self._goes_on(job)
                if still:
                    self.paused[job] = still
            elif still in self.hosts:
                self.hosts[still].paused -= 1

    def _goes_on(self, job: int) -> None:
        """Note that the job's own attempt stands still no more, if it did: it has ended, or was lost."""
        where = self.paused.pop(job, "")
        if where in self.hosts:
            self.hosts[where].paused -= 1

    def _on_accepted(self, time: float, event: AttemptEnded, *, publish: bool, on_host: bool) -> None:
        job, outcome = event.job, event.outcome
        started = self._started.pop(job)
        if self._seconds:
            attempt, begun = self._seconds.get(job, (0, 0.0))
            if event.attempt == attempt:
                started = begun
        if self.paused:
            self._goes_on(job)
        if (host := self.hosts.get(event.host)) is not None:
            host.done += 1
            host.running -= on_host
            host.refused = outcome.tail if outcome.ending is Ending.REFUSED else ""
        if outcome.ending is Ending.STOPPED or outcome.ending is Ending.REFUSED:
            return  # that is no result
        if self.canary.armed:
            self.canary.ended(event)
        self.results.put(job, event.attempt, event.host, started + outcome.waited, outcome)
        worked = outcome.worked
        self._pace.attempt_ended(worked)
        if outcome.succeeded and job in self.records:
            self.forecast.learn(Arguments(self.records, job), worked)
            self.order.last.took(job, worked)
        if publish:
            self._pace.job_ended(time)

    def _on_host(self, event: HostReady | HostLost | HostReleased | HostUnusable | SlotsChanged) -> None:
        host = self.hosts.setdefault(event.host, HostView(event.host, ""))
        if not isinstance(event, SlotsChanged):
            self._on_paused(JobsPaused(event.host))
            host.held = ""
        match event:
            case HostReady():
                if self.scheduler.is_quarantined(event.host):
                    host.state = "quarantined"
                else:
                    host.state, host.reason = "ready", ""
                host.slots, host.refused = event.slots, ""
                host.running = self.scheduler.load(event.host)[0]
            case SlotsChanged():
                host.slots, host.held = event.slots, event.reason
            case HostLost():
                host.state, host.running, host.reason = "lost", 0, event.reason
            case HostReleased():
                host.state, host.running, host.reason = "released", 0, event.reason
            case HostUnusable():
                host.state, host.running, host.reason = "unusable", 0, event.reason

    def _on_paused(self, event: JobsPaused) -> None:
        both = ((self.scheduler.running, self.paused), (self.scheduler.seconds, self._still))
        for running, paused in both:
            for job in [job for job, host in paused.items() if host == event.host]:
                del paused[job]
            for job in event.jobs:
                if job in running and running[job].host == event.host:
                    paused[job] = event.host
        if event.host in self.hosts:
            found = [*self.paused.values(), *self._still.values()]
            self.hosts[event.host].paused = found.count(event.host)

    def _on_standing(self, event: HostQuarantined | HostProbed | HostCleared) -> None:
        host = self.hosts.setdefault(event.host, HostView(event.host, ""))
        if isinstance(event, HostCleared):
            host.state, host.reason = "ready", ""
        elif isinstance(event, HostQuarantined):
            host.state, host.reason = "quarantined", event.reason
            for job in event.jobs:
                # It is to be run again, or, by a later decision of the same moment, never.
                if self.scheduler.state(job) not in BY_RESULT:
                    self.results.discard(job)

    # -- what one may ask ----------------------------------------------------------------------------

    def numbers(self) -> Numbers:
        """Give the number of every job that ever was, by its key."""
        return self.records.numbers()

    @property
    def over(self) -> bool:
        """Whether nothing has happened since the last run was closed."""
        return self.closed is not None and self.last_at == self.closed_at

    @property
    def failed(self) -> int:
        """How many of the batch's jobs have ended without success."""
        counts = self.scheduler.counts()
        return counts[JobState.FAILED] + counts[JobState.LOST]

    @property
    def begun(self) -> int:
        """How many jobs run, without those that wait on their hosts for a slot."""
        return len(self.scheduler.running) - self.scheduler.sent_ahead

    @property
    def all_succeeded(self) -> bool:
        """Whether every job of the batch has succeeded."""
        return self.scheduler.counts()[JobState.SUCCEEDED] == len(self.jobs)

    def common_failure(self) -> CommonFailure | None:
        """Say what the first jobs of this run have in common, if all failed in the same way.

        Not when all the hosts where they did are quarantined: then those are to blame, as far as is known.
        """
        found = self.canary.verdict(len(self.scheduler.ready_hosts))
        if found is None or all(self.scheduler.is_quarantined(host) for host in found.hosts):
            return None
        return found

    def failures(self) -> Iterator[JobResult | JobGivenUp]:
        """Give the batch's failed jobs with their results, then those given up with the hosts they lost."""
        for job in self.scheduler.jobs_in(JobState.FAILED):
            yield self.results[job]
        for job in self.scheduler.jobs_in(JobState.LOST):
            yield JobGivenUp(job, self.scheduler.lost_with(job))

    def started_at(self, job: int) -> float | None:
        """Give the Unix time at which a job that runs, or is in doubt, was given to its host."""
        return self._started.get(job)

    def rate(self, time: float) -> float | None:
        """Give how many jobs end in a second, of late and in this run; None while that is unknown."""
        return self._pace.rate(time, self._slots())

    def eta(self, time: float) -> float | None:
        """Estimate in how many seconds the last job ends; 0 when all have, None while that is unknown.

        While jobs wait: what is unfinished by the rate of late, but no less than what one job takes. When all
        that are left run, they run side by side and the rate says nothing: then it is what the job that was
        started last still needs if it takes as long as the mean. If it has taken longer, nobody knows; nor
        for how long jobs stand still, or hosts may run nothing. Where the longest jobs come first, those of
        late are no measure for the others: then it is what is expected of each.
        """
        scheduler = self.scheduler
        if scheduler.finished:
            return 0.0
        if self.closed is not None or not self._slots():
            return None
        self.order.look()
        if not self.paused or scheduler.unfinished > len(scheduler.running):
            ran = {job: time - self._started[job] for job in scheduler.running}
            if (expected := self.order.left(ran, self._slots())) is not None:
                return expected
        mean, rate = self._pace.mean_seconds(), self.rate(time)
        if mean is None or rate is None:
            return None
        if scheduler.unfinished > len(scheduler.running):
            return max(scheduler.unfinished / rate, mean)
        if self.paused:
            return None
        youngest = max(self._started[job] for job in scheduler.running)
        left = mean - (time - youngest)
        return left if left > 0 else None

    def _slots(self) -> int:
        return sum(host.slots for host in self.hosts.values() if host.state == "ready")

    @property
    def jobs(self) -> Sequence[int]:
        """The numbers of the batch's jobs, ascending."""
        return self.scheduler.jobs
