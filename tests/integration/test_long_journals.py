"""Real runs whose journals are long enough for a checkpoint: it is there, used, and makes no difference."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import wait_for
from programs import Completed, Program, Project

from pisa_fab.checkpoint import load
from pisa_fab.events import JobState
from pisa_fab.history import History
from pisa_fab.journal import read
from pisa_fab.layout import Layout
from pisa_fab.run import read_history

Run = Callable[..., Completed]
Start = Callable[..., Program]

JOBS = 60
SCRIPT = """
import sys, time
n = int(sys.argv[2])
time.sleep(0.02)
sys.exit("no" if n == 7 else 0)
"""
# As `submit`, in which journals of some lines are long ones.
SUBMIT = """
import sys
from pisa_fab import checkpoint
from pisa_fab.program import main
checkpoint.LEAST = 4000
sys.argv = ["pisa-fab", "submit", *sys.argv[1:]]
main()
"""


@pytest.fixture
def many(project: Project) -> Project:
    project.write("script.py", SCRIPT)
    project.write("submit.py", SUBMIT)
    project.jobs({"script": "script.py", "output": "run", "sweep": {"-n": {"from": 0, "to": JOBS - 1}}})
    return project


def layout_of(project: Project) -> Layout:
    return Layout(project.path / "run")


def spared(layout: Layout) -> int:
    """Say how many bytes of the journal need not be read."""
    with layout.journal.open("rb") as file:
        found = load(layout, file)
    return found.offset if found else 0


def same_as_all_of_it(layout: Layout) -> History:
    """Give what the run amounts to, which is the same with its checkpoint and without."""
    short, whole = read_history(layout.root), History()
    for moment, event in read(layout.journal):
        whole.apply(moment, event, moment)
    assert short.scheduler.snapshot() == whole.scheduler.snapshot()
    assert dict(short.results) == dict(whole.results)
    assert dict(short.records) == dict(whole.records)
    assert (short.hosts, short.closed, short.last_at) == (whole.hosts, whole.closed, whole.last_at)
    return short


def test_a_run_that_is_over_is_read_from_its_checkpoint(many: Project, run_program: Run) -> None:
    layout = layout_of(many)
    assert run_program(sys.executable, "submit.py").returncode == 1
    assert spared(layout) == layout.journal.stat().st_size
    counts = same_as_all_of_it(layout).scheduler.counts()
    assert (counts[JobState.SUCCEEDED], counts[JobState.FAILED]) == (JOBS - 1, 1)
    questions = [("status",), ("status", "--json"), ("status", "--job", "7"), ("logs", "7", "--stderr")]
    with_it = [run_program("pisa-fab", *words).stdout for words in questions]
    layout.checkpoint.unlink()
    assert [run_program("pisa-fab", *words).stdout for words in questions] == with_it
    assert run_program(sys.executable, "submit.py", "--retry-failed").returncode == 1
    assert spared(layout) == layout.journal.stat().st_size
    again = run_program(sys.executable, "submit.py", "--rerun")
    assert again.returncode == 1, again.said
    assert same_as_all_of_it(layout).epochs == 3


def test_a_head_that_is_killed_is_taken_over_from_the_checkpoint(
    many: Project, start_program: Start, run_program: Run
) -> None:
    layout = layout_of(many)
    head = start_program(sys.executable, "submit.py")
    wait_for(lambda: layout.checkpoint.exists() and spared(layout) > 0, "a checkpoint")
    head.kill()
    history = same_as_all_of_it(layout)
    assert history.closed is None
    done = run_program(sys.executable, "submit.py")
    assert done.returncode == 1, done.said
    history = same_as_all_of_it(layout)
    counts = history.scheduler.counts()
    assert (counts[JobState.SUCCEEDED], counts[JobState.FAILED]) == (JOBS - 1, 1)
    assert {path.name for path in layout.stdout.iterdir()} == {f"{n:04d}.out" for n in range(JOBS)}


def test_a_line_that_is_mended_by_hand_is_noticed(many: Project, run_program: Run) -> None:
    layout = layout_of(many)
    run_program(sys.executable, "submit.py")
    lines = layout.journal.read_bytes().splitlines(keepends=True)
    ended = next(n for n, line in enumerate(lines) if b'"e": "ended", "job": 3, ' in line)
    layout.journal.write_bytes(b"".join(lines[:ended] + lines[ended + 1 :]))
    assert spared(layout) == 0
    history = same_as_all_of_it(layout)
    assert history.scheduler.state(3) is not JobState.SUCCEEDED
    done = run_program(sys.executable, "submit.py")
    assert "1 of 60 jobs to run" in done.said, done.said
    assert same_as_all_of_it(layout).scheduler.state(3) is JobState.SUCCEEDED
    assert Path(layout.stdout / "0003.out").exists()
