"""A whole pool in simulated time: hosts die, go silent and come back, messages come late, twice or never.

The workers here keep the real worker's contract, and no more: they run what they are told until they are
done or have heard nothing for a lease, let what was sent ahead wait for a slot, and give it back when that is
wanted, repeat a result until it is acknowledged, and until then can be taken up again with all that they
hold. The head is the real scheduler, history and journal format. A user cancels jobs now and then, and asks
for them again. Whether attempts overlap, and whether what was cancelled still runs, is seen from what the
workers did, not from our events. Where second attempts are allowed, those of jobs that had one may overlap,
and nothing else may.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count, pairwise

import pytest

from pisa_fab.events import (
    Accept,
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
    Ending,
    Event,
    HostLost,
    HostReady,
    JobsCancelled,
    JobsReopened,
    JobState,
    Outcome,
    RunOpened,
    SecondStarted,
    SlotsChanged,
    Stop,
)
from pisa_fab.history import History
from pisa_fab.journal_format import decode, encode
from pisa_fab.model import Policy

JOBS = 300
SHORT_JOBS = 3000  # where they are short enough to be sent ahead
HOSTS = [f"pc{number:02d}" for number in range(12)]
POLICY = Policy(retries=1000, max_losses=1000, lease=30.0, margin=3.0)
LONGEST = 15.0  # seconds that a job should take at the most, where second attempts are allowed
PEACE = 12.0  # seconds between two accidents, in the mean; where jobs are short, less
WISHES = 40.0  # seconds between two wishes of the user, in the mean; the same
HASTE = 40.0  # by how many times
QUIET = 3000.0  # seconds (the same) after which nothing goes wrong any more, so that the run ends
STEPS = 200_000

STOPPED = Outcome(Ending.STOPPED, signal=15)


@dataclass
class Worker:
    """One worker process: it outlives its connection, and its head, by a lease at the most."""

    host: str
    slots: int
    heard_at: float
    alive: bool = True
    cut: bool = False  # it runs, but nothing gets through
    running: dict[tuple[int, int], float] = field(default_factory=dict)  # attempt -> when it began
    queue: dict[tuple[int, int], float] = field(default_factory=dict)  # attempt -> when it was given
    waited: dict[tuple[int, int], float] = field(default_factory=dict)  # by those that run
    unacknowledged: dict[tuple[int, int], Outcome] = field(default_factory=dict)


class Simulation:
    """The world: a heap of things to come, workers, and a head that may be replaced."""

    def __init__(self, seed: int, *, short: bool, policy: Policy = POLICY) -> None:
        self.random = random.Random(seed)
        self.policy = policy
        self.jobs = SHORT_JOBS if short else JOBS
        self.haste = HASTE if short else 1.0
        self.most_waiting = 0  # on hosts, at once
        self.doubled: set[int] = set()  # jobs that ever had a second attempt
        self.now = 0.0
        self.wakes_at = 0.0  # when the head looks around next though nothing happens
        self.order = count()
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.journal: list[str] = []
        self.history = History()
        self.generation = 0  # of the head; messages to an earlier one are lost
        self.workers: dict[str, Worker] = {}  # those that the head talks to
        self.latest: dict[str, Worker] = {}  # the last one of each host; it may live on unheard
        self.everyone: list[Worker] = []
        self.intervals: dict[int, list[tuple[float, float]]] = defaultdict(list)  # when a job really ran
        self.succeeded: list[int] = []
        self.cancelled: set[int] = set()
        self.wishes: set[str] = set()
        self.accidents: set[str] = set()
        self.taken_up = 0  # workers
        self.adopted = 0  # attempts that they were running

    # -- time ----------------------------------------------------------------------------------------

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        heappush(self.agenda, (self.now + seconds, next(self.order), action))

    def run(self) -> None:
        self.open_run()
        self.later(self.random.expovariate(self.haste / PEACE), self.accident)
        self.later(self.random.expovariate(self.haste / WISHES), self.wish)
        for _ in range(STEPS):
            if self.history.scheduler.finished:
                return
            self.now, _, action = heappop(self.agenda)
            action()
            self.decide()
            self.check()
        raise AssertionError(f"not finished at {self.now:.0f} s: {self.history.scheduler.counts()}")

    # -- the head ------------------------------------------------------------------------------------

    def happen(self, event: Event) -> None:
        self.journal.append(encode(self.now, event))
        for action in self.history.apply(self.now, event, self.now):
            if isinstance(action, Accept) and action.publish:
                assert isinstance(event, AttemptEnded)
                assert event.outcome.succeeded
                self.succeeded.append(action.job)
            if isinstance(action, Stop):
                self.send_stop(action.host, (action.job, action.attempt))
            else:
                self.send_acknowledgement(action.host, (action.job, action.attempt))

    def open_run(self) -> None:
        """A head comes up: it replays the journal, and every host gets a worker, or its own again."""
        self.generation += 1
        self.workers = {}
        self.history = History()
        for line in self.journal:
            found = decode(line)
            assert found is not None
            self.history.apply(*found)
        self.happen(RunOpened("1", "head", self.generation, tuple(range(self.jobs)), self.policy))
        self.history.scheduler.longest = lambda job: LONGEST
        for host in HOSTS:
            self.connect_later(host)

    def decide(self) -> None:
        decisions = self.history.decide(self.now, self.now)
        for decision in decisions:
            self.journal.append(encode(self.now, decision))
            if isinstance(decision, AttemptStarted):
                assert decision.job not in self.cancelled
                self.order_start(self.workers[decision.host], decision)
            elif isinstance(decision, SecondStarted):
                self.doubled.add(decision.job)
                self.order_start(self.workers[decision.host], decision)
            elif isinstance(decision, JobsCancelled):
                self.come_to_rest(decision.jobs)
        for host, most in self.history.scheduler.recalls(self.now):
            self.recall(self.workers[host], most)
        wake_at = self.history.scheduler.wake_at()
        if wake_at is not None:
            assert wake_at > self.now
            if not self.now < self.wakes_at <= wake_at:
                self.wakes_at = wake_at
                self.later(wake_at - self.now, lambda: None)

    def connect_later(self, host: str) -> None:
        generation = self.generation

        def connect() -> None:
            if generation == self.generation and host not in self.workers:
                worker = self.latest.get(host)
                if worker is not None and worker.alive:
                    self.take_up(worker)
                else:
                    worker = Worker(host, self.random.randint(1, 4), self.now)
                    self.everyone.append(worker)
                    self.workers[host] = self.latest[host] = worker
                    self.happen(HostReady(host, worker.slots, machine=host))
                    self.lookup(worker)

        self.later(self.random.uniform(0.5, self.random.choice([POLICY.lease / 3, 90.0])), connect)

    def take_up(self, worker: Worker) -> None:
        """A worker is found again by its host's next connection, maybe that of another head."""
        self.taken_up += 1
        self.adopted += len(worker.running)
        worker.cut, worker.heard_at = False, self.now
        self.workers[worker.host] = worker
        holds = (*worker.running, *worker.queue, *worker.unacknowledged)
        self.happen(HostReady(worker.host, worker.slots, machine=worker.host, resumed=True, holds=holds))

    def lose(self, worker: Worker, *, ended: bool) -> None:
        """The head notices, or decides, that a host is gone; it tries to come back with a new worker."""
        if self.workers.get(worker.host) is worker:
            del self.workers[worker.host]
            self.happen(HostLost(worker.host, "gone", worker_ended=ended))
            self.connect_later(worker.host)

    # -- messages ------------------------------------------------------------------------------------

    def delay(self) -> float:
        return self.random.choice([0.001, 0.1, 2.0])

    def order_start(self, worker: Worker, start: AttemptStarted | SecondStarted) -> None:
        attempt = (start.job, start.attempt)

        def begin() -> None:
            if worker.alive and not worker.cut:
                worker.heard_at = self.now
                worker.queue[attempt] = self.now
                self.fill(worker)

        # Orders of one connection keep their order, and come before results that answer them.
        self.later(0.001, begin)

    def recall(self, worker: Worker, most: int) -> None:
        def give_back() -> None:
            for attempt in list(reversed(worker.queue))[:most]:
                self.end(worker, attempt, STOPPED)

        if not worker.cut:
            self.later(self.delay(), give_back)

    def send_acknowledgement(self, host: str, attempt: tuple[int, int]) -> None:
        worker = self.workers.get(host)
        if worker is not None and not worker.cut and self.random.random() < 0.9:
            self.later(self.delay(), lambda: worker.unacknowledged.pop(attempt, None) and None)

    def send_stop(self, host: str, attempt: tuple[int, int]) -> None:
        worker = self.workers[host]
        if not worker.cut:  # else it is told when it is taken up
            self.later(self.delay(), lambda: self.end(worker, attempt, STOPPED))

    def report(self, worker: Worker, attempt: tuple[int, int]) -> None:
        """Send a result again and again until it is acknowledged, or nobody is left to do so."""
        if not worker.alive or attempt not in worker.unacknowledged:
            return
        outcome = worker.unacknowledged[attempt]
        generation = self.generation
        if not worker.cut:
            for _ in range(self.random.choice([1, 1, 2])):
                self.later(self.delay(), lambda: self.receive(generation, worker, attempt, outcome))
        self.later(5.0, lambda: self.report(worker, attempt))

    def receive(self, generation: int, worker: Worker, attempt: tuple[int, int], outcome: Outcome) -> None:
        if generation == self.generation:
            self.happen(AttemptEnded(*attempt, worker.host, outcome))

    # -- workers -------------------------------------------------------------------------------------

    def fill(self, worker: Worker) -> None:
        while worker.queue and len(worker.running) < worker.slots:
            attempt = next(iter(worker.queue))
            worker.waited[attempt] = self.now - worker.queue.pop(attempt)
            worker.running[attempt] = self.now
            self.later_end(worker, attempt)

    def later_end(self, worker: Worker, attempt: tuple[int, int]) -> None:
        if self.haste > 1:  # short ones, but some of which nobody knows that they are not
            seconds = self.random.uniform(0.0, 0.4) if self.random.random() > 0.01 else 5.0
        else:
            seconds = self.random.expovariate(1 / 20)
        self.later(seconds, lambda: self.end(worker, attempt))

    def end(self, worker: Worker, attempt: tuple[int, int], outcome: Outcome | None = None) -> None:
        if not worker.alive or attempt not in [*worker.running, *worker.queue]:
            return
        if worker.queue.pop(attempt, None) is None:
            began = worker.running.pop(attempt)
            self.intervals[attempt[0]].append((began, self.now))
            outcome = outcome or self.outcome(self.now - began, worker.waited.pop(attempt))
        worker.unacknowledged[attempt] = outcome or STOPPED
        self.report(worker, attempt)
        self.fill(worker)

    def outcome(self, seconds: float, waited: float) -> Outcome:
        chance = self.random.random()
        if chance >= 0.95:
            return STOPPED
        return Outcome(Ending.EXITED, exit_code=int(chance >= 0.8), seconds=seconds, waited=waited)

    def lookup(self, worker: Worker) -> None:
        """The heartbeat: a worker that hears nothing for a lease ends its jobs and leaves."""
        if not worker.alive:
            return
        if self.workers.get(worker.host) is worker and not worker.cut:
            worker.heard_at = self.now
        elif self.now >= worker.heard_at + POLICY.lease:
            self.die(worker)
            return
        self.later(min(5.0, worker.heard_at + POLICY.lease - self.now), lambda: self.lookup(worker))

    def die(self, worker: Worker) -> None:
        """A worker ends, and its jobs with it."""
        worker.alive = False
        for (job, _), began in worker.running.items():
            self.intervals[job].append((began, self.now))
        worker.running.clear()
        worker.queue.clear()

    # -- accidents -----------------------------------------------------------------------------------

    def accident(self) -> None:
        if self.now > QUIET / self.haste:
            return
        kind = self.random.choice(["crash", "power", "silence", "hiccup", "slots", "head"])
        self.later(self.random.expovariate(self.haste / PEACE), self.accident)
        if kind == "head":
            if self.random.random() < 0.3:
                self.accidents.add(kind)
                self.open_run()
            return
        if not self.workers:
            return
        worker = self.random.choice([self.workers[host] for host in sorted(self.workers)])
        self.accidents.add(kind)
        if kind == "crash":  # the worker is seen to end; what it had said before is on its way
            self.die(worker)
            self.later(0.0, lambda: self.lose(worker, ended=True))
        elif kind == "power":  # it ends, and nobody can know
            self.die(worker)
            self.later(self.random.uniform(0.0, POLICY.lease), lambda: self.lose(worker, ended=False))
        elif kind in ("silence", "hiccup"):
            worker.cut = True
            self.later(self.random.uniform(0.0, POLICY.lease), lambda: self.lose(worker, ended=False))
            if kind == "hiccup":  # the old worker is heard again, maybe after it was given up
                self.later(self.random.uniform(1.0, POLICY.lease), lambda: setattr(worker, "cut", False))
        else:
            worker.slots = max(worker.slots, slots := self.random.randint(0, 4))
            self.happen(SlotsChanged(worker.host, slots))
            self.later(30.0, lambda: self.restore(worker))

    def restore(self, worker: Worker) -> None:
        if self.workers.get(worker.host) is worker:
            self.happen(SlotsChanged(worker.host, worker.slots))

    # -- the user ------------------------------------------------------------------------------------

    def wish(self) -> None:
        """Somebody wants some jobs to be cancelled, or those that are to be run after all."""
        if self.now > QUIET / self.haste:
            return
        self.later(self.random.expovariate(self.haste / WISHES), self.wish)
        if self.cancelled and self.random.random() < 0.3:
            self.wishes.add("again")
            self.happen(JobsReopened(tuple(sorted(self.cancelled))))
            self.cancelled.clear()
        else:
            self.wishes.add("cancel")
            self.happen(CancelAsked(tuple(sorted(self.random.sample(range(self.jobs), 8))), "me"))

    def come_to_rest(self, jobs: Sequence[int]) -> None:
        for job in jobs:
            assert job not in self.cancelled
            assert job not in self.succeeded
            running = [worker.host for worker in self.everyone for other, _ in worker.running if other == job]
            # A host that was lost with one of two ends it by its lease; the job has not waited for that.
            assert not running or job in self.doubled, f"job {job} is cancelled, and runs on {running}"
        self.cancelled.update(jobs)

    # -- what must hold ------------------------------------------------------------------------------

    def check(self) -> None:
        scheduler, hosts = self.history.scheduler, self.history.hosts
        counts = scheduler.counts()
        assert sum(counts.values()) == self.jobs
        assert counts[JobState.RUNNING] == len(scheduler.running)
        assert counts[JobState.IN_DOUBT] == len(scheduler.doubts)
        assert counts[JobState.SUCCEEDED] == len(self.succeeded) == len(set(self.succeeded))
        assert counts[JobState.CANCELLED] == len(self.cancelled)
        assert scheduler.ready_hosts == self.workers.keys()
        free = waiting = 0
        for host in self.workers:
            running, slots = scheduler.load(host)
            assert running == hosts[host].running
            free += max(0, slots - running)
            waiting += max(0, running - slots)
        self.most_waiting = max(self.most_waiting, waiting)
        assert not (free and counts[JobState.WAITING])

    def check_end(self) -> None:
        scheduler = self.history.scheduler
        assert sorted([*self.succeeded, *self.cancelled]) == list(range(self.jobs))
        assert self.history.results.keys() >= set(self.succeeded)
        assert self.cancelled == set(scheduler.jobs_in(JobState.CANCELLED))
        assert not any(scheduler.is_unwanted(job) for job in range(self.jobs))
        for job, intervals in self.intervals.items():
            intervals.sort()
            for (_, ended), (began, _) in pairwise(intervals):
                assert ended <= began or job in self.doubled, f"two attempts of job {job} overlapped"
        replay = History()
        for line in self.journal:
            found = decode(line)
            assert found is not None
            replay.apply(*found)
        assert replay.scheduler.snapshot() == self.history.scheduler.snapshot()
        assert replay.hosts == self.history.hosts
        assert [r.attempt for r in replay.results.values()] == [
            r.attempt for r in self.history.results.values()
        ]


@pytest.mark.parametrize("seed", range(25))
def test_every_job_succeeds_exactly_once_or_is_cancelled_whatever_dies(seed: int) -> None:
    simulation = simulated(seed, short=False)
    assert simulation.adopted


@pytest.mark.parametrize("seed", range(8))
def test_so_does_what_is_sent_ahead(seed: int) -> None:
    simulation = simulated(seed, short=True)
    assert simulation.most_waiting > 2


def simulated(seed: int, *, short: bool) -> Simulation:
    simulation = Simulation(seed, short=short)
    simulation.run()
    simulation.check_end()
    assert simulation.accidents  # or the seed showed nothing
    assert "cancel" in simulation.wishes
    assert simulation.taken_up
    return simulation


@pytest.mark.parametrize("seed", range(20))
def test_every_job_succeeds_exactly_once_with_second_attempts_too(seed: int) -> None:
    simulation = Simulation(seed, short=False, policy=replace(POLICY, speculate=2.0))
    simulation.run()
    simulation.check_end()
    assert simulation.doubled
