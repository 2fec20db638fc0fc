"""Pure: what each job is, of a million jobs: as the text that the journal has of them, compressed.

A record is made of it when somebody asks; what was asked for last is kept at hand, because whoever asks for
one job mostly asks for its neighbours next. What a whole line of the journal says is the business of
`journal_format`; the text here is the part that it has of the jobs.
"""

from __future__ import annotations

import json
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, overload

from pisa_fab.events import JobRecord
from pisa_fab.keys import Keys, Numbers

KEPT = 24  # pieces that are kept at hand, decoded
LEVEL = 1  # of compression: the fastest makes a tenth of it already

Raw = list[list[Any]]  # key, argv, and values; or names and values of a job whose columns differ


class PackedRecords(Sequence[JobRecord]):
    """The records of jobs that follow one another.

    Attributes:
        keys: theirs, in order.
    """

    __slots__ = ("_packed", "keys")

    def __init__(self, keys: Sequence[str], packed: bytes) -> None:
        self.keys = keys
        self._packed = packed

    @classmethod
    def of(cls, records: Sequence[JobRecord]) -> PackedRecords:
        """Pack some records; those that are packed already stay as they are."""
        if isinstance(records, PackedRecords):
            return records
        columns = list(records[0].arguments) if records else []
        jobs = [
            [
                record.key,
                record.argv,
                list(record.arguments.values())
                if list(record.arguments) == columns
                else dict(record.arguments.items()),
            ]
            for record in records
        ]
        keys = [record.key for record in records]
        return cls._of_text(json.dumps({"columns": columns, "jobs": jobs}), keys)

    @classmethod
    def read(cls, columns: Any, jobs: Any, text: str = "") -> PackedRecords:
        """Take in what a line of the journal says of jobs; `text` is how it says it, if that is known.

        Raises ValueError, TypeError or KeyError for what it cannot say.
        """
        keys = [key for key, _, _ in jobs]
        words = chain(list(columns), keys, chain.from_iterable(argv for _, argv, _ in jobs))
        if not set(map(type, words)) <= {str}:
            raise ValueError("what should be a text is none")
        for _, _, values in jobs:
            if not isinstance(values, dict) and len(values) != len(columns):
                raise ValueError("a job has not as many values as there are columns")
        return cls._of_text(text or json.dumps({"columns": columns, "jobs": jobs}), keys)

    @classmethod
    def _of_text(cls, text: str, keys: list[str]) -> PackedRecords:
        return cls(Keys.of(keys) or tuple(keys), zlib.compress(text.encode("ascii"), LEVEL))

    @property
    def text(self) -> str:
        """The JSON object with the columns, once, and of each job the values."""
        return zlib.decompress(self._packed).decode("ascii")

    def raw(self) -> tuple[list[str], Raw]:
        """Give columns and jobs as they stand in the text."""
        found = json.loads(self.text)
        return found["columns"], found["jobs"]

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> JobRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[JobRecord]: ...
    def __getitem__(self, index: int | slice) -> JobRecord | list[JobRecord]:
        columns, jobs = self.raw()
        if isinstance(index, slice):
            return [_record(columns, job) for job in jobs[index]]
        return _record(columns, jobs[index])

    def __iter__(self) -> Iterator[JobRecord]:
        columns, jobs = self.raw()
        return (_record(columns, job) for job in jobs)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence):
            return len(self) == len(other) and list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"PackedRecords({list(self)})"


def _record(columns: list[str], job: list[Any]) -> JobRecord:
    key, argv, values = job
    arguments = values if isinstance(values, dict) else dict(zip(columns, values, strict=True))
    return JobRecord(key, tuple(argv), arguments)


class Records(Mapping[int, JobRecord]):
    """What each job is, by number, in pieces whose numbers ascend without a gap in them."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._pieces: list[PackedRecords] = []
        self._end = 0  # behind the last number of the pieces
        self._whole = True  # whether they have all numbers before it
        self._others: dict[int, JobRecord] = {}  # that came out of order; they count before the pieces
        self._at_hand: OrderedDict[int, tuple[list[str], Raw]] = OrderedDict()

    def add(self, first: int, records: Sequence[JobRecord]) -> None:
        """Take in the records of the jobs `first`, `first + 1`, ..."""
        if first < self._end:
            self._others.update(enumerate(records, start=first))
        elif records:
            for number in self._others.keys() & range(first, first + len(records)):
                del self._others[number]
            self._whole = self._whole and first == self._end
            self._firsts.append(first)
            self._pieces.append(PackedRecords.of(records))
            self._end = first + len(records)

    def numbers(self) -> Numbers:
        """Give the number of every key."""
        if self._others:
            return Numbers((number, (record.key,)) for number, record in self.items())
        return Numbers((first, piece.keys) for first, piece in zip(self._firsts, self._pieces, strict=True))

    def _place(self, number: int) -> int:
        """Give the place of the piece that has this number, -1 if none has."""
        place = bisect_right(self._firsts, number) - 1
        return place if place >= 0 and number - self._firsts[place] < len(self._pieces[place]) else -1

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        if self._whole and number < self._end:
            return number >= 0
        return number in self._others or self._place(number) >= 0

    def has_all(self, numbers: Sequence[int]) -> bool:
        """Say whether all these jobs have one; without a look at each of a range, as a rule."""
        if isinstance(numbers, range) and self._whole and numbers.step == 1 and numbers.stop <= self._end:
            return not numbers or numbers.start >= 0
        return all(number in self for number in numbers)

    def __getitem__(self, number: int) -> JobRecord:
        if number in self._others:
            return self._others[number]
        place = self._place(number)
        if place < 0:
            raise KeyError(number)
        found = self._at_hand.get(place)
        if found is None:
            found = self._at_hand[place] = self._pieces[place].raw()
            if len(self._at_hand) > KEPT:
                self._at_hand.popitem(last=False)
        columns, jobs = found
        return _record(columns, jobs[number - self._firsts[place]])

    def __iter__(self) -> Iterator[int]:
        for first, piece in zip(self._firsts, self._pieces, strict=True):
            yield from range(first, first + len(piece))
        yield from (number for number in self._others if self._place(number) < 0)

    def __len__(self) -> int:
        return sum(map(len, self._pieces)) + sum(self._place(number) < 0 for number in self._others)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_at_hand": OrderedDict()}


class Arguments(Mapping[str, "str | None"]):
    """The arguments of one job, which are looked up when somebody asks."""

    __slots__ = ("_found", "_job", "_records")

    def __init__(self, records: Records, job: int) -> None:
        self._records = records
        self._job = job
        self._found: Mapping[str, str | None] | None = None

    def _all(self) -> Mapping[str, str | None]:
        if self._found is None:
            self._found = self._records[self._job].arguments
        return self._found

    def __getitem__(self, name: str) -> str | None:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
