"""The slots of the ready hosts: who runs how many jobs, and who gets the next one.

Only names and numbers, as in `scheduler`, whose part this is; which job comes next is decided there, and how
many jobs a host may be sent ahead, in `ahead`. Every operation is O(1): hosts with a free slot stand in
levels, by how many jobs they run; and so do full ones that may be sent more, by how many wait there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection


class ReadyHost:
    """A ready host and what it was given.

    Attributes:
        slots: how many jobs it may run at once.
        jobs: what it was given and has not ended, in that order.
        ahead: how many more jobs than slots it may be given: they wait there for a slot.
        waiting: how many of its jobs wait there, as far as is known.
    """

    __slots__ = ("ahead", "jobs", "name", "slots", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.slots = 0
        self.jobs: dict[int, None] = {}
        self.ahead = 0
        self.waiting = 0


class Slots:
    """The ready hosts, in levels.

    Attributes:
        by_name: the hosts; read only.
        total: how many slots they have.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, ReadyHost] = {}
        self.total = 0
        self._free = Levels()
        self._full = Levels()

    def ready(self, name: str, slots: int) -> None:
        """Put a host in, or change its slots."""
        host = self.by_name.setdefault(name, ReadyHost(name))
        self._leave_level(host)
        self.total += slots - host.slots
        host.slots = slots
        host.waiting = max(0, min(host.waiting, len(host.jobs) - slots))
        self._enter_level(host)

    def set_ahead(self, name: str, most: int) -> None:
        """Say how many more jobs than slots a host may be given."""
        host = self.by_name[name]
        self._leave_level(host)
        host.ahead = most
        self._enter_level(host)

    def lose(self, name: str) -> list[int]:
        """Take a host out, and give the jobs that it ran."""
        host = self.by_name.pop(name, None)
        if host is None:
            return []
        self._leave_level(host)
        self.total -= host.slots
        return list(host.jobs)

    def take(self, name: str, job: int) -> None:
        """Occupy a slot, or a place to wait for one."""
        host = self.by_name.get(name)
        if host is not None:
            self._leave_level(host)
            host.waiting += len(host.jobs) >= host.slots
            host.jobs[job] = None
            self._enter_level(host)

    def give_back(self, name: str, job: int) -> None:
        """Free a slot, which the first job that waits for one takes, or the place of a job that waited."""
        host = self.by_name.get(name)
        if host is not None:
            self._leave_level(host)
            host.jobs.pop(job, None)
            host.waiting = max(0, host.waiting - 1)
            self._enter_level(host)

    def pick(self, avoid: str, closed: Collection[str] = ()) -> str | None:
        """Give the host with a free slot that runs the fewest jobs; `avoid` only if there is no other.

        Never one that is `closed`.
        """
        return self._free.lowest(avoid, closed)

    def pick_ahead(self, closed: Collection[str] = ()) -> str | None:
        """Give the full host where the fewest jobs wait, of those that may be sent more; no `closed` one."""
        return self._full.lowest("", closed)

    def has_free(self) -> bool:
        """Say whether any host has a free slot."""
        return self._free.lowest("") is not None

    def snapshot(self) -> dict[str, tuple[int, list[int]]]:
        """Give the slots and the jobs of every host."""
        return {name: (host.slots, list(host.jobs)) for name, host in self.by_name.items()}

    def _leave_level(self, host: ReadyHost) -> None:
        over = len(host.jobs) - host.slots
        if over < 0:
            self._free.remove(len(host.jobs), host.name)
        elif over < host.ahead and host.slots:
            self._full.remove(over, host.name)

    def _enter_level(self, host: ReadyHost) -> None:
        over = len(host.jobs) - host.slots
        if over < 0:
            self._free.put(len(host.jobs), host.name)
        elif over < host.ahead and host.slots:
            self._full.put(over, host.name)


class Levels:
    """Names at numbers; the lowest is found at once."""

    def __init__(self) -> None:
        self._levels: list[OrderedDict[str, None]] = []
        self._lowest = 0  # no level below it has a name

    def put(self, level: int, name: str) -> None:
        """Put a name at a number, behind those that are there."""
        while len(self._levels) <= level:
            self._levels.append(OrderedDict())
        self._levels[level][name] = None
        self._lowest = min(self._lowest, level)

    def remove(self, level: int, name: str) -> None:
        """Take a name out, which is at that number."""
        del self._levels[level][name]

    def lowest(self, avoid: str, closed: Collection[str] = ()) -> str | None:
        """Give the first name at the lowest number: never a `closed` one, `avoid` if there is no other."""
        levels = self._levels
        while self._lowest < len(levels) and not levels[self._lowest]:
            self._lowest += 1
        avoided = None
        for place in range(self._lowest, len(levels)):
            for name in levels[place]:
                if name in closed:
                    continue
                if name != avoid:
                    return name
                avoided = name
        return avoided
