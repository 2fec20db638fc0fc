"""Following a run of another process: any pieces that a journal grows by amount to the whole of it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab import lock
from pisa_fab.errors import RunError
from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    Ending,
    Event,
    HostLost,
    HostReady,
    JobRecord,
    JobsAdded,
    JobState,
    Outcome,
    RunClosed,
    RunOpened,
)
from pisa_fab.follow import HeadFollower, JournalFollower, is_at_work
from pisa_fab.history import History
from pisa_fab.journal import Journal
from pisa_fab.journal_format import decode, encode
from pisa_fab.layout import Layout
from pisa_fab.lock import RunLock
from pisa_fab.model import Policy

GOOD = Outcome(Ending.EXITED, exit_code=0, seconds=2.0)
EVENTS: list[Event] = [
    JobsAdded(0, [JobRecord(f"{n:016x}", ("s.py", str(n)), {"-n": str(n)}) for n in range(4)]),
    RunOpened("1.0", "head", 1, range(4), Policy(retries=1)),
    HostReady("a", 2, "3.11", 4, "m1"),
    AttemptStarted(0, 1, "a"),
    AttemptStarted(1, 1, "a"),
    AttemptEnded(0, 1, "a", GOOD),
    HostLost("a", "silent"),
    HostReady("b", 1, "3.11", 4, "m2"),
    AttemptStarted(2, 1, "b"),
    AttemptEnded(2, 1, "b", Outcome(Ending.EXITED, exit_code=3, tail="no\n")),
    RunClosed("interrupted"),
    RunOpened("1.0", "head", 2, range(4), Policy(retries=1), epoch=2),
    AttemptEnded(1, 1, "a", GOOD),
]
LINES = [encode(float(n), event).encode() + b"\n" for n, event in enumerate(EVENTS)]
WHOLE = b"".join(LINES)


def decode_line(line: bytes) -> tuple[float, Event]:
    found = decode(line.decode())
    assert found is not None
    return found


def amounts_to(history: History) -> tuple[object, ...]:
    return (history.scheduler.snapshot(), history.records, history.results, history.hosts, history.closed)


def read_whole(data: bytes, folder: Path) -> History:
    path = folder / "whole"
    path.write_bytes(data)
    follower = JournalFollower(path)
    follower.update()
    return follower.history


@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_any_split_amounts_to_the_whole(cuts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("split")
    path = folder / "growing"
    told: list[Event] = []
    follower = JournalFollower(path, lambda moment, event: told.append(event))
    for end in [*sorted(cuts), len(WHOLE)]:
        path.write_bytes(WHOLE[:end])
        follower.update()
        assert told == [event for _, event in map(decode_line, LINES[: len(told)])]
        assert amounts_to(follower.history) == amounts_to(read_whole(WHOLE[:end], folder))
    assert len(told) == len(EVENTS)
    assert not follower.update()


@given(
    seen=st.integers(0, len(WHOLE)),
    kept=st.integers(0, len(LINES)),
    added=st.lists(st.sampled_from(EVENTS), max_size=6),
)
def test_what_was_cut_off_and_written_anew_is_noticed(
    seen: int, kept: int, added: list[Event], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = folder / "journal"
    path.write_bytes(WHOLE[:seen])
    follower = JournalFollower(path)
    follower.update()
    later = [encode(1000.0 + n, event).encode() + b"\n" for n, event in enumerate(added)]
    after = b"".join([*LINES[:kept], *later])
    path.write_bytes(after)
    follower.update()
    assert amounts_to(follower.history) == amounts_to(read_whole(after, folder))


def test_a_journal_that_is_not_there_yet_is_no_error(tmp_path: Path) -> None:
    follower = JournalFollower(tmp_path / "none")
    assert not follower.update()
    assert follower.begun == 0
    (tmp_path / "none").write_bytes(WHOLE)
    assert follower.update()
    assert follower.begun == 1


def test_a_journal_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(WHOLE)
    follower = JournalFollower(path)
    follower.update()
    path.unlink()
    assert follower.update()
    assert follower.history.opened is None
    assert not follower.update()
    other = b"".join(encode(100.0 + n, event).encode() + b"\n" for n, event in enumerate(EVENTS[:3]))
    path.write_bytes(other + WHOLE)  # longer than before, and other lines
    assert follower.update()
    assert follower.history.epochs == 3
    assert follower.begun == 2


def test_a_replaced_journal_of_the_same_length_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(WHOLE)
    follower = JournalFollower(path)
    follower.update()
    path.write_bytes(WHOLE.replace(b'"1.0"', b'"2.0"'))
    assert follower.update()
    assert follower.history.opened is not None
    assert follower.history.opened.version == "2.0"


def test_times_of_the_scheduler_are_unix_times(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"".join(LINES[:7]))
    follower = JournalFollower(path)
    follower.update()
    doubt = follower.history.scheduler.doubts.get(1)
    assert doubt is not None
    assert doubt.until == 6.0 + 65.0


def test_spoilt_lines_at_the_end_are_left_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(WHOLE[: len(LINES[0])] + b"\0\0\0\nrubbish\n")
    follower = JournalFollower(path)
    follower.update()
    assert len(follower.history.records) == 4
    assert not follower.update()
    path.write_bytes(WHOLE)
    assert follower.update()
    assert follower.history.scheduler.state(0) is JobState.SUCCEEDED


def test_a_damaged_line_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"".join(LINES[:3]))
    follower = JournalFollower(path)
    follower.update()
    path.write_bytes(b"".join([*LINES[:3], b"rubbish\n", *LINES[3:]]))
    with pytest.raises(RunError, match=r"journal:4: this line is damaged"):
        follower.update()


def test_a_journal_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        JournalFollower(tmp_path).update()  # a folder


def test_what_a_journal_writes_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    follower = JournalFollower(path)
    journal = Journal.open(path)
    for moment, event in enumerate(EVENTS):
        journal.append(float(moment), [event])
        journal.sync()
        assert follower.update()
    journal.close()
    assert amounts_to(follower.history) == amounts_to(read_whole(WHOLE, tmp_path))


# -- the head -------------------------------------------------------------------------------------------


def hold(layout: Layout, ready: multiprocessing.synchronize.Event) -> None:
    with RunLock(layout.lock):
        ready.set()
        while True:
            multiprocessing.Event().wait(60)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "run")
    layout.create()
    return layout


def test_a_head_is_alive_while_it_holds_the_lock(layout: Layout) -> None:
    head = HeadFollower(layout)
    assert not head.look()
    ready = multiprocessing.Event()
    process = multiprocessing.Process(target=hold, args=(layout, ready), daemon=True)
    process.start()
    assert ready.wait(60)
    assert head.look()
    assert head.holder is not None
    assert head.holder.pid == process.pid
    process.kill()
    process.join()
    assert not head.look()


Write = Callable[..., None]


@pytest.fixture
def write(layout: Layout) -> Write:
    def write(beat: int, *, machine: str = "another", released: bool = False) -> None:
        holder = {"head": "pc09", "pid": 7, "since": 1.0, "machine": machine, "beat": beat}
        text = str(holder | {"released": released}).replace("'", '"').replace("False", "false")
        layout.lock.write_text(text.replace("True", "true"))

    return write


def test_where_locks_do_not_reach_a_beat_shows_that_a_head_lives(
    layout: Layout, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    head = HeadFollower(layout)
    write(1)
    assert head.look()  # as long as nothing is known
    now += 5.0
    write(2)
    assert head.look()
    now += 5.0
    assert head.look()
    assert head.silence == 5.0
    now += 2.0
    assert not head.look()
    write(3)
    assert head.look()
    write(3, released=True)
    assert not head.look()


def test_on_this_pc_the_kernel_knows(layout: Layout, write: Write) -> None:
    write(1, machine="")
    assert not HeadFollower(layout).look()


@pytest.fixture
def fast_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.2)


@pytest.mark.usefixtures("fast_beats")
def test_one_look_finds_a_head_whose_beat_goes_on(layout: Layout, write: Write) -> None:
    write(1)
    stop = threading.Event()

    def beat() -> None:
        number = 1
        while not stop.wait(0.1):
            number += 1
            write(number)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert is_at_work(layout)
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("fast_beats")
def test_one_look_finds_out_that_a_head_on_another_pc_has_died(layout: Layout, write: Write) -> None:
    write(1)
    assert not is_at_work(layout)


@pytest.mark.parametrize("how", [{"released": True}, {"machine": ""}, {"machine": lock.boot_id()}])
def test_one_look_is_enough_where_the_lock_is_to_be_believed(
    layout: Layout, write: Write, how: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    assert not is_at_work(layout)
    write(1, **how)
    assert not is_at_work(layout)
