"""What grows with the jobs and what does not: bytes and steps are counted, no seconds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import pytest

from pisa_fab import run as run_module
from pisa_fab import status
from pisa_fab.endings import JobResults
from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    Ending,
    Event,
    HostReady,
    JobRecord,
    JobsAdded,
    JobState,
    Outcome,
    RunClosed,
    RunOpened,
)
from pisa_fab.history import History
from pisa_fab.journal_format import decode, encode
from pisa_fab.layout import Layout
from pisa_fab.model import Cluster, Host, Policy
from pisa_fab.progress import alike, brief, failures
from pisa_fab.prospects import Prospects
from pisa_fab.records import PackedRecords
from pisa_fab.run import RECORDS_A_LINE, Run, Wish, open_run
from pisa_fab.specs import load_batch
from pisa_fab.states import States

JOBS = 20_000
MOST_BYTES = 150  # of memory, a job


def events(jobs: int, failed: int) -> Iterator[Event]:
    """Give a run in which one job follows another, and every so manyth fails."""
    for first in range(0, jobs, RECORDS_A_LINE):
        numbers = range(first, first + RECORDS_A_LINE)
        words = (("python3", "simulate.py", "--seed", str(n), "--beta", f"{n / 7:.6f}") for n in numbers)
        yield JobsAdded(
            first,
            PackedRecords.of(
                [
                    JobRecord(f"{n * 2**40 + 1:016x}", argv, {"--seed": argv[3], "--beta": argv[5]})
                    for n, argv in zip(numbers, words, strict=True)
                ]
            ),
        )
    yield RunOpened("1.0", "head", 1, range(jobs), Policy(stop_after=3))
    for name in range(20):
        yield HostReady(f"pc{name:02d}", 16, "3.11", 16, f"m{name}")
    for job in range(jobs):
        host, seconds = f"pc{job % 20:02d}", 1.0 + job % 1000 / 8
        yield AttemptStarted(job, 1, host)
        code = int(job % failed == failed - 1)
        tail = f"ValueError: {job}\n" if code else ""
        yield AttemptEnded(
            job, 1, host, Outcome(Ending.EXITED, code, None, seconds, seconds, 0.25, 9 << 20, tail)
        )
    yield RunClosed("finished")


def replayed(jobs: int, failed: int) -> History:
    history = History()
    for number, event in enumerate(events(jobs, failed)):
        found = decode(encode(1763797062.0 + number / 8, event) + "\n")
        assert found is not None
        moment, again = found
        history.apply(moment, again, moment)
    return history


def test_a_job_takes_few_bytes_in_all() -> None:
    replayed(RECORDS_A_LINE, 100)  # what is made once
    tracemalloc.start()
    try:
        history = replayed(JOBS, 1000)
        history.records._at_hand.clear()  # the pieces at hand are as many for any number of jobs
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert history.all_succeeded is False
    assert used / JOBS < MOST_BYTES


class Counted:
    """How often results are looked up, and states gone through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        look, walk = JobResults.__getitem__, States.jobs_in

        def counted_look(results: JobResults, job: int) -> object:
            self.looks += 1
            return look(results, job)

        def counted_walk(states: States, state: JobState) -> Iterator[int]:
            for job in walk(states, state):
                self.looks += 1
                yield job

        monkeypatch.setattr(JobResults, "__getitem__", counted_look)
        monkeypatch.setattr(States, "jobs_in", counted_walk)


def test_a_look_at_a_run_is_no_walk_over_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = replayed(JOBS, 20)
    assert history.failed == JOBS // 20
    layout = Layout(tmp_path)
    counted = Counted(monkeypatch)
    lines = list(status.describe(history, layout, head=False, only_failed=False))
    assert "20000 jobs: 19000 succeeded, 1000 failed" in lines[0]
    assert brief(history).startswith("20000/20000, 1000 failed")
    assert len(list(failures(history))) > 10
    assert counted.looks < 100


def test_what_failed_alike_is_found_among_the_failures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    history = replayed(JOBS, 1000)
    counted = Counted(monkeypatch)
    found = alike(history)
    assert found is not None
    assert len(found.jobs) == JOBS // 1000
    assert counted.looks == JOBS // 1000


def test_keys_and_jobs_of_a_sweep_are_not_kept_as_objects(tmp_path: Path) -> None:
    jobs = 4 * JOBS  # more than of which the cells of an axis are kept
    (tmp_path / "jobs.yaml").write_text(
        f"command: ['true', '{{n}}']\noutput: run\nsweep:\n  n: {{from: 1, to: {jobs}}}\n"
    )
    batch = load_batch(tmp_path / "jobs.yaml")
    len(batch.plan)
    tracemalloc.start()
    try:
        assert sum(1 for _ in batch.plan.jobs(range(jobs))) == jobs
        used, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / jobs < 16  # the keys: eight bytes each
    assert peak / jobs < 250  # while it looks whether any two are the same


def test_a_long_start_shows_that_its_head_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs.yaml").write_text(
        "command: ['true', '{n}']\noutput: run\nsweep:\n  n: {from: 1, to: 95}\n"
    )
    batch = load_batch(tmp_path / "jobs.yaml")
    monkeypatch.setattr(run_module, "RECORDS_A_LINE", 10)
    monkeypatch.setattr(run_module, "LINES_AT_ONCE", 3)
    written: list[int] = []  # how much of the journal was on the disk at each beat
    monkeypatch.setattr(Run, "beat", lambda run, now: written.append(run.journal.size))
    with open_run(batch, waiting=print) as run:
        run.begin(Policy(), 0.0, Wish())
        assert dict(run.history.records).keys() == set(range(95))
    assert len(written) == 10 + 1  # the lines, and a thousand rows of the assignment file
    assert written[0] == 0 < written[3] < written[9]
    with open_run(batch, waiting=print) as run:
        assert [record.key for record in run.history.records.values()] == list(batch.plan.keys())
        assert run.numbering.numbers == range(95)


def test_expectations_of_jobs_all_over_a_batch_unpack_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs.yaml").write_text(
        "command: ['true', '{n}']\noutput: run\nsweep:\n  n: {from: 1, to: 95}\n"
    )
    batch = load_batch(tmp_path / "jobs.yaml")
    unpacked: list[PackedRecords] = []
    raw = PackedRecords.raw
    monkeypatch.setattr(PackedRecords, "raw", lambda packed: unpacked.append(packed) or raw(packed))
    with open_run(batch, waiting=print) as run:
        run.begin(Policy(), 0.0, Wish())
        cluster = Cluster((Host("pc01"),))
        prospects = Prospects(run.history, batch, cluster, UTC, 0.0, run.numbering)
        run.history.forecast.given = lambda arguments: float(arguments["n"] or 0)
        assert [prospects.at_most(job) for job in range(95)] == [float(n) for n in range(1, 96)]
        assert prospects.work(0.0) is not None
        assert unpacked == []
        without = Prospects(run.history, batch, cluster, UTC, 0.0)
        assert [without.at_most(job) for job in range(95)] == [float(n) for n in range(1, 96)]
        assert unpacked != []
