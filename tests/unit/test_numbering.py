"""Numbers stay, and the assignment file says what they mean."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from pisa_fab.assignments import write_table
from pisa_fab.events import JobRecord
from pisa_fab.model import Job
from pisa_fab.numbering import Numbering
from pisa_fab.run import consecutive

KEYS = st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, max_size=12)


class Keys:
    """A plan of which only the keys matter."""

    columns: tuple[str, ...] = ("-n",)

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self) -> list[str]:
        return self._keys

    def job(self, index: int, number: int) -> Job:
        key = self._keys[index]
        return Job(number, key, ("run", key), {}, {"-n": key})

    def jobs(self, numbers: Iterable[int]) -> Iterator[Job]:
        return (self.job(index, number) for index, number in enumerate(numbers))


@given(KEYS)
def test_the_first_run_is_numbered_in_order(keys: list[str]) -> None:
    numbering = Numbering.of(Keys(keys), {}, 0)
    assert list(numbering.numbers) == list(range(len(keys)))
    assert numbering.retired({}) == []


@given(st.lists(KEYS, min_size=1, max_size=4))
def test_a_key_keeps_its_number_and_no_number_is_given_twice(runs: list[list[str]]) -> None:
    known: dict[str, int] = {}
    for keys in runs:
        numbering = Numbering.of(Keys(keys), known, len(known))
        given_now = dict(zip(keys, numbering.numbers, strict=True))
        assert all(given_now[key] == known[key] for key in keys if key in known)
        known.update(given_now)
        assert sorted(known.values()) == list(range(len(known)))
        assert [keys[numbering.index(number)] for number in numbering.sorted] == [
            job.key for job in numbering.jobs(Keys(keys))
        ]
        records = {number: JobRecord(key, (), {}) for key, number in known.items()}
        assert sorted([*numbering.retired(records), *numbering.sorted]) == list(range(len(known)))


@given(st.lists(st.integers(0, 50), unique=True).map(sorted), st.integers(1, 5))
def test_chunks_are_consecutive_and_complete(numbers: list[int], most: int) -> None:
    jobs = (Job(number, "", (), {}, {}) for number in numbers)
    chunks = [[job.number for job in chunk] for chunk in consecutive(jobs, most)]
    assert [number for chunk in chunks for number in chunk] == numbers
    assert all(
        chunk == list(range(chunk[0], chunk[0] + len(chunk))) and len(chunk) <= most for chunk in chunks
    )


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_any_text_comes_back_from_the_assignment_file(rows: list[tuple[str, list[str]]]) -> None:
    file = io.StringIO(newline="")
    write_table(file, ["-n"], [(n, {"-n": value}, tuple(argv)) for n, (value, argv) in enumerate(rows)])
    file.seek(0)
    table = list(csv.DictReader(file))
    assert [row["job"] for row in table] == [f"{n:04d}" for n in range(len(rows))]
    assert [row["-n"] for row in table] == [value for value, _ in rows]
    assert [shlex.split(row["command"]) for row in table] == [argv for _, argv in rows]
