"""A pool of PCs for a simulated week: people, processes, messages, and one head.

What decides is real: on the head `history.History` with the scheduler and the forecast, `Moderation` and
`Prospects`; on the hosts `bounds.Bounds`, `bounds.measures` and `presence.Courtesy`. What is modelled is what
carries it out, in the way of `head.Head` and `worker.Worker`: seconds of work, messages that take a moment,
and people, of whom the hosts see what `desk` and `Processors` would show them.

A worker looks once a second. Here a look is left out where it could show nothing new, so that a week is
simulated in seconds; `test_week` shows that this makes no difference. Times are Unix seconds.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import ceil, inf
from pathlib import Path
from typing import Any

from pisa_fab.bounds import REQUEUE, Bounds, measures
from pisa_fab.events import (
    Accept,
    AttemptEnded,
    AttemptStarted,
    Ending,
    Event,
    HostReady,
    JobRecord,
    JobsAdded,
    Outcome,
    RunOpened,
)
from pisa_fab.history import History
from pisa_fab.model import Batch, Cluster, Host, Policy
from pisa_fab.moderation import Moderation
from pisa_fab.presence import Courtesy
from pisa_fab.prospects import Prospects

HOUR = 3600.0
DAY = 86400.0
AVERAGED = 3.0  # seconds over which a worker averages the load of others
SETTLED = 6.0  # seconds after which a load that has changed is seen in full
SLOWEST_MESSAGE = 0.3  # seconds
TURN = 0.05  # seconds for which a head collects news
LOOK_EVERY = 1.0  # seconds between two looks of a head at its clock
SLOWEST_END = 3.0  # seconds that a job takes to end when it is asked to
EPOCH = 1_000_000.0  # by which the monotonic clock of the head differs

Message = dict[str, Any]
Spell = tuple[float, float]  # from when until when


# -- people ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Habits:
    """How a PC is used: visits and programs a day, in which hours people come, how long they stay."""

    visits: float
    hours: Spell
    stay: float
    programs: float
    at_weekends: float = 0.2  # of what is there on other days


HABITS = (
    Habits(visits=6, hours=(8, 18), stay=0.7 * HOUR, programs=3),  # in the middle of the room
    Habits(visits=2, hours=(9, 17), stay=1.5 * HOUR, programs=2),  # in the corner
    Habits(visits=3, hours=(17, 26), stay=1.0 * HOUR, programs=2, at_weekends=1.0),  # where one works late
    Habits(visits=0.3, hours=(8, 20), stay=0.3 * HOUR, programs=8, at_weekends=1.0),  # reached over SSH
    Habits(visits=0.1, hours=(8, 20), stay=0.2 * HOUR, programs=0),  # that nobody likes
)


@dataclass
class People:
    """Everything that people do at one PC, in order.

    Attributes:
        presses: when somebody presses a key, at the console or over SSH.
        programs: from when until when programs of theirs use how many cores; no two at once.
        old: logins that a look finds for the first time: when, and how long nothing was typed there.
    """

    presses: list[float] = field(default_factory=list)
    programs: list[tuple[float, float, float]] = field(default_factory=list)
    old: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def some(cls, dice: random.Random, habits: Habits, begin: float, days: int) -> People:
        """Make up so many days."""
        people = cls()
        programs = []
        for day in range(days):
            midnight = begin + day * DAY
            often = habits.at_weekends if day % 7 > 4 else 1.0
            for _ in range(several(dice, habits.visits * often)):
                people.visit(dice, midnight + dice.uniform(*habits.hours) * HOUR, habits.stay)
            for _ in range(several(dice, habits.programs * often)):
                programs.append((midnight + dice.uniform(*habits.hours) * HOUR, dice.choice(KINDS)))
            for _ in range(several(dice, 1.0)):  # one second is no load, nor is what uses little
                programs.append((midnight + dice.uniform(0, 24) * HOUR, dice.choice(HARMLESS)))
            if dice.random() < 0.2:
                people.old.append((midnight + dice.uniform(1, 24) * HOUR, dice.uniform(1, 9) * HOUR))
        people.presses.sort()
        for start, (shortest, longest, cores) in sorted(programs):
            if not people.programs or start > people.programs[-1][1] + 2 * SETTLED:
                length = shortest * (longest / shortest) ** dice.random()
                people.programs.append((start, start + length, cores))
        return people

    def visit(self, dice: random.Random, start: float, stay: float) -> None:
        """Let somebody type for a while, with pauses in which they read."""
        until = start + dice.expovariate(1 / stay)
        while start < until:
            self.presses.append(start)
            start += 0.2 + dice.expovariate(1 / (40 if dice.random() < 0.97 else 600))

    def spells(self, limit: float, reaction: float, quiet: float) -> list[Spell]:
        """Give when the PC is theirs: from `reaction` after they did something until `quiet` after it."""
        found = [(press + reaction, press + quiet) for press in self.presses]
        for start, end, cores in self.programs:
            if cores > limit and end > start + 1:
                found.append((start + reaction, end + quiet))
        return united(found)


KINDS = ((10.0, 600.0, 1.0), (60.0, 2 * HOUR, 2.0), (20.0, HOUR, 4.0))
HARMLESS = ((0.5, 0.8, 1.0), (HOUR, 5 * HOUR, 0.25))


def several(dice: random.Random, mean: float) -> int:
    """Give a whole number that is `mean` in the mean."""
    return sum(dice.random() < mean / 10 for _ in range(10))


def united(spells: Sequence[Spell]) -> list[Spell]:
    """Join what overlaps."""
    found: list[Spell] = []
    for begin, end in sorted(spells):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


class Observer:
    """What a worker sees of people, look by look; `tick` is the time of its looks within a second.

    Attributes:
        courtesy: the real policy.
    """

    def __init__(self, people: People, host: Host, begin: float, tick: float) -> None:
        self.people = people
        self.begin = begin + tick
        self.courtesy = Courtesy(host.owner.idle, host.owner.quiet, host.owner.load)
        self.seen = 0  # key presses
        self.found = 0  # old logins
        self.looked_at = -inf
        self.starts = [start for start, _, _ in people.programs]
        self.news = sorted(set(self._news()))

    def _news(self) -> Iterator[float]:
        """Give the looks that show something other than those before them."""
        for moment in (*self.people.presses, *(moment for moment, _ in self.people.old)):
            yield self.look_after(moment)
        for start, end, _ in self.people.programs:
            for moment in (start, end):
                first = self.look_after(moment - 1)
                yield from (first + second for second in range(int(SETTLED) + 2))

    def look_after(self, moment: float) -> float:
        """Give the time of the first look at a moment or later."""
        return self.begin + ceil(moment - self.begin)

    def look(self, now: float) -> None:
        """Look."""
        seen, age = bisect_right(self.people.presses, now), None
        if seen > self.seen:
            self.seen, age = seen, 0.0
        elif self.found < len(self.people.old) and self.people.old[self.found][0] <= now:
            age = self.people.old[self.found][1]
            self.found += 1
        self.looked_at = now
        self.courtesy.look(now - self.begin, age, "somebody is active", self.load(now), 0.0)

    def load(self, now: float) -> float:
        """Give the cores that others have used in the last seconds."""
        place = bisect_right(self.starts, now) - 1
        if place < 0:
            return 0.0
        start, end, cores = self.people.programs[place]
        return max(0.0, min(now, end) - max(now - AVERAGED, start)) / AVERAGED * cores

    def next_look(self) -> float:
        """Give the next look that may show something new or come to another conclusion."""
        place = bisect_right(self.news, self.looked_at)
        news = self.news[place] if place < len(self.news) else inf
        free_in = self.courtesy.free_in
        if not self.courtesy.busy or free_in is None:
            return news
        return min(news, max(self.look_after(self.looked_at + free_in), self.looked_at + 1))


# -- hosts -----------------------------------------------------------------------------------------------


@dataclass
class Process:
    """An attempt on its host. `left` is the work that is left at the time `since`, while it runs."""

    job: int
    attempt: int
    began: float
    left: float
    since: float
    paused_at: float | None = None
    paused: float = 0.0
    is_ending: bool = False
    is_given_back: bool = False  # ended because somebody stays at the PC
    version: int = 0  # of what is planned for it


class Pc:
    """A host with its worker.

    Attributes:
        counts: whenever that changes: the time; processes that run, without the last ones; how many of them
            nobody has told to end; processes that were told to end because somebody stayed at the PC.
    """

    def __init__(self, world: World, host: Host, people: People, tick: float) -> None:
        self.world = world
        self.host = host
        self.people = people
        self.observer = Observer(people, host, world.begin, tick)
        self.bounds = Bounds(0.0, [(0.0, 0, 19)], "pause")
        self.processes: list[Process] = []
        self.counts: list[tuple[float, int, int, int]] = [(world.begin, 0, 0, 0)]
        self.busy_since: float | None = None
        self.look_at = inf
        self.change_at = inf
        self.told: tuple[object, ...] = ()
        self.inbox_at = self.outbox_at = 0.0  # when the last message arrives, either way

    def handle(self, message: Message) -> None:
        now = self.world.now
        if message["op"] == "bounds":
            self.bounds = Bounds(now, message["phases"], message["at_edge"])
            self.regulate()
        elif self.observer.courtesy.busy or not self.bounds.at(now)[0]:
            outcome = Outcome(Ending.STOPPED)
            self.say(
                {"op": "ended", "job": message["job"], "attempt": message["attempt"], "outcome": outcome}
            )
        else:
            job = message["job"]
            process = Process(job, message["attempt"], now, self.world.seconds[job], now)
            self.processes.append(process)
            self.plan_end(process, process.left)
            self.plan_look(self.observer.look_after(now + 1e-6))
            self.note()

    def look(self) -> None:
        now = self.world.now
        if now != self.look_at:
            return
        self.look_at = inf
        self.observer.look(now)
        self.busy_since = (self.busy_since or now) if self.observer.courtesy.busy else None
        self.regulate()
        self.plan_look(self.observer.next_look())
        if self.busy_since is not None and self.processes:
            give_back = self.observer.look_after(self.busy_since + self.host.owner.give_back)
            self.plan_look(max(give_back, now + 1))

    def plan_look(self, moment: float) -> None:
        if moment < self.look_at:
            self.look_at = moment
            self.world.at(moment, self.look)

    def regulate(self) -> None:
        """As the worker does."""
        now = self.world.now
        processes = [process for process in self.processes if not process.is_ending]
        stand = [process.paused_at is not None for process in processes]
        owner = self.host.owner.policy.value
        if self.busy_since is not None and now >= self.busy_since + self.host.owner.give_back:
            owner = REQUEUE
        busy = bool(self.observer.courtesy.busy)
        steps = measures(stand, self.bounds.at(now)[0], self.bounds.at_edge, busy=busy, owner=owner)
        for place in steps.end:
            self.end(processes[place])
        for place in steps.go_on:
            self.go_on(processes[place])
        for place in steps.pause:
            self.pause(processes[place])
        self.note()
        told = self.state()
        if told != self.told:
            self.told = told
            self.say({"op": "state", **self.words()})
        change = self.bounds.change_after(now)
        if change is not None and change != self.change_at:
            self.change_at = change
            self.world.at(change, self.regulate)

    def state(self) -> tuple[object, ...]:
        ids = [(process.job, process.attempt) for process in self.processes if process.paused_at is not None]
        return (bool(self.observer.courtesy.busy), *ids)

    def words(self) -> Message:
        return {"busy": self.observer.courtesy.busy, "full": "", "paused": list(self.state()[1:])}

    def pause(self, process: Process) -> None:
        now = self.world.now
        if process.paused_at is None:
            process.left -= now - process.since
            process.paused_at = now
            process.version += 1

    def go_on(self, process: Process) -> None:
        now = self.world.now
        if process.paused_at is not None:
            process.paused += now - process.paused_at
            process.paused_at, process.since = None, now
            self.plan_end(process, process.left)

    def end(self, process: Process) -> None:
        self.go_on(process)
        process.is_ending = True
        process.is_given_back = bool(self.observer.courtesy.busy)
        self.plan_end(process, self.world.dice.uniform(0.01, SLOWEST_END))

    def plan_end(self, process: Process, seconds: float) -> None:
        process.version += 1
        version = process.version
        self.world.at(self.world.now + max(0.0, seconds), lambda: self.ended(process, version))

    def ended(self, process: Process, version: int) -> None:
        if process.version != version:
            return
        now = self.world.now
        self.processes.remove(process)
        self.note()
        seconds = now - process.began
        outcome = Outcome(Ending.EXITED, 0, seconds=seconds, paused=process.paused)
        if process.is_ending:
            outcome = Outcome(Ending.STOPPED, signal=15, seconds=seconds, paused=process.paused)
        self.say({"op": "ended", "job": process.job, "attempt": process.attempt, "outcome": outcome})
        self.plan_look(self.observer.look_after(now + 1e-6))

    def say(self, message: Message) -> None:
        self.outbox_at = max(self.outbox_at, self.world.now + self.world.delay())
        self.world.at(self.outbox_at, lambda: self.world.head.hear(self.host.name, message))

    def note(self) -> None:
        awake = [process for process in self.processes if process.paused_at is None]
        given_back = sum(process.is_given_back for process in awake)
        entry = len(awake) - given_back, sum(not process.is_ending for process in awake), given_back
        if self.counts[-1][1:] != entry:
            self.counts.append((self.world.now, *entry))


# -- the head --------------------------------------------------------------------------------------------


class Head:
    """One run of one batch.

    Attributes:
        succeeded: how often each job did.
        empty_at: when nothing waited for the first time.
    """

    def __init__(self, world: World, cluster: Cluster, records: Sequence[JobRecord]) -> None:
        self.world = world
        self.history = History()
        self.succeeded: dict[int, int] = defaultdict(int)
        self.empty_at: float | None = None
        self.turns_at = inf
        self.look_at = inf
        scheduler = self.history.scheduler
        self.record(JobsAdded(0, records))
        self.record(RunOpened("1", "head", 1, range(len(records)), Policy()))
        self.moderation = Moderation(
            scheduler, 19, self.record, self.send, lambda text: None, lambda: self.world.now
        )
        here = Path("/")
        # The plan is asked for nothing but numbers, which are known here.
        batch = Batch(here, here, None, here, here, plan=None)  # type: ignore[arg-type]
        zone = cluster.hosts[0].zone
        self.prospects = Prospects(self.history, batch, cluster, zone, world.now)

    def join(self, host: Host) -> None:
        """Take in a host whose worker is ready."""
        self.moderation.take(host, self.monotonic())
        state = self.world.pcs[host.name].words()
        self.record(HostReady(host.name, self.moderation.came(host.name, state)))
        self.moderation.settle(host.name, state)
        self.send(host.name, {"op": "bounds", **self.moderation.bounds(host)})
        self.plan_turn()

    def monotonic(self) -> float:
        return self.world.now - EPOCH

    def record(self, event: Event) -> None:
        for action in self.history.apply(self.world.now, event, self.world.now - EPOCH):
            if isinstance(action, Accept) and action.publish:
                self.succeeded[action.job] += 1

    def hear(self, name: str, message: Message) -> None:
        if message["op"] == "state":
            self.moderation.settle(name, message)
        else:
            self.record(AttemptEnded(message["job"], message["attempt"], name, message["outcome"]))
        self.plan_turn()

    def plan_turn(self) -> None:
        if self.turns_at == inf:
            self.turns_at = self.world.now + TURN
            self.world.at(self.turns_at, self.turn)

    def turn(self) -> None:
        """Do what is due, and decide."""
        self.turns_at = inf
        self.moderation.look(self.monotonic())
        for decision in self.history.decide(self.world.now, self.monotonic()):
            assert isinstance(decision, AttemptStarted), decision
            self.world.started(decision)
            self.send(decision.host, {"op": "run", "job": decision.job, "attempt": decision.attempt})
        scheduler = self.history.scheduler
        if self.empty_at is None and scheduler.unfinished == len(scheduler.running):
            self.empty_at = self.world.now
        changes = [standing.change_at for standing in self.moderation.standings.values()]
        change = min((moment for moment in changes if moment is not None), default=inf)
        if change != self.look_at and not scheduler.finished:
            self.look_at = change
            self.world.at(change + self.world.dice.uniform(0, LOOK_EVERY), self.plan_turn)

    def send(self, name: str, message: Message) -> None:
        pc = self.world.pcs[name]
        pc.inbox_at = max(pc.inbox_at, self.world.now + self.world.delay())
        self.world.at(pc.inbox_at, lambda: pc.handle(message))


class World:
    """What happens when.

    Attributes:
        seconds: of work, by job.
        started: told of every start, when it has been decided.
    """

    def __init__(
        self,
        seed: int,
        begin: float,
        hosts: Sequence[tuple[Host, People]],
        jobs: Sequence[tuple[JobRecord, float]],
    ) -> None:
        self.dice = random.Random(seed)
        self.begin = self.now = begin
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.order = count()
        self.seconds = [seconds for _, seconds in jobs]
        self.started: Callable[[AttemptStarted], None] = lambda started: None
        self.pcs = {host.name: Pc(self, host, people, self.dice.random()) for host, people in hosts}
        cluster = Cluster(tuple(host for host, _ in hosts))
        self.head = Head(self, cluster, [record for record, _ in jobs])

    def at(self, moment: float, what: Callable[[], None]) -> None:
        """Let something happen."""
        heappush(self.agenda, (max(moment, self.now), next(self.order), what))

    def delay(self) -> float:
        """Give how long a message takes."""
        return self.dice.uniform(0.005, SLOWEST_MESSAGE)

    def run(self, until: float) -> None:
        """Let it all happen until every job has ended, or it is too late."""
        for pc in self.pcs.values():
            pc.plan_look(pc.observer.begin)
            self.head.join(pc.host)
        while self.agenda and not self.head.history.scheduler.finished:
            moment, _, what = heappop(self.agenda)
            if moment > until:
                break
            self.now = moment
            what()
