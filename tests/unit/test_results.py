"""Outputs that show late, or were never published: `collect` waits a moment, and takes the attempt's file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pisa_fab import results
from pisa_fab.layout import Layout
from pisa_fab.results import Outputs, ParseError


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "run")
    layout.create()
    return layout


def write(path: Path, text: str) -> None:
    """Let a file appear as a whole."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def meanwhile(outputs: Outputs, action: Callable[[], object]) -> threading.Thread:
    """Do something as soon as the reader has begun to wait."""

    def wait_and_act() -> None:
        while outputs.patience == results.VISIBILITY_PATIENCE:
            time.sleep(0.001)
        action()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def test_a_file_that_shows_late_is_waited_for(layout: Layout) -> None:
    outputs = Outputs(layout)
    thread = meanwhile(outputs, lambda: write(layout.job_files(3)[0], "late\n"))
    assert outputs.read(3, 1) == "late\n"
    thread.join()
    assert 0 < outputs.patience < results.VISIBILITY_PATIENCE


def test_a_file_that_comes_right_away_costs_no_patience(layout: Layout) -> None:
    outputs = Outputs(layout)
    for job in range(10):
        write(layout.job_files(job)[0], f"{job}\n")
        assert outputs.read(job, 1) == f"{job}\n"
    assert outputs.patience == results.VISIBILITY_PATIENCE


def test_files_that_never_come_cost_the_patience_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "VISIBILITY_PATIENCE", 0.5)
    outputs = Outputs(layout)
    write(layout.job_files(50)[0], "there\n")
    for job in range(50):
        with pytest.raises(ParseError, match="gone"):
            outputs.read(job, 1)
        assert outputs.patience <= 0
    assert outputs.read(50, 1) == "there\n"
    write(layout.job_files(51)[0], "there, too\n")
    assert outputs.read(51, 1) == "there, too\n"


def test_what_was_not_published_is_taken_from_the_attempt(layout: Layout) -> None:
    write(layout.attempt_files(7, 2)[0], "second\n")
    write(layout.attempt_files(7, 1)[0], "first\n")
    outputs = Outputs(layout)
    assert outputs.read(7, 2) == "second\n"
    write(layout.job_files(7)[0], "of an earlier attempt\n")
    assert outputs.read(7, 2) == "second\n"  # the journal says which attempt counted
    layout.attempt_files(7, 2)[0].replace(layout.job_files(7)[0])
    assert outputs.read(7, 2) == "second\n"  # it was published just now


def test_an_attempts_file_may_show_late_as_well(layout: Layout) -> None:
    outputs = Outputs(layout)
    thread = meanwhile(outputs, lambda: write(layout.attempt_files(7, 2)[0], "late\n"))
    assert outputs.read(7, 2) == "late\n"
    thread.join()


def test_an_output_that_cannot_be_read_is_no_late_one(layout: Layout) -> None:
    layout.job_files(7)[0].mkdir()
    outputs = Outputs(layout)
    with pytest.raises(ParseError, match="cannot be read: Is a directory"):
        outputs.read(7, 1)
    assert outputs.patience == results.VISIBILITY_PATIENCE


@pytest.mark.parametrize("stream", ["out", "err"])
def test_what_an_older_version_left_flat_is_read_until_the_job_is_run_again(
    layout: Layout, stream: str
) -> None:
    which = ("out", "err").index(stream)
    new, old = (files[which] for files in layout.job_places(12_345))
    write(old, "of 0.3\n")
    outputs = Outputs(layout)
    assert outputs.read(12_345, 1, stream) == "of 0.3\n"
    write(new, "newer\n")
    assert outputs.read(12_345, 2, stream) == "newer\n"
    assert outputs.patience == results.VISIBILITY_PATIENCE


def test_what_an_older_version_did_not_publish_comes_before_what_it_did(layout: Layout) -> None:
    write(list(layout.attempt_places(12_345, 2))[1][0], "second\n")
    write(list(layout.job_places(12_345))[1][0], "first\n")
    assert Outputs(layout).read(12_345, 2) == "second\n"


def test_a_subfolder_may_show_late_as_well(layout: Layout) -> None:
    outputs = Outputs(layout)
    thread = meanwhile(outputs, lambda: write(layout.attempt_files(12_345, 2)[0], "late\n"))
    assert outputs.read(12_345, 2) == "late\n"
    thread.join()


def test_only_the_folders_of_the_jobs_that_are_read_are_listed(layout: Layout) -> None:
    for job in (7, 12_345, 20_000, 20_001):
        write(layout.job_files(job)[0], f"{job}\n")
    outputs = Outputs(layout)
    assert outputs.listed == set()
    assert [outputs.read(job, 1) for job in (20_000, 20_001)] == ["20000\n", "20001\n"]
    assert outputs.listed == {"", "20000/"}
