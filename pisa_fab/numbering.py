"""Pure: which combination of a plan has which number.

A job keeps its number for as long as its run directory lives, so a combination that is known gets the number
it has, and a new one the next that is free. In the first run, and in every repetition of it, number and index
are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pisa_fab.errors import UsageError
from pisa_fab.model import Job, Plan, job_name
from pisa_fab.sweep import assign_numbers

if TYPE_CHECKING:
    from pisa_fab.events import JobRecord

NAME_JOBS = "name jobs as in: --only 3,7-9"


@dataclass(frozen=True)
class Numbering:
    """The number of every combination: `numbers[index]`."""

    numbers: Sequence[int]

    @classmethod
    def of(cls, plan: Plan, known: Mapping[str, int], next_number: int) -> Numbering:
        """Give every combination of a plan its number; `known` are the keys that have one already."""
        numbers = assign_numbers(plan.keys(), known, next_number)
        in_order = all(index == number for index, number in enumerate(numbers))
        return cls(range(len(numbers)) if in_order else numbers)

    @cached_property
    def _index(self) -> Mapping[int, int]:
        return {number: index for index, number in enumerate(self.numbers)}

    def index(self, number: int) -> int:
        """Give the index of the combination that has this number. Raises KeyError."""
        if not isinstance(self.numbers, range):
            return self._index[number]
        if number not in self.numbers:
            raise KeyError(number)
        return number

    @cached_property
    def sorted(self) -> Sequence[int]:
        """The numbers, ascending."""
        return self.numbers if isinstance(self.numbers, range) else sorted(self.numbers)

    def jobs(self, plan: Plan) -> Iterator[Job]:
        """Render all jobs, by number."""
        return (plan.job(self.index(number), number) for number in self.sorted)

    def retired(self, records: Mapping[int, JobRecord]) -> list[int]:
        """Give the numbers of jobs that have a record but are in the plan no longer, ascending."""
        if isinstance(self.numbers, range):
            current: Sequence[int] | set[int] = self.numbers
        else:
            current = set(self.numbers)
        return sorted(number for number in records if number not in current)

    def chosen(self, text: str) -> tuple[int, ...]:
        """Give the numbers that `3,7-9` names, ascending. Raises UsageError where that names no job."""
        found: set[int] = set()
        for part in filter(None, text.replace(" ", ",").split(",")):
            match = re.fullmatch("([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
            if match is None:
                raise UsageError(f"{part!r} is no number of a job", NAME_JOBS)
            first, last = int(match[1]), int(match[2] or match[1])
            self.check((first, last))
            found.update(number for number in self.sorted if first <= number <= last)
        if not found:
            raise UsageError("no job is named", NAME_JOBS)
        return tuple(sorted(found))

    def check(self, numbers: Iterable[int]) -> None:
        """Raise UsageError for a number that no job has."""
        known = self.numbers if isinstance(self.numbers, range) else set(self.numbers)
        for number in numbers:
            if number not in known:
                raise UsageError(
                    f"there is no job {job_name(number)} in this batch", f"it has {self.describe()}"
                )

    def describe(self) -> str:
        """Say which numbers there are: `26 jobs, 0000 to 0025`."""
        if not self.numbers:
            return "no jobs"
        first, last = job_name(self.sorted[0]), job_name(self.sorted[-1])
        return f"{len(self.numbers)} jobs, {first} to {last}"
