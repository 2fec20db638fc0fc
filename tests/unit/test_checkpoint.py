"""The checkpoint: with it, and whatever is done to it or to the journal, all is as if that had been read."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pisa_fab import checkpoint
from pisa_fab.attempts import Attempts
from pisa_fab.checkpoint import Keeper, load, program
from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
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
from pisa_fab.follow import JournalFollower
from pisa_fab.history import History
from pisa_fab.journal import Journal, read
from pisa_fab.journal_format import may_concern
from pisa_fab.layout import Layout
from pisa_fab.model import Policy
from pisa_fab.processes import clock
from pisa_fab.run import read_history

SECRET = "0123456789abcdef0123456789abcdef"
JOBS = 40
CALM = settings(deadline=None)  # a busy machine is no failure


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a journal of some lines be a long one."""
    monkeypatch.setattr(checkpoint, "LEAST", 1000)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return made(tmp_path / "run")


def made(root: Path) -> Layout:
    layout = Layout(root)
    layout.create()
    layout.secret.write_text(SECRET)
    return layout


class Head:
    """What a head does with events, by dice: applies them, decides, journals, and keeps checkpoints."""

    def __init__(self, layout: Layout, seed: int) -> None:
        self.layout = layout
        self.dice = random.Random(seed)
        self.history = History()
        self.time = 1763797062.0
        self.now = clock()

        def begin(file: object) -> tuple[int, int]:
            found = load(layout, file)  # type: ignore[arg-type]
            if found is not None:
                self.history = found.history
            return (found.offset, found.lines) if found else (0, 0)

        self.journal = Journal.open(layout.journal, lambda t, e: self.history.apply(t, e), begin)
        self.keeper = Keeper(layout, SECRET)

    def record(self, event: Event) -> None:
        self.history.apply(self.time, event, self.now)
        self.journal.append(self.time, [event])

    def open(self) -> None:
        if not self.history.records:
            records = [JobRecord(f"{n:016x}", ("s.py", str(n)), {"-n": str(n)}) for n in range(JOBS)]
            self.record(JobsAdded(0, records[:30]))
            self.record(JobsAdded(30, records[30:]))
        policy = Policy(retries=1, max_losses=2)
        self.record(RunOpened("1.0", "head", 1, range(JOBS), policy, self.history.epochs + 1))

    def live(self, steps: int) -> None:
        for _ in range(steps):
            passed = self.dice.random() * self.dice.choice([1, 20])  # so that doubts end, too
            self.time, self.now = round(self.time + passed, 3), self.now + passed
            self.step()
            self.journal.append(self.time, self.history.decide(self.time, self.now))
            self.journal.sync()
            self.keeper.look(self.history, self.journal)

    def step(self) -> None:
        scheduler = self.history.scheduler
        host = f"pc{self.dice.randrange(4)}"
        running = list(scheduler.running.values())
        kind = self.dice.random()
        if host not in scheduler.ready_hosts:
            self.record(HostReady(host, 3, "3.11", 4, f"machine of {host}"))
        elif kind < 0.05:
            self.record(HostLost(host, "silent", worker_ended=self.dice.random() < 0.5))
        elif kind < 0.08:
            self.record(CancelAsked((self.dice.randrange(JOBS),), "me"))
        elif running:
            self.end(self.dice.choice(running))

    def end(self, started: AttemptStarted) -> None:
        seconds = round(self.dice.uniform(0.1, 9.0), 3)
        good = Outcome(Ending.EXITED, 0, None, seconds, seconds, 0.01, 9 << 20)
        bad = Outcome(Ending.EXITED, 3, None, seconds, tail="ValueError: no\n")
        stopped = Outcome(Ending.STOPPED, None, 15, seconds)
        outcome = self.dice.choices([good, bad, stopped], [8, 3, 1])[0]
        self.record(AttemptEnded(started.job, started.attempt, started.host, outcome))

    def close(self, reason: str = "") -> None:
        if reason:
            self.record(RunClosed(reason))
            self.journal.sync()
            self.keeper.look(self.history, self.journal)
        self.keeper.close()
        self.journal.close()


def replayed(layout: Layout) -> History:
    history = History()
    for moment, event in read(layout.journal):
        history.apply(moment, event, moment)
    return history


