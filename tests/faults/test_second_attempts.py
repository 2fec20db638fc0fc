"""Second attempts of jobs that take longer than they should, under a real run, while hosts and heads die.

What happened is judged by what the jobs themselves logged and by what their user gets (see witness.py).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from marks import hosts
from namespaces import NamespacePool
from processes import wait_for
from programs import Completed, Program, Project
from witness import Attempt, Batch

pytestmark = pytest.mark.root
Run = Callable[..., Completed]
Start = Callable[..., Program]

STRAGGLER = "0007"
SAID = f"{STRAGGLER}.2: second attempt on"


def begin(
    start_program: Start, project: Project, pool: NamespacePool, abuse: str = ""
) -> tuple[Batch, Program]:
    """Submit eight jobs, of which the last one does not end; wait until it runs twice."""
    batch = Batch(project, 8, abuse, speculate=2)
    project.pool(pool.hosts, lease="6s")
    batch.let_go(*(job for job in batch.jobs if job != STRAGGLER))
    program = start_program("inv", "submit", "--log")
    program.wait_for_output(SAID)
    wait_for(lambda: len(of_straggler(batch)) == 2, "the second attempt to begin")
    return batch, program


def of_straggler(batch: Batch) -> list[Attempt]:
    """Give the attempts of the job that does not end by itself."""
    return [attempt for attempt in batch.attempts() if attempt.job == STRAGGLER]


def check(batch: Batch, program: Program, run_program: Run, attempt: int) -> None:
    """See that the run succeeds, and that this attempt of the straggler counts."""
    done = program.wait()
    assert done.returncode == 0, done.said
    batch.check(run_program, overlaps=True)
    assert {one.job for one in batch.attempts() if one.overlaps} == {STRAGGLER}
    row = batch.project.table("run/results.csv")[int(STRAGGLER)]
    assert int(row["attempt"]) == attempt
    ended = [one.number for one in of_straggler(batch) if one.ended is not None]
    assert ended == [attempt]


@hosts(3)
@pytest.mark.parametrize("winner", [1, 2])
def test_the_first_success_counts_and_the_other_is_ended_and_leaves_nothing(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start, winner: int
) -> None:
    batch, program = begin(start_program, project, pool)
    first, second = of_straggler(batch)
    assert first.host != second.host
    status = run_program("inv", "status").stdout
    assert "1 running (1 with a second attempt)" in status
    said = run_program("inv", "status", "--job", STRAGGLER).stdout
    assert f"second attempt (2) on {second.host}, because it takes longer than expected" in said
    assert "runs, because the other takes longer than expected" in said
    batch.let_go(f"{STRAGGLER}.{winner}")
    check(batch, program, run_program, winner)
    pool.assert_empty()
    said = run_program("inv", "status", "--job", STRAGGLER).stdout
    assert f"attempt {winner}\n" in said.splitlines()[1] + "\n"


@hosts(3)
def test_one_that_does_not_listen_is_ended_all_the_same(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    batch, program = begin(start_program, project, pool, deaf)
    batch.let_go(f"{STRAGGLER}.2")
    check(batch, program, run_program, 2)
    wait_for(lambda: not any(host.started_there() for host in pool.hosts), "everything to be ended")
    pool.assert_empty()


@hosts(3)
@pytest.mark.parametrize("lost", [1, 2])
def test_a_host_that_is_lost_with_one_of_the_two_leaves_it_to_the_other(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start, lost: int
) -> None:
    batch, program = begin(start_program, project, pool)
    host = of_straggler(batch)[lost - 1].host
    pool[host].cut()
    program.wait_for_output(f"{host}: lost")
    batch.let_go(f"{STRAGGLER}.{3 - lost}")
    check(batch, program, run_program, 3 - lost)
    pool[host].heal()
    wait_for(lambda: not pool[host].started_there(), "the worker that was lost to leave")
    pool.assert_empty()


@hosts(3)
def test_a_host_that_comes_back_with_an_attempt_that_is_not_needed_any_more_ends_it(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch, program = begin(start_program, project, pool)
    host = of_straggler(batch)[0].host
    pool[host].cut()
    program.wait_for_output(f"{host}: lost")
    pool[host].heal()
    program.wait_for_output(f"{host}: back, with 1 job")
    wait_for(lambda: f"{STRAGGLER}.1 on {host}: stopped" in program.stdout, "the first attempt to end")
    batch.let_go(f"{STRAGGLER}.2")
    check(batch, program, run_program, 2)


@hosts(3)
def test_another_head_ends_the_second_attempt_and_takes_up_the_first(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch, program = begin(start_program, project, pool)
    first, second = of_straggler(batch)
    program.kill()
    again = start_program("inv", "submit", "--log")
    again.wait_for_output(f"{STRAGGLER}.2 on {second.host}: stopped")
    again.wait_for_output(f"{first.host}: back, with 1 job")
    batch.let_go(f"{STRAGGLER}.1")
    check(batch, again, run_program, 1)
    pool.assert_empty()


@hosts(3)
def test_a_cancelled_job_is_ended_on_both_hosts(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch, program = begin(start_program, project, pool)
    done = run_program("inv", "cancel", "--only", STRAGGLER)
    assert done.returncode == 0, done.said
    assert "7 succeeded, 1 cancelled" in program.wait().stdout
    assert [one.ended for one in of_straggler(batch)] == [None, None]
    pool.assert_empty()
