"""Pure: which combination of a plan has which number.

A job keeps its number for as long as its run directory lives, so a combination that is known gets the number
it has, and a new one the next that is free. In the first run, and in every repetition of it, number and index
are the same.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pisa_fab.errors import UsageError
from pisa_fab.keys import Keys, Numbers
from pisa_fab.model import Job, Plan, job_name

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
        in_order = numbers == range(len(numbers)) or all(
            index == number for index, number in enumerate(numbers)
        )
        return cls(range(len(numbers)) if in_order else numbers)

    @cached_property
    def _places(self) -> array[int]:
        """The index of every number, -1 for those that no combination has."""
        places = array("q", (-1,)) * (max(self.numbers, default=-1) + 1)
        for index, number in enumerate(self.numbers):
            places[number] = index
        return places

    def __contains__(self, number: int) -> bool:
        """Say whether a combination has this number."""
        if isinstance(self.numbers, range):
            return number in self.numbers
        return 0 <= number < len(self._places) and self._places[number] >= 0

    def index(self, number: int) -> int:
        """Give the index of the combination that has this number. Raises KeyError."""
        if number not in self:
            raise KeyError(number)
        return number if isinstance(self.numbers, range) else self._places[number]

    @cached_property
    def sorted(self) -> Sequence[int]:
        """The numbers, ascending."""
        if isinstance(self.numbers, range):
            return self.numbers
        return array("q", (number for number, index in enumerate(self._places) if index >= 0))

    def jobs(self, plan: Plan) -> Iterator[Job]:
        """Render all jobs, by number."""
        if isinstance(self.numbers, range):
            return plan.jobs(self.numbers)
        return (plan.job(self.index(number), number) for number in self.sorted)

    def retired(self, records: Mapping[int, JobRecord]) -> list[int]:
        """Give the numbers of jobs that have a record but are in the plan no longer, ascending."""
        if isinstance(self.numbers, range):
            count = len(self.numbers)
            return sorted(number for number in records if not 0 <= number < count)
        return sorted(number for number in records if number not in self)

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
        for number in numbers:
            if number not in self:
                raise UsageError(
                    f"there is no job {job_name(number)} in this batch", f"it has {self.describe()}"
                )

    def describe(self) -> str:
        """Say which numbers there are: `26 jobs, 0000 to 0025`."""
        if not self.numbers:
            return "no jobs"
        first, last = job_name(self.sorted[0]), job_name(self.sorted[-1])
        return f"{len(self.numbers)} jobs, {first} to {last}"


def assign_numbers(keys: Sequence[str], known: Mapping[str, int], next_number: int) -> Sequence[int]:
    """Give every key its number: the known ones keep theirs, new ones get `next_number` and so on."""
    if not known:
        return range(next_number, next_number + len(keys))
    if isinstance(known, Numbers) and isinstance(keys, Keys):
        if known.are_in_order(keys, next_number):
            return range(len(keys))
        return known.of_all(keys, next_number)
    numbers = []
    for key in keys:
        number = known.get(key)
        if number is None:
            number, next_number = next_number, next_number + 1
        numbers.append(number)
    return numbers
