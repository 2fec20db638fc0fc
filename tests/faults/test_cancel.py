"""What a person does to a run from another PC than the head's, and to jobs whose host cannot be reached.

What happened is judged by what the jobs themselves logged (see witness.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from namespaces import NamespacePool
from processes import wait_for
from programs import Programs, Project
from witness import Batch, begin

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("pool", [{"hosts": 2}], indirect=True, ids=[""]),
]
On = Callable[[str], Programs]


def on_host(batch: Batch, host: str) -> list[str]:
    """Give the jobs that have begun on a host."""
    return [attempt.job for attempt in batch.begun(host)]


def states(programs: Programs) -> dict[str, int]:
    counts = json.loads(programs.run("inv", "status", "--json").stdout)["counts"]
    return {state: count for state, count in counts.items() if count}


def test_a_run_is_watched_and_cancelled_from_a_host_of_the_pool(
    pool: NamespacePool, project: Project, programs: Programs, programs_on: On
) -> None:
    batch = Batch(project, 8)
    project.pool(pool.hosts)
    program = begin(programs.start, batch, 4)
    elsewhere = programs_on("pc02")
    assert "4 waiting, 4 running" in elsewhere.run("inv", "status").stdout
    assert "all 4 slots on 2 hosts are busy" in elsewhere.run("inv", "status", "--job", "7").stdout
    done = elsewhere.run("inv", "cancel", "--only", "6-7")
    assert done.stdout == "2 jobs cancelled: 0006, 0007\n", done.said
    one = batch.attempts()[0]
    logs = elsewhere.start("inv", "logs", one.job, "--follow")
    batch.let_go(one.job)
    followed = logs.wait()
    assert followed.returncode == 0, followed.said
    assert json.loads(followed.stdout) == ["-n", str(int(one.job))]
    wait_for(lambda: len(batch.begun()) == 5, "a job in its place")
    done = elsewhere.run("inv", "cancel")
    assert done.returncode == 0, done.said
    assert "it has ended; to go on: inv submit" in done.stdout
    ended = program.wait()
    assert ended.returncode == 130, ended.said
    assert "cancelled the run" in ended.stdout
    pool.assert_empty()
    assert states(elsewhere) == {"waiting": 5, "succeeded": 1, "cancelled": 2}


def test_jobs_of_a_host_that_was_cut_off_are_cancelled_when_it_is_back(
    pool: NamespacePool, project: Project, programs: Programs
) -> None:
    batch = Batch(project, 4)
    project.pool(pool.hosts, lease="20s")
    program = begin(programs.start, batch, 4)
    pool["pc02"].cut()
    there = on_host(batch, "pc02")
    program.wait_for_output("pc02: lost")
    cancel = programs.start("inv", "cancel", "--only", ",".join(there))
    program.wait_for_output(" cancels ")
    pool["pc02"].heal()
    program.wait_for_output("pc02: back, with 2 jobs")
    assert cancel.wait().stdout.startswith("2 jobs "), cancel.stdout
    wait_for(lambda: states(programs).get("cancelled") == 2, "the jobs to be cancelled")
    batch.let_go()
    ended = program.wait()
    assert ended.returncode == 1, ended.said
    assert "4 jobs: 2 succeeded, 2 cancelled" in ended.stdout
    assert {
        attempt.job: attempt.ended for attempt in batch.attempts() if attempt.job in there
    } == dict.fromkeys(there)


def test_jobs_of_a_host_that_does_not_come_back_are_cancelled_after_the_lease(
    pool: NamespacePool, project: Project, programs: Programs
) -> None:
    batch = Batch(project, 4)
    project.pool(pool.hosts, lease="2s")
    program = begin(programs.start, batch, 4)
    pool["pc02"].power_off()
    there = on_host(batch, "pc02")
    program.wait_for_output("pc02: lost")
    done = programs.run("inv", "cancel", "--only", ",".join(there))
    assert done.returncode == 0, done.said
    batch.let_go()
    ended = program.wait()
    assert "4 jobs: 2 succeeded, 2 cancelled" in ended.stdout, ended.said
    assert len(batch.attempts()) == 4  # nothing of them was run again


def test_jobs_of_a_dead_head_are_cancelled_by_the_next(
    pool: NamespacePool, project: Project, programs: Programs, programs_on: On
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, lease="60s")
    begin(programs.start, batch, 4).kill()
    done = programs_on("pc01").run("inv", "cancel", "--only", "0,5")
    assert done.returncode == 0, done.said
    assert "1 job cancelled: 0005" in done.stdout
    assert "as soon as nothing of it runs" in done.stdout
    program = programs.start("inv", "submit", "--log")
    wait_for(lambda: states(programs).get("cancelled") == 2, "the jobs to be cancelled")
    batch.let_go()
    ended = program.wait()
    assert ended.returncode == 1, ended.said
    assert "6 jobs: 4 succeeded, 2 cancelled" in ended.stdout
    [first] = [attempt for attempt in batch.attempts() if attempt.job == "0000"]
    assert first.ended is None
    pool.assert_empty()
