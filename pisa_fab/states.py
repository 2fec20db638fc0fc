"""Where each job stands, and how many stand where: a byte a job, because a batch may have a million.

A part of `scheduler`, pure as that. It moves jobs by the table of `transitions`; when, is decided there.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

from pisa_fab.events import JobState
from pisa_fab.transitions import FINAL, TRANSITIONS, Happening


@dataclass(frozen=True, slots=True)
class JobView:
    """What the scheduler knows of one job, for those who explain it.

    Attributes:
        state: where it stands.
        wanted: whether it belongs to the batch.
        unwanted: whether it is to be cancelled as soon as nothing of it can run any more.
        attempts: the highest number of an attempt that was ever seen.
        failed_on: the hosts where it failed, with failures that count.
        lost_with: the hosts that were lost with it.
        last_chance: whether it is given up if it is lost once more; until then it runs beside no such job.
        before: how many jobs come before it, if it waits.
    """

    state: JobState
    wanted: bool
    unwanted: bool
    attempts: int
    failed_on: tuple[str, ...]
    lost_with: tuple[str, ...]
    last_chance: bool
    before: int


# A byte is a state's place in the enumeration; 0 is WAITING.
_STATES = tuple(JobState)
_CODES = {state: code for code, state in enumerate(_STATES)}
_NEXT = {(_CODES[old], what): _CODES[new] for (old, what), new in TRANSITIONS.items()}
WAITING = _CODES[JobState.WAITING]


class States:
    """The states of all jobs that ever were, and counts of those of the batch.

    Attributes:
        codes: a byte a job, by number; `WAITING` is one of them; read only.
        wanted: 1 for the jobs of the batch; read only.
        attempts: the highest number of an attempt that was ever seen, by job.
    """

    def __init__(self) -> None:
        self.codes = bytearray()
        self.wanted = bytearray()
        self.attempts = array("Q")
        self._counts = [0] * len(_STATES)

    def __getitem__(self, job: int) -> JobState:
        return _STATES[self.codes[job]] if 0 <= job < len(self.codes) else JobState.WAITING

    def is_waiting(self, job: int) -> bool:
        """Say whether a job of the batch waits."""
        return bool(self.wanted[job]) and self.codes[job] == WAITING

    def counts(self) -> dict[JobState, int]:
        """Count the batch's jobs in each state."""
        return dict(zip(_STATES, self._counts, strict=True))

    def waiting(self) -> int:
        """Count the batch's jobs that wait."""
        return self._counts[WAITING]

    def final(self) -> int:
        """Count the batch's jobs in final states."""
        return sum(self._counts[_CODES[state]] for state in FINAL)

    def jobs_in(self, state: JobState) -> Iterator[int]:
        """Give the batch's jobs that are in this state, ascending."""
        code = _CODES[state]
        job = self.codes.find(code)
        while job >= 0:
            if self.wanted[job]:
                yield job
            job = self.codes.find(code, job + 1)

    def move(self, job: int, what: Happening) -> bool:
        """Make the transition, if there is one."""
        self._know(job)
        old = self.codes[job]
        new = _NEXT.get((old, what))
        if new is None:
            return False
        self.codes[job] = new
        if self.wanted[job]:
            self._counts[old] -= 1
            self._counts[new] += 1
        return True

    def saw(self, job: int, attempt: int) -> None:
        """Note that there was this attempt, if the job is known."""
        if 0 <= job < len(self.codes):
            self.attempts[job] = max(self.attempts[job], attempt)

    def want(self, jobs: Sequence[int]) -> None:
        """Let these, and no others, be the jobs of the batch."""
        self._know(max(jobs, default=-1))
        self.wanted = bytearray(len(self.codes))
        for job in jobs:
            self.wanted[job] = 1
        found = Counter(compress(self.codes, self.wanted))
        self._counts = [found[code] for code in range(len(_STATES))]

    def _know(self, job: int) -> None:
        missing = job + 1 - len(self.codes)
        if missing > 0:
            self.codes.extend(bytes(missing))
            self.wanted.extend(bytes(missing))
            self.attempts.frombytes(bytes(missing * self.attempts.itemsize))
