"""Heads that die, stand still, are cut off and come back, and others that take over, under a real run.

What happened is judged by what the jobs themselves logged and by what their user gets (see witness.py).
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable

import pytest
from marks import hosts
from namespaces import NamespacePool
from processes import wait_for
from programs import Completed, Programs, Project
from witness import Batch, begin, submit, succeed

pytestmark = pytest.mark.root
Run = Callable[..., Completed]
On = Callable[[str], Programs]


def jobs_begun(batch: Batch) -> set[str]:
    """Give the jobs that have begun."""
    return {attempt.job for attempt in batch.attempts()}


# -- on the same PC -----------------------------------------------------------------------------------------


@hosts(2)
def test_jobs_of_a_head_that_was_killed_are_adopted_by_the_next_within_the_lease(
    pool: NamespacePool, project: Project, programs: Programs
) -> None:
    batch = Batch(project, 8)
    project.pool(pool.hosts)
    begin(programs.start, batch, 4).kill()
    # This result has no head to go to.
    one = batch.attempts()[0]
    batch.let_go(one.job)
    wait_for(lambda: batch.attempts()[0].ended, "a job to end without a head")
    program = submit(programs.start)
    for name in pool.names:
        program.wait_for_output(f"{name}: back, with 2 jobs that it still has")
    done = succeed(program, batch)
    assert f"{one.job}.1 on {one.host}: succeeded" in done.stdout
    batch.check(programs.run, again=set())
    pool.assert_empty()


@hosts(2)
def test_jobs_of_a_head_that_was_killed_end_with_the_lease_and_are_run_again_by_the_next(
    pool: NamespacePool, project: Project, programs: Programs
) -> None:
    batch = Batch(project, 8)
    project.pool(pool.hosts, lease="2s")
    begin(programs.start, batch, 4).kill()
    lost = jobs_begun(batch)
    pool.assert_empty()
    assert not any(attempt.ended for attempt in batch.attempts())
    succeed(submit(programs.start), batch)
    batch.check(programs.run, again=lost)
    pool.assert_empty()


@hosts(2)
def test_a_head_that_is_killed_again_and_again_loses_nothing(
    pool: NamespacePool, project: Project, programs: Programs
) -> None:
    batch = Batch(project, 8)
    project.pool(pool.hosts)
    program = begin(programs.start, batch, 4)
    for said in ("pc01: back", "pc02: back", "jobs to run", "jobs to run"):
        program.kill()
        program = submit(programs.start)
        program.wait_for_output(said)
    batch.let_go(*sorted(jobs_begun(batch))[:2])
    batch.wait_for_begun(6)
    program.kill()
    succeed(submit(programs.start), batch)
    batch.check(programs.run, again=set())
    pool.assert_empty()


@hosts(2)
def test_a_head_that_stands_still_for_longer_than_the_lease_runs_the_jobs_again_when_it_goes_on(
    pool: NamespacePool, project: Project, programs: Programs
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, lease="2s")
    program = begin(programs.start, batch, 4)
    lost = jobs_begun(batch)
    program.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: not pool.leftovers(), "the workers to end their jobs and leave")
    program.process.send_signal(signal.SIGCONT)
    batch.wait_for_begun(8)
    succeed(program, batch)
    batch.check(programs.run, again=lost)
    pool.assert_empty()


@hosts(2)
def test_a_journal_that_was_torn_by_the_death_of_its_head_is_mended_and_that_is_said(
    pool: NamespacePool, project: Project, programs: Programs
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts)
    begin(programs.start, batch, 4).kill()
    journal = batch.run / ".pisa/journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"t": 1795365557.576, "e": "ended", "jo')
    done = succeed(submit(programs.start), batch)
    assert "the end of the journal was torn and is cut off (39 bytes); nothing is lost" in done.stdout
    batch.check(programs.run, again=set())
    pool.assert_empty()


# -- on another PC ------------------------------------------------------------------------------------------


@hosts(2, heads=2)
def test_there_is_one_head_until_its_pc_dies_and_then_even_a_host_of_the_pool_can_take_over(
    pool: NamespacePool, project: Project, programs_on: On
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts)
    first, second = programs_on("head"), programs_on("head2")
    program = begin(first.start, batch, 4)
    for programs in (first, second):
        refused = programs.run("inv", "submit")
        assert refused.returncode == 2, refused.said
        who = rf"{batch.run}: is being run by head \(process {program.process.pid}\) since 20\d\d-\d\d-\d\d "
        assert re.search(who, refused.stderr), refused.said
        assert "watch it from any PC: inv status; stop it: inv cancel" in refused.stderr
    pool.heads[0].power_off()
    program = submit(programs_on("pc01").start)
    program.wait_for_output("head was running this (since ")
    for name in pool.names:
        program.wait_for_output(f"{name}: back, with 2 jobs that it still has")
    succeed(program, batch)
    batch.check(second.run, again=set())
    pool.assert_empty()


@hosts(2, heads=2)
def test_a_head_whose_pc_is_cut_off_keeps_the_run_and_recovers(
    pool: NamespacePool, project: Project, programs_on: On
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, lease="2s", patience="10m")
    program = begin(programs_on("head").start, batch, 4)
    lost = jobs_begun(batch)
    pool.heads[0].cut()
    program.wait_for_output("no host is left; all are called again now and then")
    wait_for(lambda: not pool.leftovers(), "the workers to end their jobs and leave")
    refused = programs_on("head2").run("inv", "submit")
    assert refused.returncode == 2, refused.said
    assert "is being run by head (process " in refused.stderr
    pool.heads[0].heal()
    batch.wait_for_begun(8)
    succeed(program, batch)
    batch.check(programs_on("head2").run, again=lost)
    pool.assert_empty()


@hosts(2, heads=2)
def test_a_head_that_was_taken_over_while_it_stood_still_stops_and_disturbs_nothing(
    pool: NamespacePool, project: Project, programs_on: On
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts)
    old = begin(programs_on("head").start, batch, 4)
    old.process.send_signal(signal.SIGSTOP)
    # Another file with the same text: now the lock ends at the first PC, as it does on some mounts.
    lock = batch.run / ".pisa/lock"
    copy = lock.with_name("copy")
    shutil.copy2(lock, copy)
    shutil.chown(copy, pool.uid, pool.uid)
    copy.rename(lock)
    new = submit(programs_on("head2").start)
    new.wait_for_output("head was running this (since ")
    for name in pool.names:
        new.wait_for_output(f"{name}: back, with 2 jobs that it still has")
    old.process.send_signal(signal.SIGCONT)
    done = old.wait()
    assert done.returncode == 2, done.said
    assert f"{batch.run}: has been taken over by another head; this head stops" in done.stderr
    assert "to watch that one: inv status" in done.stderr
    succeed(new, batch)
    batch.check(programs_on("head2").run, again=set())
    pool.assert_empty()
