"""Batches with a deadline that cannot be kept: nothing is begun, nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from programs import Completed, Project

Run = Callable[..., Completed]


def hence(hours: int) -> str:
    """Write a time that is so many hours ahead, as a jobs file does."""
    return f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("hours", "says"),
    [
        (-1, ["has passed", "write a later one"]),
        (10, ["is missed: done about ", "it fits with 2 more slots a host"]),
    ],
    ids=["it has passed", "the work is too much"],
)
def test_a_deadline_that_cannot_be_kept_is_refused_before_anything_is_written(
    project: Project, run_program: Run, hours: int, says: list[str]
) -> None:
    jobs = {"command": ["true"], "output": "run", "sweep": {"-n": {"from": 1, "to": 9}}}
    project.jobs({**jobs, "expect": "3h", "deadline": hence(hours)})
    project.pool(["nowhere.invalid"], slots=1, timezone="UTC")
    done = run_program("inv", "submit")
    assert done.returncode == 2, done.said
    for text in says:
        assert text in done.stderr
    assert sorted(path.name for path in project.path.iterdir()) == ["cluster.yaml", "jobs.yaml", "tasks.py"]


def test_a_deadline_that_can_be_kept_is_no_obstacle(project: Project, run_program: Run) -> None:
    project.jobs({"command": ["true"], "output": "run", "deadline": hence(1000), "expect": "1s"})
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
