"""The journal: what goes in comes out, whatever tears the file or fills the disk.

Journals of older versions stand in `journals/`, each with what it amounts to beside it: `0.1.0-a.jsonl` and
`0.1.0-a.json`. They load for ever. With every new format comes a new one: take the journal of a real run of
the version that is about to be released, one with failures, lost hosts and more than one head; name both
files after that version; and put beside it what that version makes of it, in the shape of the others. Never
change or delete one that is there.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab.errors import RunError
from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
    Ending,
    Event,
    HostCleared,
    HostLost,
    HostProbed,
    HostQuarantined,
    HostReady,
    HostReleased,
    HostUnusable,
    JobGivenUp,
    JobRecord,
    JobsAdded,
    JobsCancelled,
    JobsPaused,
    JobsReopened,
    Outcome,
    RunClosed,
    RunOpened,
    SecondStarted,
    SlotsChanged,
)
from pisa_fab.history import History
from pisa_fab.journal import Journal, read
from pisa_fab.journal_format import FORMAT, decode, encode
from pisa_fab.model import Policy

JOURNALS = Path(__file__).parent / "journals"

Entry = tuple[float, Event]

# -- any event ---------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too: undecodable bytes
NUMBER = st.integers(0, 2**31)
SECONDS = st.floats(0, 1e9)
NUMBERS = st.lists(st.integers(0, 50), unique=True).map(sorted).map(tuple)
OUTCOME = st.builds(
    Outcome,
    ending=st.sampled_from(Ending),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    seconds=SECONDS,
    user=SECONDS,
    system=SECONDS,
    memory=NUMBER,
    tail=TEXT,
    paused=SECONDS,
    limit=NUMBER,
)
POLICY = st.builds(
    Policy, retries=NUMBER, max_losses=NUMBER, lease=SECONDS, margin=SECONDS, stop_after=NUMBER
)
HOLDS = st.lists(st.tuples(NUMBER, NUMBER), max_size=3).map(tuple)


@st.composite
def records(draw: st.DrawFn) -> tuple[JobRecord, ...]:
    columns = draw(st.lists(TEXT, max_size=3, unique=True))
    same = st.fixed_dictionaries({name: st.none() | TEXT for name in columns})
    own = st.dictionaries(TEXT, st.none() | TEXT, max_size=3)
    arguments = same if draw(st.booleans()) else own
    record = st.builds(JobRecord, TEXT, st.lists(TEXT, max_size=4).map(tuple), arguments)
    return tuple(draw(st.lists(record, max_size=4)))


KINDS: dict[type, st.SearchStrategy[Event]] = {
    RunOpened: st.builds(RunOpened, TEXT, TEXT, NUMBER, NUMBERS, POLICY, NUMBER, NUMBER),
    JobsAdded: st.builds(JobsAdded, NUMBER, records()),
    JobsReopened: st.builds(JobsReopened, NUMBERS),
    CancelAsked: st.builds(CancelAsked, NUMBERS, TEXT),
    JobsCancelled: st.builds(JobsCancelled, NUMBERS),
    HostReady: st.builds(HostReady, TEXT, NUMBER, TEXT, NUMBER, TEXT, st.booleans(), HOLDS),
    HostUnusable: st.builds(HostUnusable, TEXT, TEXT),
    HostLost: st.builds(HostLost, TEXT, TEXT, st.booleans()),
    HostReleased: st.builds(HostReleased, TEXT, TEXT),
    SlotsChanged: st.builds(SlotsChanged, TEXT, NUMBER, TEXT),
    JobsPaused: st.builds(JobsPaused, TEXT, NUMBERS),
    HostQuarantined: st.builds(HostQuarantined, TEXT, TEXT, NUMBERS),
    HostProbed: st.builds(HostProbed, TEXT),
    HostCleared: st.builds(HostCleared, TEXT),
    AttemptStarted: st.builds(AttemptStarted, NUMBER, NUMBER, TEXT),
    SecondStarted: st.builds(SecondStarted, NUMBER, NUMBER, TEXT),
    AttemptEnded: st.builds(AttemptEnded, NUMBER, NUMBER, TEXT, OUTCOME),
    JobGivenUp: st.builds(JobGivenUp, NUMBER, st.lists(TEXT, max_size=3).map(tuple)),
    RunClosed: st.builds(RunClosed, TEXT),
}
TIMES = st.floats(0, 4e9).map(lambda moment: round(moment, 3))


@given(TIMES, st.one_of(*KINDS.values()))
def test_an_event_comes_back_as_it_was(moment: float, event: Event) -> None:
    line = encode(moment, event)
    assert line.isascii()
    assert "\n" not in line
    assert decode(line) == (moment, event)


def test_every_kind_of_event_is_in_the_test_above() -> None:
    assert KINDS.keys() == set(get_args(Event))


def test_a_line_reads_as_the_documentation_says() -> None:
    assert encode(1763797062.12345, AttemptStarted(7, 1, "pc01")) == (
        '{"t": 1763797062.123, "e": "started", "job": 7, "attempt": 1, "host": "pc01"}'
    )
    assert encode(1.0, AttemptEnded(7, 1, "pc01", Outcome(Ending.EXITED, exit_code=0))) == (
        '{"t": 1.0, "e": "ended", "job": 7, "attempt": 1, "host": "pc01", "ending": "exited", "exit_code": 0}'
    )
    assert encode(1.0, HostReady("pc01", 2, "3.11.2", 4)) == (
        '{"t": 1.0, "e": "ready", "host": "pc01", "slots": 2, "python": "3.11.2", "cores": 4}'
    )
    assert encode(1.0, HostReady("pc01", 2, "3.11.2", 4, "ab12", resumed=True, holds=((7, 1), (9, 2)))) == (
        '{"t": 1.0, "e": "ready", "host": "pc01", "slots": 2, "python": "3.11.2", "cores": 4, '
        '"machine": "ab12", "resumed": true, "holds": [[7, 1], [9, 2]]}'
    )
    assert encode(1.0, HostQuarantined("pc01", "fails what succeeds elsewhere", (3, 4, 5, 9))) == (
        '{"t": 1.0, "e": "quarantined", "host": "pc01", "reason": "fails what succeeds elsewhere", '
        '"jobs": "3-5,9"}'
    )


@pytest.mark.parametrize(
    ("jobs", "text"),
    [
        (range(1_000_000), "0-999999"),
        ((*range(41), 45), "0-40,45"),
        ([3], "3"),
        ((), ""),
        ((1, 3, 5, 6), "1,3,5-6"),
        (range(0, 6, 2), "0,2,4"),
    ],
)
def test_job_numbers_are_written_as_ranges(jobs: tuple[int, ...], text: str) -> None:
    line = encode(0.0, JobsReopened(jobs))
    assert json.loads(line)["jobs"] == text
    found = decode(line)
    assert found is not None
    moment, event = found
    assert isinstance(event, JobsReopened)
    assert (moment, list(event.jobs)) == (0.0, list(jobs))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "null",
        "[]",
        '"started"',
        "{}",
        '{"e": "closed", "reason": "finished"}',
        '{"t": "now", "e": "closed", "reason": "finished"}',
        '{"t": 1, "e": ["closed"]}',
        '{"t": 1, "e": "closed"}',
        '{"t": 1, "e": "closed", "reason": 3}',
        '{"t": 1, "e": "started", "job": "7", "attempt": 1, "host": "a"}',
        '{"t": 1, "e": "started", "job": -7, "attempt": 1, "host": "a"}',
        '{"t": 1, "e": "ended", "job": 7, "attempt": 1, "host": "a", "ending": "bored"}',
        '{"t": 1, "e": "reopened", "jobs": "1-x"}',
        '{"t": 1, "e": "jobs", "first": 0, "columns": ["-n"], "jobs": [["k", ["a"], []]]}',
        '{"t": 1, "e": "jobs", "first": 0, "columns": ["-n"], "jobs": [["k"]]}',
        '{"t": 1, "e": "ready", "host": "a", "slots": 1, "python": "", "cores": 1, "machine": 7}',
        '{"t": 1, "e": "ready", "host": "a", "slots": 1, "python": "", "cores": 1, "holds": [7]}',
        '{"t": 1, "e": "ready", "host": "a", "slots": 1, "python": "", "cores": 1, "holds": [[7, "x"]]}',
        pytest.param('{"t": 1' + "0" * 400 + ', "e": "closed", "reason": "finished"}', id="endless time"),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_kinds_and_fields_of_newer_versions_are_skipped() -> None:
    assert decode('{"t": 1, "e": "host adopted", "host": "a"}') is None
    assert decode('{"t": 1, "e": "closed", "reason": "finished", "mood": "good"}') == (
        1.0,
        RunClosed("finished"),
    )
    newer = json.loads(encode(1.0, RunOpened("9.9", "pc01", 1, (0,))))
    newer["policy"]["clairvoyance"] = True
    assert decode(json.dumps(newer)) == (1.0, RunOpened("9.9", "pc01", 1, (0,)))


def test_what_older_versions_left_out_is_as_by_default() -> None:
    line = json.loads(encode(1.0, RunOpened("0.1.0", "pc01", 1, (0,), Policy(stop_after=5), epoch=3)))
    line["format"] = 1
    del line["epoch"], line["policy"]["stop_after"]
    assert decode(json.dumps(line)) == (1.0, RunOpened("0.1.0", "pc01", 1, (0,), Policy(), epoch=1))


def test_a_newer_format_is_refused_with_a_tip(tmp_path: Path) -> None:
    line = json.loads(encode(1.0, RunOpened("9.9", "pc01", 1, (0,))))
    line["format"] = FORMAT + 1
    path = tmp_path / "journal"
    text = json.dumps(line) + "\n"
    path.write_text(text)
    for use in (lambda: Journal.open(path), lambda: list(read(path))):
        with pytest.raises(RunError, match=r"pisa_fab 9\.9") as caught:
            use()
        assert caught.value.hint
    assert path.read_text() == text


# -- the file ----------------------------------------------------------------------------------------

OPENED = RunOpened("1.0", "pc01", 42, (0, 1), Policy())
RUN: list[Entry] = [
    (1.0, OPENED),
    (1.0, JobsAdded(0, (JobRecord("k0", ("echo", "a b\n"), {"-n": "ü"}), JobRecord("k1", (), {"-n": None})))),
    (2.0, HostReady("pc01", 2, "3.11.2", 4)),
    (3.0, AttemptStarted(0, 1, "pc01")),
    (3.0, AttemptStarted(1, 1, "pc01")),
    (4.5, AttemptEnded(0, 1, "pc01", Outcome(Ending.EXITED, exit_code=0, seconds=1.25))),
    (4.5, HostLost("pc01", "reset by peer", worker_ended=True)),
]


def write(path: Path, entries: list[Entry]) -> None:
    journal = Journal.open(path)
    for moment, event in entries:
        journal.append(moment, [event])
    journal.close()


def replayed(path: Path) -> tuple[Journal, list[Entry]]:
    found: list[Entry] = []
    journal = Journal.open(path, lambda moment, event: found.append((moment, event)))
    return journal, found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_events_are_on_the_disk_after_sync_and_not_before(path: Path) -> None:
    journal = Journal.open(path)
    journal.append(1.0, [OPENED])
    assert list(read(path)) == []
    journal.sync()
    assert list(read(path)) == [(1.0, OPENED)]
    journal.sync()
    journal.append(2.0, [])
    journal.close()
    journal.close()
    assert list(read(path)) == [(1.0, OPENED)]


def test_closing_brings_everything_to_the_disk(path: Path) -> None:
    write(path, RUN)
    assert list(read(path)) == RUN


def test_opening_replays_and_goes_on_behind(path: Path) -> None:
    write(path, RUN)
    journal, found = replayed(path)
    assert (journal.cut, found) == (0, RUN)
    journal.append(9.0, [RunClosed("finished")])
    journal.close()
    assert list(read(path)) == [*RUN, (9.0, RunClosed("finished"))]


def test_nobody_else_may_read_the_journal(path: Path) -> None:
    write(path, RUN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_journal_that_cannot_be_read_is_no_bug(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / ("x" * 300), "File name too long")):
        with pytest.raises(RunError, match=f"cannot be read: {reason}"):
            list(read(path))


def test_a_missing_journal_has_no_events(path: Path) -> None:
    assert list(read(path)) == []
    assert not path.exists()


def test_a_journal_cut_at_any_byte_gives_what_was_whole_and_goes_on(path: Path) -> None:
    write(path, RUN)
    whole = path.read_bytes()
    ends = [end + 1 for end, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends)
        assert list(read(path)) == RUN[:kept]
        journal, found = replayed(path)
        assert found == RUN[:kept]
        assert journal.cut == size - (ends[kept - 1] if kept else 0)
        assert journal.cut_lines == (journal.cut > 0)
        journal.append(9.0, [RunClosed("finished")])
        journal.close()
        assert list(read(path)) == [*RUN[:kept], (9.0, RunClosed("finished"))]


TAILS = {
    "a page of zeros": (b"\0" * 4096, 1),
    "zeros and newlines": (b"\0" * 10 + b"\n" + b"\0" * 7 + b"\n", 2),
    "garbage lines": (b"{\n\xff\xfe\n\n", 3),
    "no event, and half of one": (b'{"t": 1}\n{"t": 2, "e": "clo', 2),
    "half a character": (b'{"t": 2, "e": "closed", "reason": "gr\xc3', 1),
    "half a character and a newline": (b'{"t": 2, "e": "closed", "reason": "gr\xc3\n', 1),
    "an ending of nobody": (
        b'{"t": 2, "e": "ended", "job": 1, "attempt": 1, "host": "a", "ending": "?"}\n',
        1,
    ),
    "deep": (b"[" * 100_000 + b"\n", 1),
    "huge": (b'"' + b"x" * 10_000_000, 1),
    "huge, with a newline": (b'"' + b"x" * 10_000_000 + b"\n", 1),
}


@pytest.mark.parametrize(("tail", "lines"), TAILS.values(), ids=TAILS)
def test_a_spoilt_end_is_cut_and_counted(path: Path, tail: bytes, lines: int) -> None:
    write(path, RUN)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert list(read(path)) == RUN
    journal, found = replayed(path)
    journal.close()
    assert (journal.cut, journal.cut_lines) == (len(tail), lines)
    assert found == RUN
    assert path.read_bytes() == whole


@given(st.data())
def test_whatever_becomes_of_the_end_what_stands_before_it_is_kept(data: st.DataObject) -> None:
    lines = [encode(moment, event).encode("ascii") + b"\n" for moment, event in RUN]
    last = data.draw(st.integers(1, 3), "lines that are hit")
    before, tail = b"".join(lines[:-last]), bytearray(b"".join(lines[-last:]))
    for place in data.draw(st.lists(st.integers(0, len(tail) - 1), max_size=3), "flipped"):
        tail[place] ^= data.draw(st.integers(1, 255))
    zeros = data.draw(st.integers(0, len(tail)), "zeros from here")
    tail[zeros:] = bytes(len(tail) - zeros)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        path.write_bytes(before + tail)
        try:
            journal, found = replayed(path)
        except RunError as error:  # a line was hit and the next was not: nobody but the user may decide
            assert error.message.startswith(f"{path}:")
            assert path.read_bytes() == before + tail
            return
        kept = path.read_bytes()
        journal.append(9.0, [RunClosed("finished")])
        journal.close()
        assert list(read(path)) == [*found, (9.0, RunClosed("finished"))]
    assert found[: len(RUN) - last] == RUN[:-last]
    assert (before + tail).startswith(kept)
    assert kept.startswith(before)
    assert journal.cut == len(before + tail) - len(kept)


@pytest.mark.parametrize("damage", [b"\0\0\0\0", b"{\n", b"\xff"])
def test_damage_in_the_middle_is_reported_with_its_line_and_nothing_is_cut(path: Path, damage: bytes) -> None:
    write(path, RUN)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = damage + lines[2]
    spoilt = b"".join(lines)
    path.write_bytes(spoilt)
    for use in (replayed, lambda path: list(read(path))):
        with pytest.raises(RunError) as caught:
            use(path)
        assert caught.value.message.startswith(f"{path}:3: ")
        assert caught.value.hint
    assert path.read_bytes() == spoilt


def test_a_reader_stops_before_what_a_head_is_writing(path: Path) -> None:
    write(path, RUN)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    reader = read(path)
    seen = [next(reader) for _ in RUN[:-1]]
    path.write_bytes(whole + whole)
    assert seen == RUN[:-1]
    rest = list(reader)  # whatever it has read already, it gives only whole lines
    assert rest == (RUN[-1:] + RUN)[: len(rest)]


def amounts_to(path: Path) -> dict[str, object]:
    """Give what a journal amounts to, in words that outlive every change of the code."""
    history = History()
    argv: dict[str, list[str]] = {}
    for moment, event in read(path):
        history.apply(moment, event)
        if isinstance(event, JobsAdded):
            added = enumerate(event.records, start=event.first)
            argv |= {str(number): list(record.argv) for number, record in added}
    return {
        "lines": len(path.read_bytes().splitlines()),
        "counts": {state.value: number for state, number in history.scheduler.counts().items() if number},
        "next_number": history.next_number,
        "hosts": sorted(history.hosts),
        "argv": argv,
        "results": {
            str(job): [result.attempt, result.host, result.outcome.describe(), result.outcome.tail]
            for job, result in sorted(history.results.items())
        },
    }


@pytest.mark.parametrize("fixture", sorted(JOURNALS.glob("*.jsonl")), ids=lambda path: path.name)
def test_a_journal_of_an_older_version_always_loads_and_goes_on(fixture: Path, path: Path) -> None:
    expected = json.loads(fixture.with_suffix(".json").read_text("utf-8"))
    assert amounts_to(fixture) == expected
    path.write_bytes(fixture.read_bytes())
    journal, found = replayed(path)
    assert (journal.cut, found) == (0, list(read(fixture)))
    journal.append(2e9, [RunOpened("9.9", "pc01", 1, ())])
    journal.close()
    assert list(read(path))[:-1] == found
    assert path.read_bytes().startswith(fixture.read_bytes())


def test_there_are_journals_of_older_formats_and_all_have_their_result() -> None:
    names = {path.name for path in JOURNALS.glob("*.jsonl")}
    assert {"0.1.0-a.jsonl", "0.1.0-b.jsonl", "0.2.0-a.jsonl", "0.3.0-a.jsonl"} <= names
    assert {"0.4.0-a.jsonl", "0.4.0-b.jsonl", "format-1.jsonl"} <= names
    assert {path.stem for path in JOURNALS.glob("*.json")} == {path.stem for path in JOURNALS.glob("*.jsonl")}


def test_every_event_of_format_1_is_read_as_it_was_meant() -> None:
    assert list(read(JOURNALS / "format-1.jsonl")) == [
        (
            1763797060.0,
            JobsAdded(
                0,
                (
                    JobRecord("00f1e2d3c4b5a697", ("venv/bin/python", "fib.py", "-n", "0"), {"-n": "0"}),
                    JobRecord("10f1e2d3c4b5a697", ("echo", "ü\n\udcff"), {"-n": None}),
                    JobRecord("20f1e2d3c4b5a697", ("true",), {"--mode": "fast"}),
                ),
            ),
        ),
        (
            1763797060.0,
            RunOpened(
                "0.1.0", "pc01", 4711, (0, 1, 2, 5), Policy(retries=2, max_losses=3, lease=60.0, margin=5.0)
            ),
        ),
        (1763797061.5, HostReady("pc01", 2, "3.11.2", 4)),
        (1763797061.5, HostUnusable("pc02", "no such venv")),
        (1763797062.123, AttemptStarted(0, 1, "pc01")),
        (1763797062.123, AttemptStarted(1, 1, "pc01")),
        (
            1763797063.0,
            AttemptEnded(
                0,
                1,
                "pc01",
                Outcome(Ending.EXITED, 0, None, seconds=0.87, user=0.5, system=0.1, memory=9437184),
            ),
        ),
        (
            1763797064.0,
            AttemptEnded(1, 1, "pc01", Outcome(Ending.EXITED, exit_code=3, seconds=1.0, tail="Error: no\n")),
        ),
        (1763797065.0, AttemptEnded(1, 2, "pc01", Outcome(Ending.SIGNALLED, signal=9))),
        (1763797066.0, AttemptEnded(2, 1, "pc01", Outcome(Ending.TIMEOUT, signal=15, seconds=20.0))),
        (1763797067.0, AttemptEnded(2, 2, "pc01", Outcome(Ending.NOT_STARTED, tail="No such file"))),
        (1763797068.0, AttemptEnded(5, 1, "pc01", Outcome(Ending.STOPPED))),
        (1763797069.0, HostLost("pc01", "silent")),
        (1763797070.0, HostLost("pc02", "reset", worker_ended=True)),
        (1763797071.0, JobGivenUp(5, ("pc01", "pc02", "pc03"))),
        (1763797072.0, RunClosed("interrupted")),
        (1763797073.0, JobsReopened((1, 5))),
    ]


# -- somebody else -----------------------------------------------------------------------------------


def spoil_by_appending(path: Path) -> None:
    with path.open("ab") as file:
        file.write(encode(5.0, RunClosed("mine")).encode("ascii") + b"\n")


def spoil_by_cutting(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("spoil", [spoil_by_appending, spoil_by_cutting])
def test_nothing_is_written_where_somebody_else_writes(path: Path, spoil: Callable[[Path], None]) -> None:
    journal = Journal.open(path)
    journal.append(1.0, [OPENED])
    journal.sync()
    spoil(path)
    theirs = path.read_bytes()
    journal.append(2.0, [RunClosed("interrupted")])
    for use in (journal.sync, journal.sync, journal.close):
        with pytest.raises(RunError, match="somebody else writes here") as caught:
            use()
        assert str(path) in caught.value.message
        assert caught.value.hint
    assert path.read_bytes() == theirs
    journal.close()


def test_two_heads_on_one_journal_do_not_mix_their_lines(path: Path) -> None:
    first, second = Journal.open(path), Journal.open(path)
    second.append(1.0, [RunClosed("second")])
    second.sync()
    first.append(1.0, [RunClosed("first")])
    with pytest.raises(RunError):
        first.close()
    second.append(2.0, [RunClosed("second")])
    second.close()
    assert list(read(path)) == [(1.0, RunClosed("second")), (2.0, RunClosed("second"))]


def test_a_deleted_journal_is_not_written_to(path: Path) -> None:
    journal = Journal.open(path)
    path.unlink()
    journal.append(1.0, [OPENED])
    with pytest.raises(RunError, match="deleted"):
        journal.close()


# -- a full disk -------------------------------------------------------------------------------------

EVENT = AttemptEnded(7, 1, "pc01", Outcome(Ending.EXITED, exit_code=1, tail="x" * 500))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a failed test may have it open


@pytest.mark.root
def test_a_full_disk_loses_nothing_and_writes_nothing_twice(small_disk: Path) -> None:
    path = small_disk / "journal"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(40_000))
    journal = Journal.open(path)
    written = 0
    with pytest.raises(OSError, match="No space left"):
        while True:
            journal.append(float(written), [EVENT] * 10)
            written += 1
            journal.sync()
    assert list(read(path)) == [(float(turn), EVENT) for turn in range(written - 1) for _ in range(10)]
    assert path.read_bytes().endswith(b"}\n")
    journal.append(float(written), [EVENT] * 10)
    with pytest.raises(OSError, match="No space left"):
        journal.sync()
    ballast.unlink()
    journal.sync()
    journal.close()
    assert list(read(path)) == [(float(turn), EVENT) for turn in range(written + 1) for _ in range(10)]


LIMITED = """
import resource, signal, sys
from pathlib import Path
from pisa_fab.journal import Journal
from pisa_fab.events import RunClosed

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal.open(Path(sys.argv[1]))
journal.append(1.0, [RunClosed("first")])
journal.sync()
good = Path(sys.argv[1]).read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) + 10, resource.RLIM_INFINITY))
journal.append(2.0, [RunClosed("second")])
for _ in range(3):
    try:
        journal.sync()
    except OSError:
        assert Path(sys.argv[1]).read_bytes() == good
    else:
        raise AssertionError("more was written than allowed")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(3.0, [RunClosed("third")])
