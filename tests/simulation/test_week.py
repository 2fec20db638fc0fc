"""A week of a pool whose PCs belong to other people, with the real head and the real rules of the hosts.

Measured and asserted: how much of what the calendar and the people leave is used while work is left; that no
limit is ever exceeded; that nothing runs beyond its window; that no job is lost or succeeds twice; that none
is started which was not expected to end in time. Run with `-s` to see the figures.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from math import exp, inf
from zoneinfo import ZoneInfo

import pytest
from week_world import DAY, HABITS, HOUR, Habits, Observer, Pc, People, Spell, World

from pisa_fab.allowance import EARLY
from pisa_fab.calendar import Window
from pisa_fab.events import AttemptStarted, JobRecord, JobState
from pisa_fab.model import AtEdge, Host, Owner, OwnerPolicy

BERLIN = ZoneInfo("Europe/Berlin")
REACTION = 5.0  # seconds within which jobs stand still for somebody
OWNER = Owner(OwnerPolicy.PAUSE)
LEAST_USED = 0.97  # of what the calendar and the people leave
DAYS = 7
AT_NIGHT, ALL_DAY = {"begin": 22 * 60, "end": 6 * 60 + 30}, {"begin": 0, "end": 0}
WEEKEND = Window(**ALL_DAY, weekdays=frozenset({5, 6}), slots=5)
COURSE = Window(begin=14 * 60, end=18 * 60, weekdays=frozenset({3}), slots=0)
KINDS = (
    (1, (Window(**AT_NIGHT, slots=4), WEEKEND)),
    (1, (Window(**AT_NIGHT, slots=4), WEEKEND, COURSE)),
    (0, (Window(begin=21 * 60, end=7 * 60, slots=5),)),  # at night only
)
AUTUMN, SPRING = "2026-10-19", "2026-03-23"  # Mondays of weeks at whose ends the clocks are set
FILLED = 0.93  # of what is allowed in a week: so much work there is


def hosts_of(seed: int, begin: float, at_edge: AtEdge) -> list[tuple[Host, People]]:
    dice = random.Random(seed)
    found = []
    for number in range(34):
        slots, windows = KINDS[number % len(KINDS)]
        host = Host(f"pc{number + 1:02}", slots, windows=windows, zone=BERLIN, at_edge=at_edge, owner=OWNER)
        found.append((host, People.some(dice, HABITS[number % len(HABITS)], begin, 2 * DAYS)))
    return found


def jobs_of(seed: int, work: float) -> list[tuple[JobRecord, float]]:
    """Make up jobs for so many seconds: minutes to hours by their arguments, some that nobody foresees."""
    dice = random.Random(seed + 1)
    found: list[tuple[JobRecord, float]] = []
    total = 0.0
    while total < work:
        size, method = dice.randint(2, 24), dice.choice(("fast", "slow"))
        seconds = 140.0 * size**1.35 * (1.6 if method == "slow" else 1.0) * exp(dice.gauss(0, 0.08))
        if dice.random() < 0.005:
            method, seconds = "huge", dice.uniform(11, 13) * HOUR  # longer than a night
        elif dice.random() < 0.01:
            seconds *= dice.uniform(2, 5)
        arguments = {"size": str(size), "method": method}
        key = f"{len(found):016x}"
        found.append((JobRecord(key, ("job", str(size), method), arguments), seconds))
        total += seconds
    return found


def without(spell: Spell, holes: list[Spell]) -> Iterator[Spell]:
    """Give what holes leave of a spell."""
    begin, end = spell
    for place in range(max(0, bisect_right(holes, (begin, begin)) - 1), len(holes)):
        if holes[place][0] >= end:
            break
        if holes[place][0] > begin:
            yield begin, holes[place][0]
        begin = max(begin, holes[place][1])
    if begin < end:
        yield begin, end


def steps(pc: Pc, begin: float, end: float) -> list[tuple[float, float, int, int, int, int]]:
    """Cut a time into parts in which nothing changes: from, until, slots, and the three counts."""
    calendar = pc.host.calendar
    edges = {begin, end}
    moment = calendar.change_after(begin)
    while moment is not None and moment < end:
        edges.add(moment)
        moment = calendar.change_after(moment)
    edges.update(time for time, *_ in pc.counts if begin < time < end)
    times = [time for time, *_ in pc.counts]
    found = []
    for first, last in pairwise(sorted(edges)):
        _, running, wanted, given_back = pc.counts[bisect_right(times, first) - 1]
        found.append((first, last, calendar.at(first).slots, running, wanted, given_back))
    return found


class Judge:
    """Looks at every start whether the job was expected to end in time; by walking through the calendar."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ends: dict[tuple[int, int], float] = {}  # as expected at the start, by job and attempt
        self.late: list[AttemptStarted] = []
        self.checked = self.too_long = 0
        world.started = self.started
        self.longest = {name: longest_window(pc.host, world.begin) for name, pc in world.pcs.items()}

    def started(self, start: AttemptStarted) -> None:
        now = self.world.now
        expected = self.world.head.prospects.at_most(start.job)
        running = self.world.head.history.scheduler.running.values()
        others = [(other.job, other.attempt) for other in running if other.host == start.host]
        ends = [self.ends[other] for other in others if other in self.ends]  # not what is started next
        self.ends[start.job, start.attempt] = inf if expected is None else now + expected
        if expected is None:
            return
        self.checked += 1
        host = self.world.pcs[start.host].host
        moment = host.calendar.change_after(now)
        while moment is not None and now + expected > moment - EARLY + 1:
            if sum(end > moment - EARLY for end in ends) >= host.calendar.at(moment).slots:
                if host.at_edge is AtEdge.PAUSE and expected > self.longest[start.host] - EARLY - 1:
                    self.too_long += 1
                else:
                    self.late.append(start)
                return
            moment = host.calendar.change_after(moment)