def answers(history: History, time: float = 1763797100.0) -> dict[str, object]:
    """Give everything that one may ask a history, but what the clock of a head alone determines."""
    opened = history.opened
    return {
        "scheduler": history.scheduler.snapshot(),
        "records": dict(history.records),
        "results": dict(history.results),
        "unusual": history.results.others(),
        "hosts": history.hosts,
        "opened": opened and (opened.head, opened.policy, list(opened.jobs), opened.epoch),
        "times": (history.opened_at, history.closed_at, history.last_at),
        "closed": history.closed,
        "paused": history.paused,
        "numbers": dict(history.numbers()),
        "next": (history.next_number, history.epochs),
        "failures": list(history.failures()),
        "common": history.common_failure(),
        "started": [history.started_at(job) for job in range(JOBS)],
        "rate": (history.rate(time), history.eta(time)),
        "expected": [history.forecast.expect({"-n": str(n)}) for n in range(0, JOBS, 7)],
        "looks": [history.scheduler.look(job) for job in range(JOBS)],
    }


def spared(layout: Layout) -> int:
    """Say how many bytes of the journal the checkpoint spares now."""
    with layout.journal.open("rb") as file:
        found = load(layout, file)
    return found.offset if found else 0


def lived(layout: Layout, seed: int, steps: int = 60, reason: str = "interrupted") -> Head:
    head = Head(layout, seed)
    head.open()
    head.live(steps)
    head.close(reason)
    return head


# -- as if all was read -------------------------------------------------------------------------------------


@CALM
@given(st.integers(0, 10**6), st.integers(0, 80), st.integers(0, 40), st.sampled_from(["", "interrupted"]))
@example(seed=2585, steps=29, more=0, reason="")  # nothing was learned since the order was made last
@example(seed=509555, steps=36, more=0, reason="interrupted")  # forgiven and cancelled in the same moment
def test_what_is_spared_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: int, more: int, reason: str
) -> None:
    layout = made(tmp_path_factory.mktemp("runs") / "run")
    lived(layout, seed, steps, reason)
    assert answers(read_history(layout.root)) == answers(replayed(layout))
    if reason:
        assert spared(layout) == layout.journal.stat().st_size
    lived(layout, seed + 1, more, "")  # the next head begins with it, too
    assert answers(read_history(layout.root)) == answers(replayed(layout))


def test_it_is_written_while_a_run_goes_on_and_when_it_is_over(layout: Layout) -> None:
    head = Head(layout, 1)
    head.open()
    head.live(80)
    head.keeper.close()
    first = head.keeper.offset
    assert 0 < first < head.journal.size
    assert spared(layout) == first
    head.close("finished")
    assert spared(layout) == layout.journal.stat().st_size
    assert layout.checkpoint.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in layout.private.iterdir()} == {
        "attempts",
        "checkpoint",
        "journal.jsonl",
        "requests",
        "secret",
    }


def test_a_short_journal_has_none(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LEAST", 1 << 20)
    lived(layout, 1)
    assert not layout.checkpoint.exists()


def test_times_of_a_head_are_unix_times_for_who_reads(layout: Layout) -> None:
    head = Head(layout, 3)
    head.open()
    head.record(HostReady("pc0", 3, "3.11", 4, "m"))
    head.live(1)
    lost_at = head.now
    head.record(HostLost("pc0", "silent"))
    head.close("interrupted")
    with layout.journal.open("rb") as file:
        found = load(layout, file)
    assert found is not None
    head.history.scheduler.shift(1000.0)
    doubts = list(head.history.scheduler.doubts.values())
    restored = list(found.history.scheduler.doubts.values())
    assert doubts
    for live, unix in zip(doubts, restored, strict=True):
        assert live.until == pytest.approx(lost_at + 65.0 + 1000.0, abs=5.0)
        assert unix.until - (live.until - 1000.0) == pytest.approx(
            layout.checkpoint.stat().st_mtime - clock(), abs=5.0
        )


def test_a_follower_goes_on_from_it_and_tells_what_comes_then(layout: Layout) -> None:
    head = Head(layout, 5)
    head.open()
    head.live(50)
    head.keeper.close()
    told: list[Event] = []
    follower = JournalFollower(layout.journal, lambda _, event: told.append(event), spared=layout)
    assert follower.update()
    everything = [event for _, event in read(layout.journal)]
    assert 0 < len(told) < len(everything)
    head.live(20)
    head.close("interrupted")
    assert follower.update()
    everything = [event for _, event in read(layout.journal)]
    assert told == everything[len(everything) - len(told) :]
    assert follower.begun == 1
    assert answers(follower.history) == answers(replayed(layout))


def test_lines_are_counted_over_what_is_spared(layout: Layout) -> None:
    lived(layout, 7)
    count = len(layout.journal.read_bytes().splitlines())
    with layout.journal.open("ab") as file:
        file.write(b'no line of ours\n{"t": 1.0, "e": "probed", "host": "pc0"}\n')
    with pytest.raises(Exception, match=f"journal.jsonl:{count + 1}: this line is damaged"):
        read_history(layout.root)


# -- whatever is done to it ---------------------------------------------------------------------------------


def cut(data: bytes, place: int, dice: random.Random) -> bytes:
    return data[: place % len(data)]


def garble(data: bytes, place: int, dice: random.Random) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ dice.randrange(1, 256)]) + data[place + 1 :]


