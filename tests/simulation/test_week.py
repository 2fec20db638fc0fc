"""A week of a pool whose PCs belong to other people, with the real head and the real rules of the hosts.

Measured and asserted: how much of what the calendar and the people leave is used while work is left; that no
limit is ever exceeded; that nothing runs beyond its window; that no job is lost or succeeds twice; that none
is started which was not expected to end in time. Run with `-s` to see the figures.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from math import exp
from zoneinfo import ZoneInfo

import pytest
from week_world import DAY, HABITS, HOUR, Observer, Pc, People, Spell, World, below, united

from pisa_fab.allowance import EARLY
from pisa_fab.calendar import Window
from pisa_fab.events import AttemptStarted, JobRecord, JobState
from pisa_fab.model import AtEdge, Host, Owner, OwnerPolicy

BERLIN = ZoneInfo("Europe/Berlin")
REACTION = 5.0  # seconds within which jobs stand still for somebody
OWNER = Owner(OwnerPolicy.PAUSE)
LEAST_USED = 0.97
DAYS = 7
AT_NIGHT, ALL_DAY = {"begin": 22 * 60, "end": 6 * 60 + 30}, {"begin": 0, "end": 0}
WEEKEND = Window(**ALL_DAY, weekdays=frozenset({5, 6}), slots=5)
COURSE = Window(begin=14 * 60, end=18 * 60, weekdays=frozenset({3}), slots=0)
KINDS = (
    (1, (Window(**AT_NIGHT, slots=4), WEEKEND)),
    (1, (Window(**AT_NIGHT, slots=4), WEEKEND, COURSE)),
    (0, (Window(begin=21 * 60, end=7 * 60, slots=5),)),  # at night only
)
WEEKS = ("2026-10-19", "2026-03-23")  # Mondays before the clocks are set


def hosts_of(seed: int, begin: float, at_edge: AtEdge) -> list[tuple[Host, People]]:
    dice = random.Random(seed)
    found = []
    for number in range(34):
        slots, windows = KINDS[number % len(KINDS)]
        host = Host(f"pc{number + 1:02}", slots, windows=windows, zone=BERLIN, at_edge=at_edge, owner=OWNER)
        found.append((host, People.some(dice, HABITS[number % len(HABITS)], begin, 2 * DAYS)))
    return found


def jobs_of(seed: int, work: float) -> list[tuple[JobRecord, float]]:
    """Make up jobs for so many seconds: minutes to hours by their arguments, and some that nobody foresees."""
    dice = random.Random(seed + 1)
    found: list[tuple[JobRecord, float]] = []
    total = 0.0
    while total < work:
        size, method = dice.randint(2, 24), dice.choice(("fast", "slow"))
        seconds = 120.0 * size**1.35 * (1.6 if method == "slow" else 1.0) * exp(dice.gauss(0, 0.08))
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


def steps(pc: Pc, begin: float, end: float) -> list[tuple[float, float, int, int, int]]:
    """Cut a time into parts in which nothing changes: from, until, slots, running, not told to end."""
    calendar = pc.host.calendar
    edges = {begin, end}
    moment = calendar.change_after(begin)
    while moment is not None and moment < end:
        edges.add(moment)
        moment = calendar.change_after(moment)
    edges.update(time for time, _, _ in pc.counts if begin < time < end)
    times = [time for time, _, _ in pc.counts]
    found = []
    for first, last in pairwise(sorted(edges)):
        _, running, wanted = pc.counts[bisect_right(times, first) - 1]
        found.append((first, last, calendar.at(first).slots, running, wanted))
    return found


class Judge:
    """Looks at every start whether the job was expected to end in time; by walking through the calendar."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ends: dict[int, float] = {}
        self.late: list[AttemptStarted] = []
        self.checked = self.too_long = 0
        world.started = self.started
        self.longest = {name: longest_window(pc.host, world.begin) for name, pc in world.pcs.items()}

    def started(self, start: AttemptStarted) -> None:
        now = self.world.now
        expected = self.world.head.prospects.at_most(start.job)
        if expected is None:
            self.ends.pop(start.job, None)
            return
        self.ends[start.job] = now + expected
        self.checked += 1
        host = self.world.pcs[start.host].host
        running = self.world.head.history.scheduler.running
        others = [job for job, other in running.items() if other.host == start.host and job != start.job]
        moment = host.calendar.change_after(now)
        while moment is not None and now + expected > moment - EARLY + 1:
            still = sum(self.ends.get(job, float("inf")) > moment - EARLY for job in others)
            if still >= host.calendar.at(moment).slots:
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


@pytest.mark.parametrize("week", WEEKS)
@pytest.mark.parametrize("at_edge", AtEdge)
def test_a_week_of_a_pool(at_edge: AtEdge, week: str, seed: int = 1) -> None:
    begin = datetime.fromisoformat(week).replace(tzinfo=BERLIN).timestamp()
    hosts = hosts_of(seed, begin, at_edge)
    theirs = {host.name: people.spells(OWNER.load, 0.0, OWNER.quiet) for host, people in hosts}
    allowed = sum(
        host.calendar.seconds(*spell)
        for host, _ in hosts
        for spell in without((begin, begin + DAYS * DAY), theirs[host.name])
    )
    world = World(seed, begin, hosts, jobs_of(seed, 0.95 * allowed))
    judge = Judge(world)
    world.run(until=begin + 2 * DAYS * DAY)

    head = world.head
    assert head.empty_at is not None, head.history.scheduler.counts()
    used = allowed = above = after = disturbed = finished_above = 0.0
    for name, pc in world.pcs.items():
        forbidden = pc.people.spells(OWNER.load, REACTION, OWNER.quiet)
        for first, last, slots, running, wanted in steps(pc, begin, world.now):
            above += (last - first) * max(0, running - slots)
            after += (last - first) * (wanted if slots == 0 else 0)
            if wanted:
                free = sum(b - a for a, b in without((first, last), forbidden))
                disturbed += last - first - free
            if first < head.empty_at:
                free = sum(b - a for a, b in without((first, min(last, head.empty_at)), theirs[name]))
                allowed += free * slots
                used += free * min(running, slots)
    share = used / allowed
    work = sum(world.seconds)
    print(
        f"\nat_edge {at_edge.value}, week of {week}, seed {seed}: {len(world.seconds)} jobs, "
        f"{work / HOUR:.0f} h; work left for {(head.empty_at - begin) / DAY:.2f} days, "
        f"all done after {(world.now - begin) / DAY:.2f}\n"
        f"  used {share:.2%} of {allowed / HOUR:.0f} slot-hours; slot-seconds above the limit {above:.1f}, "
        f"with no slot {after:.1f}, beside people {disturbed:.1f}\n"
        f"  starts {sum(world.head.history.scheduler.look(job).attempts for job in range(len(world.seconds)))}, "
        f"{judge.checked} judged, {len(judge.late)} late, {judge.too_long} longer than every window"
    )
    counts = head.history.scheduler.counts()
    assert counts[JobState.SUCCEEDED] == len(world.seconds)
    assert set(head.succeeded.values()) == {1}
    assert len(head.succeeded) == len(world.seconds)
    assert disturbed == 0
    assert judge.late == []
    if at_edge is not AtEdge.FINISH:
        assert above == 0
        assert after == 0
    assert share >= LEAST_USED
