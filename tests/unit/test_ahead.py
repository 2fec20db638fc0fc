"""What is sent ahead of free slots, and taken back: how much, where to, and what never is."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab.ahead import COVER, LONG, MOST, Ahead
from pisa_fab.allowance import Horizon
from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    Ending,
    HostQuarantined,
    HostReady,
    Outcome,
    RunOpened,
)
from pisa_fab.model import Policy
from pisa_fab.scheduler import EDGE, Scheduler
from pisa_fab.slots import Slots
from pisa_fab.supply import RECALL_AGAIN, STUCK

WAY = 0.02  # seconds from a result to the order that follows it


def measured(seconds: float, overhead: float = WAY, successes: int = 1000) -> Ahead:
    ahead = Ahead()
    for _ in range(successes):
        ahead.succeeded("a", seconds, overhead)
    return ahead


# -- how much ----------------------------------------------------------------------------------------


@given(st.floats(0.0, 0.49), st.floats(0.0, 2.0), st.integers(1, 64))
def test_the_work_sent_ahead_covers_the_way_and_no_more_than_a_job_that_is_long(
    seconds: float, overhead: float, slots: int
) -> None:
    ahead = measured(seconds, overhead)
    most = ahead.most("a", slots)
    assert most <= MOST
    assert ahead.work(most, slots) <= min(COVER * min(overhead, 1.0), LONG) + seconds + 1e-9
    if most < MOST and 0.001 < seconds < 0.1 and overhead > 0.001:
        assert ahead.work(most, slots) >= min(COVER * min(overhead, 1.0), LONG) - 1e-6


def test_nothing_is_sent_before_anything_is_known() -> None:
    assert Ahead().most("a", 4) == 0


def test_one_long_job_is_enough_to_send_nothing_for_a_while() -> None:
    ahead = measured(0.01)
    assert ahead.most("a", 2) > 0
    ahead.succeeded("a", 20.0, WAY)
    assert ahead.most("a", 2) == 0
    ends = next(n for n in count() if ahead.succeeded("a", 0.01, WAY) or ahead.most("a", 2))
    assert 50 < ends < 500


def test_a_host_is_trusted_with_more_by_each_success_and_with_half_by_each_failure() -> None:
    ahead = measured(0.001)
    for other in range(3):
        ahead.succeeded("b", 0.001, WAY)
        assert ahead.most("b", 2) == 2 * (other + 1)
    full = ahead.most("a", 2)
    for _ in range(20):
        ahead.failed("a", 0.001)
    assert full > 10
    assert ahead.most("a", 2) == 0


# -- where to ----------------------------------------------------------------------------------------


def test_full_hosts_are_sent_more_in_turn_up_to_what_each_may_have() -> None:
    slots = Slots()
    jobs = count()
    for name, most in (("a", 3), ("b", 1), ("c", 0)):
        slots.ready(name, 1)
        slots.set_ahead(name, most)
    found = []
    while (name := slots.pick("") or slots.pick_ahead()) is not None:
        slots.take(name, next(jobs))
        found.append(name)
    assert found == ["a", "b", "c", "a", "b", "a", "a"]
    assert [slots.by_name[name].waiting for name in "abc"] == [3, 1, 0]


@given(st.lists(st.tuples(st.sampled_from("teslar"), st.integers(0, 4), st.integers(0, 30)), max_size=200))
def test_levels_hold_exactly_the_hosts_that_have_room(steps: list[tuple[str, int, int]]) -> None:
    slots = Slots()
    given_to: dict[int, str] = {}
    for step, number, job in steps:
        name = f"h{number}"
        if step == "r":
            slots.ready(name, job % 4)
        elif step == "l":
            slots.lose(name)
            given_to = {job: host for job, host in given_to.items() if host != name}
        elif step == "a" and name in slots.by_name:
            slots.set_ahead(name, job % 5)
        elif step == "t" and name in slots.by_name and job not in given_to:
            slots.take(name, job)
            given_to[job] = name
        elif step == "e" and job in given_to:
            slots.give_back(given_to.pop(job), job)
        hosts = slots.by_name.values()
        free = {host.name: len(host.jobs) for host in hosts if len(host.jobs) < host.slots}
        full = {
            host.name: len(host.jobs) - host.slots
            for host in hosts
            if host.slots and 0 <= len(host.jobs) - host.slots < host.ahead
        }
        for found, room in ((slots.pick(""), free), (slots.pick_ahead(), full)):
            assert (found is None) == (not room)
            assert found is None or room[found] == min(room.values())
        assert all(0 <= host.waiting <= len(host.jobs) for host in hosts)


# -- the scheduler, in a small world -------------------------------------------------------------------


@dataclass
class World:
    """Hosts that do what they are told, in simulated time; `seconds` says how long a job runs on a host."""

    hosts: dict[str, int]
    jobs: int
    default: float
    special: dict[tuple[int, str] | int | str, float] = field(default_factory=dict)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.scheduler = Scheduler()
        self.agenda: list[tuple[float, int, str, object]] = []
        self.order = count()
        self.queues: dict[str, list[tuple[AttemptStarted, float]]] = {name: [] for name in self.hosts}
        self.running: dict[str, int] = dict.fromkeys(self.hosts, 0)
        self.busy: dict[str, float] = dict.fromkeys(self.hosts, 0.0)  # slot-seconds
        self.waited: dict[int, float] = {}  # seconds on the host where it ran, by job
        self.recalled = 0
        self.wakes_at = 0.0  # when the head looks around next though nothing happens
        self.scheduler.apply(RunOpened("1", "head", 1, range(self.jobs), Policy()), 0.0)
        for name, slots in self.hosts.items():
            self.scheduler.apply(HostReady(name, slots), 0.0)

    def seconds(self, job: int, host: str) -> float:
        return self.special.get((job, host), self.special.get(job, self.special.get(host, self.default)))

    def later(self, seconds: float, host: str, what: object) -> None:
        heappush(self.agenda, (self.now + seconds, next(self.order), host, what))

    def run(self) -> float:
        """Run it all; give how long that took."""
        self.decide()
        while not self.scheduler.finished:
            self.now, _, host, what = heappop(self.agenda)
            if isinstance(what, AttemptStarted):
                self.queues[host].append((what, self.now))
            elif isinstance(what, int):
                self.give_back(host, what)
            elif isinstance(what, AttemptEnded):
                self.scheduler.apply(what, self.now)
                self.decide()
            elif isinstance(what, tuple):
                self.end(host, *what)
            else:
                self.decide()
            self.fill(host)
        return self.now

    def decide(self) -> None:
        for decision in self.scheduler.decide(self.now):
            if isinstance(decision, AttemptStarted):
                self.later(WAY / 2, decision.host, decision)
        for host, most in self.scheduler.recalls(self.now):
            self.later(WAY / 2, host, most)
        wake_at = self.scheduler.wake_at()
        if wake_at is not None and wake_at > self.now and not self.now < self.wakes_at <= wake_at:
            self.wakes_at = wake_at
            self.later(wake_at - self.now, next(iter(self.hosts)), None)

    def fill(self, host: str) -> None:
        while self.queues[host] and self.running[host] < self.hosts[host]:
            start, came = self.queues[host].pop(0)
            self.running[host] += 1
            seconds = self.seconds(start.job, host)
            self.later(seconds, host, (start, seconds, self.now - came))

    def end(self, host: str, start: AttemptStarted, seconds: float, waited: float) -> None:
        self.running[host] -= 1
        self.busy[host] += seconds
        self.waited[start.job] = waited
        outcome = Outcome(Ending.EXITED, 0, seconds=seconds, waited=waited)
        self.later(WAY / 2, host, AttemptEnded(start.job, start.attempt, host, outcome))

    def give_back(self, host: str, most: int) -> None:
        for start, _ in reversed(self.queues[host][-most:]):
            self.recalled += 1
            ended = AttemptEnded(start.job, start.attempt, host, Outcome(Ending.STOPPED))
            self.later(WAY / 2, host, ended)
        del self.queues[host][-most:]


@pytest.mark.parametrize("seconds", [0.002, 0.01, 0.05, 0.2])
def test_slots_do_not_stand_idle_while_orders_travel(seconds: float) -> None:
    hosts = {f"h{n}": 1 + n % 3 for n in range(6)}
    slots = sum(hosts.values())
    world = World(hosts, round(slots * 20 / seconds), seconds)
    took = world.run()
    assert world.busy.keys() == hosts.keys()
    assert sum(world.busy.values()) / (slots * took) > 0.97


def test_a_slow_host_gives_back_what_others_have_slots_for() -> None:
    """One host turns a hundred times as slow when it has been sent many: they do not wait for it."""
    world = World({"fast": 2, "slow": 2}, 4000, 0.004, {(job, "slow"): 0.45 for job in range(3900, 4000)})
    ideal = 4000 * 0.004 / 4
    assert world.run() < ideal + 3 * 0.45
    assert world.recalled


def test_jobs_behind_one_that_turns_out_long_go_elsewhere() -> None:
    world = World({"a": 1, "b": 1}, 2000, 0.004, {1000: 30.0})
    took = world.run()
    assert took < 30.0 + 1000 * 0.004  # the others did not wait for the long one
    assert world.recalled


def test_jobs_that_turn_out_long_do_not_wait_behind_each_other_though_others_wait_elsewhere() -> None:
    hosts = {f"h{n}": 2 for n in range(4)}
    long = range(500, 600)
    world = World(hosts, 600, 0.004, dict.fromkeys(long, 5.0))
    world.run()
    assert 0 < world.recalled <= len(long)  # and not sent there again and again
    assert max(world.waited[job] for job in long) < LONG + STUCK + RECALL_AGAIN + 10 * WAY


def test_long_jobs_are_never_sent_ahead() -> None:
    world = World({"a": 2, "b": 2}, 60, LONG)
    decide = world.scheduler.decide

    def checked(now: float) -> list[object]:
        decisions = decide(now)
        for host in world.hosts:
            given, slots = world.scheduler.load(host)
            assert given <= slots
        return list(decisions)

    world.scheduler.decide = checked  # type: ignore[method-assign, assignment]
    world.run()


def busy_scheduler(jobs: int = 1000, seconds: float = 0.01) -> Scheduler:
    """One host with short jobs behind it, that has room ahead."""
    scheduler = Scheduler()
    scheduler.apply(RunOpened("1", "head", 1, range(jobs), Policy()), 0.0)
    scheduler.apply(HostReady("a", 1), 0.0)
    now = 0.0
    for _ in range(50):
        for start in scheduler.decide(now):
            assert isinstance(start, AttemptStarted)
        job = next(iter(scheduler.running.values()))
        now += seconds + WAY
        outcome = Outcome(Ending.EXITED, 0, seconds=seconds)
        scheduler.apply(AttemptEnded(job.job, job.attempt, "a", outcome), now)
    return scheduler


@pytest.mark.parametrize("left", [5, 20, 50])
def test_half_of_what_is_left_stays_with_the_head(left: int) -> None:
    scheduler = busy_scheduler(jobs=50 + left, seconds=0.0005)
    scheduler.decide(1.0)
    half = (scheduler.sent_ahead + scheduler.waiting) / 2
    assert half - 1 <= scheduler.sent_ahead <= half + 1


def test_a_host_that_is_not_trusted_is_sent_nothing_ahead() -> None:
    scheduler = busy_scheduler()
    assert scheduler.decide(2.0)
    scheduler = busy_scheduler()
    scheduler.apply(HostQuarantined("a", "it fails"), 2.0)
    assert not any(isinstance(decision, AttemptStarted) for decision in scheduler.decide(2.0))
    for job in list(scheduler.running.values()):
        scheduler.apply(AttemptEnded(job.job, job.attempt, "a", Outcome(Ending.STOPPED)), 3.0)
    starts = [decision for decision in scheduler.decide(3.0) if isinstance(decision, AttemptStarted)]
    assert len(starts) <= 1  # the probe


@pytest.mark.parametrize("left", [EDGE / 2, EDGE * 2])
def test_nothing_is_sent_ahead_to_slots_that_are_gone_soon(left: float) -> None:
    scheduler = busy_scheduler()
    scheduler.set_horizon("a", Horizon(((2.0 + left, 0),)))
    assert bool(scheduler.decide(2.0)) == (left > EDGE)


def test_what_waits_on_a_host_is_told_from_what_runs() -> None:
    scheduler = busy_scheduler()
    scheduler.decide(2.0)
    given, slots = scheduler.load("a")
    assert (given, slots) == (1 + scheduler.waiting_at("a"), 1)
    assert scheduler.sent_ahead == scheduler.waiting_at("a") > 0