def append(data: bytes, place: int, dice: random.Random) -> bytes:
    return data + dice.randbytes(1 + place % 100)


def swap(data: bytes, place: int, dice: random.Random) -> bytes:
    return dice.randbytes(len(data))


@CALM
@given(st.integers(0, 2**32), st.sampled_from([cut, garble, append, swap]))
def test_one_that_is_spoilt_is_passed_over(
    spoilt: Layout, place: int, spoil: Callable[[bytes, int, random.Random], bytes]
) -> None:
    data = layout_data(spoilt)
    spoilt.checkpoint.write_bytes(spoil(data, place, random.Random(place)))
    assert spared(spoilt) == 0
    assert answers(read_history(spoilt.root)) == answers(replayed(spoilt))
    spoilt.checkpoint.write_bytes(data)
    assert spared(spoilt) > 0


def layout_data(layout: Layout) -> bytes:
    return layout.checkpoint.read_bytes()


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "LEAST", 1000)
        layout = made(tmp_path_factory.mktemp("spoilt") / "run")
        lived(layout, 11)
        yield layout


def forged(layout: Layout, state: bytes, secret: bytes = SECRET.encode()) -> None:
    """Put another state into a checkpoint, with the mark of who knows the secret."""
    data = layout.checkpoint.read_bytes()
    content = data[checkpoint._MARK : checkpoint._MARK + checkpoint._FACTS.size] + state
    layout.checkpoint.write_bytes(checkpoint._mark(secret, content) + content)


class Evil:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


def marked(path: Path) -> None:
    path.write_text("code was run")


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"nonsense",
        pickle.dumps(History()) [:-5],
        pickle.dumps(5),
        pickle.dumps({"scheduler": 1}),
        pickle.dumps(Evil(os.system, "true")),
        pickle.dumps(Evil(eval, "1")),
        pickle.dumps(Evil(bytearray, 1 << 60)),
        pickle.dumps(Evil(History, 1, 2)),
        pickle.dumps(Evil(Policy, [])),
        b"cpisa_fab.run\nRun\n.",
        b"cpisa_fab.history\ndataclass\n.",
        b"cpisa_fab.nothing\nX\n.",
        b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    ],
    ids=range(14),
)  # fmt: skip
def test_even_with_the_right_mark_nothing_else_is_made_of_it(layout: Layout, state: bytes) -> None:
    lived(layout, 13)
    forged(layout, state)
    assert spared(layout) == 0
    assert answers(read_history(layout.root)) == answers(replayed(layout))


def test_no_code_is_run(layout: Layout, tmp_path: Path) -> None:
    lived(layout, 13)
    state = pickle.dumps(Evil(marked, tmp_path / "mark"))
    forged(layout, state)
    assert spared(layout) == 0
    assert not (tmp_path / "mark").exists()
    pickle.loads(state)
    assert (tmp_path / "mark").exists()  # so the state was one that runs code


def test_a_history_without_its_parts_is_none(layout: Layout) -> None:
    head = lived(layout, 13)
    head.history.results = []  # type: ignore[assignment]
    forged(layout, pickle.dumps(head.history))
    assert spared(layout) == 0
    del head.history.results
    forged(layout, pickle.dumps(head.history))
    assert spared(layout) == 0


def test_only_the_owner_s_own_file_is_used(layout: Layout) -> None:
    lived(layout, 17)
    assert spared(layout)
    layout.checkpoint.chmod(0o622)
    assert not spared(layout)
    layout.checkpoint.chmod(0o600)
    assert spared(layout)
    layout.secret.write_text("f" * 32)
    assert not spared(layout)
    layout.secret.write_text("")
    assert not spared(layout)
    layout.secret.unlink()
    assert not spared(layout)
    layout.secret.write_text(SECRET)
    other = layout.private / "other"
    layout.checkpoint.rename(other)
    layout.checkpoint.symlink_to(other)
    assert not spared(layout)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who alone may give files away")
