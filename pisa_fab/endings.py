"""Pure: how each job went, of a million jobs: in columns of numbers, for nearly all went in the same way.

A success that says nothing but times and memory takes some sixty bytes. Whatever is more than that is kept as
text. Which results count is `history`'s business.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from math import isfinite
from operator import attrgetter

from pisa_fab.events import Ending, Outcome

_NONE, _PLAIN, _OTHER = range(3)
_ROW = struct.Struct("<ddddQHHI")  # started, seconds, user, system, memory, attempt, host, waited
_TICKS = 10_000.0  # in a second, of what it waited: that is how exactly a worker says it
_SIZE = _ROW.size
_FIELDS = attrgetter(*(field.name for field in fields(Outcome)))
_pack, _no_row = _ROW.pack_into, struct.error


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
        self._rows = bytearray()
        self._hosts: list[str] = []
        self._places: dict[str, int] = {}  # of the hosts in that list
        self._others: dict[int, bytes] = {}  # JSON: as objects they would take thrice as much

    def put(self, job: int, attempt: int, host: str, started: float, outcome: Outcome) -> None:
        """Let this be how a job went."""
        kinds = self._kinds
        if job >= len(kinds):
            self._grow(job)
        elif kinds[job] == _OTHER:
            del self._others[job]
        if outcome.exit_code == 0 and not outcome.tail and _is_plain(outcome):
            place = self._places.get(host)
            if place is None:
                place = self._places[host] = len(self._hosts)
                self._hosts.append(host)
            times = (started, outcome.seconds, outcome.user, outcome.system)
            waited = round(outcome.waited * _TICKS)
            with suppress(_no_row):
                _pack(self._rows, job * _SIZE, *times, outcome.memory, attempt, place, waited)
                kinds[job] = _PLAIN
                return
        kinds[job] = _OTHER
        self._others[job] = json.dumps((attempt, host, started, *_FIELDS(outcome))).encode("ascii")

    def _grow(self, job: int) -> None:
        # By an eighth at once: a job after the other, in order, is the usual case.
        more = max(job + 1 - len(self._kinds), len(self._kinds) >> 3)
        self._kinds.extend(bytes(more))
        self._rows.extend(bytes(more * _SIZE))

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
            attempt, host, started, ending, *rest = json.loads(self._others[job])
            return JobResult(job, attempt, host, started, Outcome(Ending(ending), *rest))
        row = _ROW.unpack_from(self._rows, job * _SIZE)
        started, seconds, user, system, memory, attempt, place, waited = row
        times = (seconds, user, system)
        outcome = Outcome(Ending.EXITED, 0, None, *times, memory, waited=waited / _TICKS)
        return JobResult(job, attempt, self._hosts[place], started, outcome)

    def __iter__(self) -> Iterator[int]:
        return (job for job, kind in enumerate(self._kinds) if kind != _NONE)

    def __len__(self) -> int:
        return len(self._kinds) - self._kinds.count(_NONE)


def _is_plain(outcome: Outcome) -> bool:
    """Say whether of a success a few numbers say all, and give back the same."""
    return (
        outcome.ending is Ending.EXITED
        and outcome.signal is None
        and not (outcome.paused or outcome.limit)
        and type(outcome.seconds) is type(outcome.user) is type(outcome.system) is float
        and (not outcome.waited or _keeps(outcome.waited))
    )


def _keeps(waited: float) -> bool:
    """Say whether a wait is told as exactly as workers do, and no more exactly."""
    return type(waited) is float and isfinite(waited) and round(waited * _TICKS) / _TICKS == waited
