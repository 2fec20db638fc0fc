"""A home that is a network file system, with a cache that shows late what other PCs did.

The system is sshfs: NFS itself needs a kernel that has it, and what a client may know too late is much the
same. Each PC has a mount of its own, so none sees by chance what another has in memory.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from marks import hosts
from namespaces import NamespacePool
from processes import wait_for
from programs import Programs, Project
from sshd import UnavailableError
from witness import Batch, begin, submit, succeed

SECONDS = 4  # for which a PC believes what it has seen, or not seen
LATE = ",".join(
    f"{cache}_timeout={SECONDS}" for cache in ("dcache", "dcache_dir", "attr", "entry", "negative")
)
On = Callable[[str], Programs]

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("network_home")]


@pytest.fixture
def network_home(pool: NamespacePool) -> None:
    """Let every PC of the pool see the home in this way."""
    try:
        for pc in pool.pcs:
            pc.mount_network_home(LATE)
    except UnavailableError as error:
        pytest.skip(str(error))


@hosts(2, heads=2)
def test_a_run_goes_on_from_another_pc_on_a_home_whose_news_come_late(
    pool: NamespacePool, project: Project, programs_on: On
) -> None:
    batch = Batch(project, 8)
    project.pool(pool.hosts)
    begin(programs_on("head").start, batch, 4).kill()
    program = submit(programs_on("head2").start)
    for name in pool.names:
        program.wait_for_output(f"{name}: back, with 2 jobs that it still has")
    succeed(program, batch)
    batch.check(programs_on("head").run, again=set())
    pool.assert_empty()


@hosts(2, heads=2)
def test_a_run_on_such_a_home_is_watched_and_cancelled_from_another_pc(
    pool: NamespacePool, project: Project, programs_on: On
) -> None:
    batch = Batch(project, 8)
    project.pool(pool.hosts)
    elsewhere = programs_on("head2")
    assert elsewhere.run("inv", "status").returncode == 0  # so that it knows that there is no run yet
    program = begin(programs_on("head").start, batch, 4)
    wait_for(lambda: "4 waiting, 4 running" in elsewhere.run("inv", "status").stdout, "the news")
    done = elsewhere.run("inv", "cancel")
    assert done.returncode == 0, done.said
    assert "it has ended; to go on: inv submit" in done.stdout
    assert program.wait().returncode == 130
    pool.assert_empty()


@hosts(1)
def test_a_cluster_file_on_such_a_home_that_is_edited_within_its_second_holds(
    pool: NamespacePool, project: Project, programs_on: On
) -> None:
    batch = Batch(project, 3)
    project.pool(pool.hosts, slots=3)
    program = begin(programs_on("head").start, batch, 3)
    project.pool(pool.hosts, slots=1)  # a file of the same length; its time is counted in seconds here
    journal = batch.run / ".pisa/journal.jsonl"
    wait_for(lambda: '"e": "paused"' in journal.read_text(), "jobs to stand still")
    succeed(program, batch)
    batch.check(programs_on("head").run, again=set())
    pool.assert_empty()
