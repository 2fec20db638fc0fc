"""The slots of the ready hosts: who runs how many jobs, and who gets the next one.

Only names and numbers, as in `scheduler`, whose part this is; which job comes next is decided there. Every
operation is O(1): hosts with a free slot stand in levels, by how many jobs they run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection


class ReadyHost:
    """A ready host and what it runs."""

    __slots__ = ("jobs", "name", "slots")

    def __init__(self, name: str) -> None:
        self.name = name
        self.slots = 0
        self.jobs: dict[int, None] = {}  # in the order of their starts


class Slots:
    """The ready hosts; those with a free slot in levels, by how many jobs they run."""

    def __init__(self) -> None:
        self.by_name: dict[str, ReadyHost] = {}
        self._levels: list[OrderedDict[str, None]] = []
        self._lowest = 0  # no level below it has a host

    def ready(self, name: str, slots: int) -> None:
        """Put a host in, or change its slots."""
        host = self.by_name.setdefault(name, ReadyHost(name))
        self._leave_level(host)
        host.slots = slots
        self._enter_level(host)

    def lose(self, name: str) -> list[int]:
        """Take a host out, and give the jobs that it ran."""
        host = self.by_name.pop(name, None)
        if host is None:
            return []
        self._leave_level(host)
        return list(host.jobs)

    def take(self, name: str, job: int) -> None:
        """Occupy a slot."""
        host = self.by_name.get(name)
        if host is not None:
            self._leave_level(host)
            host.jobs[job] = None
            self._enter_level(host)

    def give_back(self, name: str, job: int) -> None:
        """Free a slot."""
        host = self.by_name.get(name)
        if host is not None:
            self._leave_level(host)
            host.jobs.pop(job, None)
            self._enter_level(host)

    def pick(self, avoid: str, closed: Collection[str] = ()) -> str | None:
        """Give the host with a free slot that runs the fewest jobs; `avoid` only if there is no other.

        Never one that is `closed`.
        """
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

    def snapshot(self) -> dict[str, tuple[int, list[int]]]:
        """Give the slots and the jobs of every host."""
        return {name: (host.slots, list(host.jobs)) for name, host in self.by_name.items()}

    def _leave_level(self, host: ReadyHost) -> None:
        if len(host.jobs) < host.slots:
            del self._levels[len(host.jobs)][host.name]

    def _enter_level(self, host: ReadyHost) -> None:
        place = len(host.jobs)
        if place < host.slots:
            while len(self._levels) <= place:
                self._levels.append(OrderedDict())
            self._levels[place][host.name] = None
            self._lowest = min(self._lowest, place)
