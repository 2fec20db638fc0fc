"""The command at the end of a run, run for real, may do what it likes: it holds up nobody."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from processes import wait_for

from pisa_fab import notify

VALUES = {"summary": "run: 2 jobs: 2 succeeded", "output": "/run", "state": "succeeded"}


def test_what_it_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    began = time.monotonic()
    command = ["sh", "-c", f"sleep 1000 & echo $! > {pid}"]  # it keeps the standard error open
    try:
        assert notify.notify(command, VALUES, "text") == ""
        assert time.monotonic() - began < notify.PATIENCE
    finally:
        notify.notify(["kill", pid.read_text().strip()], VALUES, "")


def test_what_takes_too_long_is_ended_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PATIENCE", 1.0)
    pid = tmp_path / "pid"
    said = notify.notify(["sh", "-c", f"sleep 1000 & echo $! > {pid}; wait"], VALUES, "text")
    assert said == "notify: sh took longer than 1 s and was ended"
    stat = Path(f"/proc/{pid.read_text().strip()}/stat")
    wait_for(lambda: not stat.exists() or ") Z " in stat.read_text(), "the end of what it has started")


def test_of_much_that_it_says_the_last_line_is_shown() -> None:
    said = notify.notify(["sh", "-c", "seq 300000 >&2; echo '{state}' >&2; exit 4"], VALUES, "text")
    assert said == "notify: sh ended with 4: succeeded"


def test_one_that_reads_nothing_is_as_good(tmp_path: Path) -> None:
    assert notify.notify(["true"], VALUES, "text" * 100_000) == ""