def longest_window(host: Host, begin: float) -> float:
    """Give the longest time for which the host has a slot in ten days."""
    longest = run = 0.0
    for quarter in range(10 * 96):
        run = run + 900 if host.calendar.at(begin + quarter * 900).slots else 0.0
        longest = max(longest, run)
    return longest


@dataclass
class Figures:
    """What a week came to: slot-seconds.

    Attributes:
        allowed: by the calendar, without the time that the PCs were somebody else's, while work was left in
            that week.
        used: of those by jobs that did not stand still.
        above: used beyond the calendar, to the last second of a job that is being ended.
        closed: likewise where there was no slot at all.
        disturbing: used later than REACTION after somebody came, but by jobs that were told to end there.
        parting: how long those took.
    """

    allowed: float = 0.0
    used: float = 0.0
    above: float = 0.0
    closed: float = 0.0
    disturbing: float = 0.0
    parting: float = 0.0

    def add(self, pc: Pc, begin: float, until: float, end: float) -> None:
        theirs = pc.people.spells(OWNER.load, 0.0, OWNER.quiet)
        forbidden = pc.people.spells(OWNER.load, REACTION, OWNER.quiet)
        for first, last, slots, running, wanted, parting in steps(pc, begin, end):
            self.above += (last - first) * max(0, running - slots)
            self.closed += (last - first) * (running if slots == 0 else 0)
            self.parting += (last - first) * parting
            if wanted:
                self.disturbing += wanted * (last - first - length(without((first, last), forbidden)))
            if first < until:
                free = length(without((first, min(last, until)), theirs))
                self.allowed += free * slots
                self.used += free * min(running, slots)


def length(spells: Iterable[Spell]) -> float:
    return sum(end - begin for begin, end in spells)


@pytest.mark.parametrize(
    ("at_edge", "week", "seed"),
    [
        (AtEdge.PAUSE, AUTUMN, 1),
        (AtEdge.REQUEUE, AUTUMN, 2),
        (AtEdge.FINISH, AUTUMN, 3),
        (AtEdge.PAUSE, SPRING, 4),
        (AtEdge.REQUEUE, SPRING, 5),
    ],
)
def test_a_week_of_a_pool(at_edge: AtEdge, week: str, seed: int) -> None:
    begin = datetime.fromisoformat(week).replace(tzinfo=BERLIN).timestamp()
    hosts = hosts_of(seed, begin, at_edge)
    free = sum(
        host.calendar.seconds(*spell)
        for host, people in hosts
        for spell in without((begin, begin + DAYS * DAY), people.spells(OWNER.load, 0.0, OWNER.quiet))
    )
    jobs = jobs_of(seed, FILLED * free)
    world = World(seed, begin, hosts, jobs)
    judge = Judge(world)
    world.run(until=begin + 2 * DAYS * DAY)

    head = world.head
    scheduler = head.history.scheduler
    assert head.empty_at is not None, scheduler.counts()
    figures = Figures()
    for pc in world.pcs.values():
        figures.add(pc, begin, min(head.empty_at, begin + DAYS * DAY), world.now)
    share = figures.used / figures.allowed
    attempts = sum(scheduler.look(job).attempts for job in range(len(jobs)))
    print(
        f"\nat_edge {at_edge.value}, week of {week}, seed {seed}: {len(jobs)} jobs of "
        f"{sum(world.seconds) / HOUR:.0f} h in {attempts} attempts; "
        f"work left for {(head.empty_at - begin) / DAY:.2f} days, "
        f"done after {(world.now - begin) / DAY:.2f}\n"
        f"  used {share:.2%} of {figures.allowed / HOUR:.0f} slot-hours; slot-seconds above the limit "
        f"{figures.above:.1f}, where closed {figures.closed:.1f}, beside people {figures.disturbing:.1f} "
        f"(of jobs that were given back {figures.parting:.1f})\n"
        f"  {judge.checked} starts judged: {len(judge.late)} late, {judge.too_long} longer than every window"
    )
    assert scheduler.counts()[JobState.SUCCEEDED] == len(jobs)
    assert len(head.succeeded) == len(jobs)
    assert set(head.succeeded.values()) == {1}
    assert figures.disturbing == 0
    assert judge.late == []
    if at_edge is not AtEdge.FINISH:
        assert figures.above == 0
        assert figures.closed == 0
    assert share >= LEAST_USED


@pytest.mark.parametrize("habits", HABITS)
def test_a_look_that_is_left_out_would_have_shown_nothing(habits: Habits) -> None:
    begin = datetime.fromisoformat(AUTUMN).replace(tzinfo=BERLIN).timestamp()
    people = People.some(random.Random(6), replace(habits, visits=5, programs=8), begin, 1)
    host = Host("pc01", owner=OWNER)
    patient, hasty = (Observer(people, host, begin, 0.25) for _ in range(2))
    due = patient.begin
    for second in range(int(DAY)):
        now = patient.begin + second
        if now >= due:
            patient.look(now)
            due = patient.next_look()
        hasty.look(now)
        assert bool(patient.courtesy.busy) == bool(hasty.courtesy.busy), second
