"""How many jobs each host may run now, and why: by its calendar, and by what its worker says of other people.

Keeps this up to date, journals every change, and tells the workers. What jobs run in the slots is decided by
`scheduler`; who needs a PC is found out there, by `presence`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import inf

from pisa_fab import allowance
from pisa_fab.events import Event, JobsPaused, SlotsChanged, size
from pisa_fab.link import Message
from pisa_fab.model import Cluster, Host
from pisa_fab.run import Run
from pisa_fab.scheduler import Scheduler

SPACE_EVERY = 10.0  # seconds between two looks at the free space of the home
REFRESH = 86400.0  # seconds after which a host's horizon is looked at anew, though its slots stay the same


@dataclass(slots=True)
class Standing:
    """Where a host stands.

    Attributes:
        host: as the cluster file has it.
        slots: how many jobs its calendar allows.
        change_at: the Unix time at which it allows something else, or is to be looked at again.
        held: why its worker wants nothing to be run all the same, or "".
        leaving: why it is to go, or "".
        told: the slots and the reason that are in the journal, None while it is not at work.
        paused: the jobs that stand still there, as the journal has it.
    """

    host: Host
    slots: int = 0
    change_at: float = 0.0
    held: str = ""
    leaving: str = ""
    told: tuple[int, str] | None = None
    paused: tuple[int, ...] = ()


class Moderation:
    """All hosts of a run.

    `record` journals an event, `send` gives a worker a message, `say` tells the person; `nice` is that of the
    batch's jobs, `clock` gives Unix time.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        nice: int,
        record: Callable[[Event], None],
        send: Callable[[str, Message], None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.scheduler = scheduler
        self.nice = nice
        self.record = record
        self.send = send
        self.say = say
        self.clock = clock
        self.is_tight = False  # whether the home has less free space than it is to have
        self._space_at = 0.0  # monotonic; when to look at it again
        self._least = 0  # bytes; what was to be free at the last look
        self.standings: dict[str, Standing] = {}
        self._looked_at = 0.0  # Unix time; it goes back where somebody sets the clock
        self._due = inf

    def take(self, host: Host, now: float) -> None:
        """Take a host in, or what the cluster file now says of one; `now` is monotonic."""
        standing = self.standings.setdefault(host.name, Standing(host))
        standing.host, standing.leaving = host, ""
        self._set(standing, self.clock(), now)
        if standing.told is not None:
            self._send_bounds(standing)
            self._journal(standing)

    def bounds(self, host: Host) -> Message:
        """Give what a worker has to know to keep within bounds by itself."""
        owner = {**asdict(host.owner), "policy": host.owner.policy.value}
        return {
            "phases": allowance.phases(host, self.clock(), self.nice),
            "at_edge": host.at_edge.value,
            "owner": {**owner, "min_free_memory": host.min_free_memory},
        }

    def came(self, name: str, message: Message) -> int:
        """Take in the first word of a worker that is ready; give the slots that it may use by its calendar.

        `settle` is to follow when that is in the journal.
        """
        standing = self.standings[name]
        standing.held = _why(message)
        standing.told, standing.paused = (standing.slots, ""), ()
        self._send_bounds(standing)  # those in its first message were as old as the call, and the file's then
        return standing.slots

    def settle(self, name: str, message: Message) -> None:
        """Take in what a worker says of other people and of the jobs that stand still."""
        standing = self.standings[name]
        standing.held = _why(message)
        self._journal(standing)
        paused = tuple(sorted(job for job, _ in message["paused"]))
        if paused != standing.paused:
            standing.paused = paused
            self.record(JobsPaused(name, paused))

    def hold(self, name: str, reason: str) -> None:
        """Let a host run nothing more: its worker leaves, and what it ends is not to be sent there again."""
        self.standings[name].held = reason
        self._journal(self.standings[name])

    def left(self, name: str) -> None:
        """Note that a host is not at work any more."""
        self.standings[name].told = None

    def dismiss(self, name: str, reason: str) -> None:
        """Let a host run nothing more, because it is to go."""
        standing = self.standings[name]
        standing.slots, standing.change_at = 0, inf
        standing.leaving = reason
        if standing.told is not None:
            self.say(f"{name}: {reason}")
        self._journal(standing)

    def look(self, now: float) -> None:
        """Do what calendars say now."""
        moment = self.clock()
        if self._looked_at <= moment < self._due:
            self._looked_at = moment
            return
        is_back = moment < self._looked_at
        self._looked_at = moment
        for standing in self.standings.values():
            if not standing.leaving and (is_back or standing.change_at <= moment):
                self.take(standing.host, now)
        self._due = min((standing.change_at for standing in self.standings.values()), default=inf)

    def has_space(self, now: float, cluster: Cluster, run: Run) -> bool:
        """Say whether the home has room for what new jobs may write; tell the person when that changes."""
        least = cluster.min_free_space
        if now >= self._space_at or least != self._least:
            self._space_at, self._least = now + SPACE_EVERY, least
            free = run.free_space()
            if (free < least) != self.is_tight:
                self.is_tight = not self.is_tight
                what = "nothing new is started" if self.is_tight else "there is room again"
                self.say(f"the home has {size(free)} free, min_free_space is {size(least)}: {what}")
        return not self.is_tight

    def _set(self, standing: Standing, moment: float, now: float) -> None:
        host = standing.host
        standing.slots = allowance.allowed(host, moment).slots
        change_at = allowance.change_after(host, moment)
        standing.change_at = moment + REFRESH if change_at is None else min(change_at, moment + REFRESH)
        self._due = min(self._due, standing.change_at)
        horizon = allowance.horizon(host, moment)
        self.scheduler.set_horizon(host.name, horizon.shifted(now - moment))

    def _journal(self, standing: Standing) -> None:
        """Journal what a host may run, if that is news."""
        if standing.told is None:
            return
        reason = standing.leaving or standing.held
        slots = 0 if reason else standing.slots
        before_slots, before_reason = standing.told
        if slots != before_slots or bool(reason) != bool(before_reason):
            standing.told = (slots, reason)
            self.record(SlotsChanged(standing.host.name, slots, reason))

    def _send_bounds(self, standing: Standing) -> None:
        self.send(standing.host.name, {"op": "bounds", **self.bounds(standing.host)})


def _why(message: Message) -> str:
    """Give why a host may run nothing, as its worker says."""
    why: str = message["busy"] or message["full"]
    return why
