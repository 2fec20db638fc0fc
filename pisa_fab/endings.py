"""Pure: how each job went, of a million jobs: in columns of numbers, for nearly all went in the same way.

A success that says nothing but times and memory takes some fifty bytes. Whatever is more than that is kept as
it is. Which results count is `history`'s business.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pisa_fab.events import Ending, Outcome

_NONE, _PLAIN, _OTHER = range(3)
_MOST = 2**63  # the numbers in columns are below
_COLUMNS: Final = ("d", "d", "d", "d", "Q", "I", "H")  # started, seconds, user, system, memory, attempt, host


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job went: the last of its attempts that ended by itself, and counted.

    Attributes:
        job, attempt, host: which it was and where.
        started: Unix time, on the head's clock.
        outcome: what the worker said of it.
    """

    job: int
    attempt: int
    host: str
    started: float
    outcome: Outcome


class JobResults(Mapping[int, JobResult]):
    """How each job went, by number."""

    def __init__(self) -> None:
        self._kinds = bytearray()
        self._columns: tuple[array[Any], ...] = tuple(array(code) for code in _COLUMNS)
        self._hosts: list[str] = []
        self._places: dict[str, int] = {}  # of the hosts in that list
        self._others: dict[int, JobResult] = {}

    def put(self, job: int, attempt: int, host: str, started: float, outcome: Outcome) -> None:
        """Let this be how a job went."""
        missing = job + 1 - len(self._kinds)
        if missing > 0:
            self._grow(missing)
        self._others.pop(job, None)
        place = self._places.get(host)
        if place is None:
            place = self._places[host] = len(self._hosts)
            self._hosts.append(host)
        if not (attempt < 2**32 and place < 2**16 and type(started) is float and _is_plain(outcome)):
            self._kinds[job] = _OTHER
            self._others[job] = JobResult(job, attempt, host, started, outcome)
            return
        self._kinds[job] = _PLAIN
        starts, seconds, users, systems, memories, attempts, places = self._columns
        starts[job] = started
        seconds[job], users[job], systems[job] = outcome.seconds, outcome.user, outcome.system
        memories[job], attempts[job], places[job] = outcome.memory, attempt, place

    def _grow(self, missing: int) -> None:
        # By an eighth at once: a job after the other, in order, is the usual case.
        missing = max(missing, len(self._kinds) >> 3)
        self._kinds.extend(bytes(missing))
        for column in self._columns:
            column.frombytes(bytes(missing * column.itemsize))

    def discard(self, job: int) -> None:
        """Let a job have no result."""
        if 0 <= job < len(self._kinds):
            self._kinds[job] = _NONE
            self._others.pop(job, None)

    def others(self) -> list[int]:
        """Give the jobs that went in an unusual way, ascending; all failures are among them."""
        return sorted(self._others)

    def __contains__(self, job: object) -> bool:
        return isinstance(job, int) and 0 <= job < len(self._kinds) and self._kinds[job] != _NONE

    def __getitem__(self, job: int) -> JobResult:
        kind = self._kinds[job] if 0 <= job < len(self._kinds) else _NONE
        if kind == _NONE:
            raise KeyError(job)
        if kind == _OTHER:
            return self._others[job]
        started, seconds, user, system, memory, attempt, place = (column[job] for column in self._columns)
        outcome = Outcome(Ending.EXITED, 0, None, seconds, user, system, int(memory))
        return JobResult(job, int(attempt), self._hosts[int(place)], started, outcome)

    def __iter__(self) -> Iterator[int]:
        return (job for job, kind in enumerate(self._kinds) if kind != _NONE)

    def __len__(self) -> int:
        return len(self._kinds) - self._kinds.count(_NONE)


def _is_plain(outcome: Outcome) -> bool:
    """Say whether a success is one of which a few numbers say all, and give back the same."""
    return (
        outcome.exit_code == 0
        and outcome.ending is Ending.EXITED
        and outcome.signal is None
        and not (outcome.tail or outcome.paused or outcome.limit)
        and type(outcome.seconds) is type(outcome.user) is type(outcome.system) is float
        and type(outcome.memory) is int
        and 0 <= outcome.memory < _MOST
    )