def test_root_trusts_nobody_s_but_its_own(layout: Layout) -> None:
    lived(layout, 17)
    assert spared(layout)
    os.chown(layout.checkpoint, 12345, 12345)
    assert not spared(layout)


def test_one_of_another_version_is_passed_over(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    lived(layout, 19)
    monkeypatch.setattr(checkpoint, "program", lambda: b"another version!")
    assert not spared(layout)
    monkeypatch.setattr(checkpoint, "program", lambda: b"")  # there is no source
    assert not spared(layout)
    layout.checkpoint.unlink()
    lived(layout, 20)
    assert not layout.checkpoint.exists()


def test_the_modules_that_make_a_state_are_told_from_others() -> None:
    assert len(program()) == 16


# -- whatever is done to the journal ------------------------------------------------------------------------


@CALM
@given(st.integers(0, 2**32))
def test_a_journal_that_was_changed_before_it_is_read_from_its_beginning(spoilt: Layout, place: int) -> None:
    data, found = spoilt.journal.read_bytes(), spoilt.journal.stat()
    place %= len(data)
    try:
        # As an editor does it, in the middle; even to the same number of bytes.
        spoilt.journal.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert spared(spoilt) == 0
        spoilt.journal.write_bytes(data[:place])
        assert spared(spoilt) == 0
    finally:
        spoilt.journal.write_bytes(data)
        assert spared(spoilt) == len(data)  # written to since, so by its hash
        os.utime(spoilt.journal, ns=(found.st_atime_ns, found.st_mtime_ns))


@CALM
@given(st.integers(0, 60))
def test_a_torn_tail_behind_it_is_cut_and_nothing_else(spoilt: Layout, length: int) -> None:
    data = spoilt.journal.read_bytes()
    tail = b'{"t": 1763797099.0, "e": "started", "job": 1, "attempt": 9, "host": "pc0"}\n'[:length]
    try:
        spoilt.journal.write_bytes(data + tail)
        assert spared(spoilt) == len(data)
        head = Head(spoilt, 1)
        assert (head.journal.cut, head.journal.size) == (len(tail), len(data))
        assert answers(head.history) == answers(replayed(spoilt))
        head.close()
    finally:
        spoilt.journal.write_bytes(data)


def test_another_journal_is_not_taken_for_this_one(layout: Layout) -> None:
    lived(layout, 23)
    layout.journal.unlink()
    lived(layout, 24, reason="")
    history = read_history(layout.root)
    assert answers(history) == answers(replayed(layout))


def test_what_a_head_left_that_was_killed_while_it_wrote_is_removed(layout: Layout) -> None:
    torn = layout.checkpoint.with_name(f"{layout.checkpoint.name}.0123456789abcdef.new")
    torn.write_bytes(b"half")
    lived(layout, 28)
    assert not torn.exists()
    assert spared(layout)


def test_where_there_is_no_room_the_run_goes_on(layout: Layout) -> None:
    layout.checkpoint.mkdir()
    (layout.checkpoint / "in the way").touch()
    head = lived(layout, 29)
    assert head.history.closed is not None
    assert [path for path in layout.private.iterdir() if path.name.endswith(".new")] == []
    assert answers(read_history(layout.root)) == answers(replayed(layout))


def test_a_head_that_ended_leaves_what_the_next_needs(layout: Layout) -> None:
    lived(layout, 31)
    head = Head(layout, 32)
    assert head.journal.size == spared(layout)
    head.open()
    assert head.history.scheduler.counts()[JobState.RUNNING] == 0
    head.live(30)
    head.close("interrupted")
    assert answers(read_history(layout.root)) == answers(replayed(layout))


@pytest.mark.parametrize("job", [0, 3, 29, 39])
def test_who_asks_for_one_job_is_told_of_it_from_the_beginning(layout: Layout, job: int) -> None:
    lived(layout, 37, steps=120)
    read_anew, spared_most = Attempts(job), Attempts(job)
    for moment, event in read(layout.journal):
        read_anew.take(moment, event)
    told: list[Event] = []

    def tell(moment: float, event: Event) -> None:
        told.append(event)
        spared_most.take(moment, event)

    JournalFollower(layout.journal, tell, layout, partial(may_concern, job=job)).update()
    assert vars(spared_most) == vars(read_anew)
    assert len(read_anew.all) > 0
    attempts = [event for event in told if isinstance(event, AttemptStarted | AttemptEnded)]
    assert {event.job for event in attempts} == {job}
    assert not [event for event in told if isinstance(event, JobsAdded)]
