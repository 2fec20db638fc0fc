"""Which jobs a journal has: the same as following the whole run says, and errors as clear."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab.errors import RunError
from pisa_fab.events import AttemptStarted, Event, HostReady, JobRecord, JobsAdded, JobsCancelled, RunOpened
from pisa_fab.journal import Journal
from pisa_fab.known_jobs import read_records
from pisa_fab.layout import Layout
from pisa_fab.model import Policy
from pisa_fab.run import read_history


def write(root: Path, *events: Event) -> Layout:
    layout = Layout(root)
    layout.create()
    journal = Journal.open(layout.journal)
    journal.append(1.0, events)
    journal.close()
    return layout


@given(st.lists(st.integers(1, 4), max_size=5), st.integers(0, 2), st.booleans())
def test_they_are_those_of_the_history(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], gap: int, runs: bool
) -> None:
    events: list[Event] = []
    first = 0
    for size in sizes:
        events.append(
            JobsAdded(
                first,
                [
                    JobRecord(f"{number:016x}", ("s.py", str(number)), {"-n": str(number), "-q": None})
                    for number in range(first, first + size)
                ],
            )
        )
        first += size + gap
    if runs and sizes:
        events += [RunOpened("1", "head", 1, range(sizes[0]), Policy()), HostReady("pc01", 1)]
        events += [AttemptStarted(0, 1, "pc01"), JobsCancelled(())]
    root = tmp_path_factory.mktemp("records")
    write(root, *events)
    history = read_history(root)
    assert read_records(root) == (history.records, history.next_number)


def test_there_are_none_where_nothing_was_submitted(tmp_path: Path) -> None:
    assert read_records(tmp_path / "run") == (None, 0)
    assert not (tmp_path / "run").exists()


def test_a_damaged_journal_is_an_error(tmp_path: Path) -> None:
    journal = write(tmp_path, HostReady("pc01", 1)).journal
    journal.write_text("what\n" + journal.read_text())
    with pytest.raises(RunError, match=r"journal.jsonl:1: this line is damaged"):
        read_records(tmp_path)


def test_a_journal_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".pisa").write_text("in the way")
    with pytest.raises(RunError, match="cannot be read: Not a directory"):
        read_records(tmp_path)