journal.sync()
journal.sync()
"""


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY,
    reason="the size of files is limited here for good",
)
def test_a_write_that_breaks_off_in_a_line_is_taken_back_and_tried_again(path: Path) -> None:
    subprocess.run([sys.executable, "-c", LIMITED, str(path)], check=True)
    assert list(read(path)) == [
        (1.0, RunClosed("first")),
        (2.0, RunClosed("second")),
        (3.0, RunClosed("third")),
    ]


LEFT = """
import resource, signal, subprocess, sys
from pathlib import Path
from pisa_fab.errors import RunError
from pisa_fab.journal import Journal
from pisa_fab.events import RunClosed

path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal.open(path)
journal.append(1.0, [RunClosed("first")])
journal.sync()
good = path.read_bytes()
subprocess.run(["chattr", "+a", path], check=True)  # nothing can be cut off any more
resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) + 10, resource.RLIM_INFINITY))
journal.append(2.0, [RunClosed("second")])
for _ in range(2):
    try:
        journal.sync()
    except OSError:
        assert path.read_bytes().startswith(good) and path.stat().st_size == len(good) + 10
    else:
        raise AssertionError("more was written than allowed")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
if sys.argv[2] == "another":
    with path.open("ab") as file:
        file.write(b"!")
    try:
        journal.sync()
    except RunError:
        assert path.stat().st_size == len(good) + 11
    else:
        raise AssertionError("it was written over what another one wrote")
else:
    journal.append(3.0, [RunClosed("third")])
    journal.sync()
    journal.append(4.0, [RunClosed("fourth")])
    journal.sync()
"""


@pytest.mark.root
@pytest.mark.parametrize("who", ["nobody", "another"])
def test_a_piece_that_cannot_be_removed_is_written_over_unless_another_was_there(
    path: Path, who: str
) -> None:
    if shutil.which("chattr") is None:
        pytest.skip("there is no chattr")
    path.touch()
    made = subprocess.run(["chattr", "+a", path], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"files cannot be made append-only: {made.stderr.strip()}")
    subprocess.run(["chattr", "-a", path], check=True)
    try:
        subprocess.run([sys.executable, "-c", LEFT, str(path), who], check=True)
    finally:
        subprocess.run(["chattr", "-a", path], check=True)
    written = [(1.0, "first"), (2.0, "second"), (3.0, "third"), (4.0, "fourth")]
    kept = written if who == "nobody" else written[:1]
    assert list(read(path)) == [(moment, RunClosed(reason)) for moment, reason in kept]
