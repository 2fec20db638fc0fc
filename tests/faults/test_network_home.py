"""A home that is a network file system, with a cache that shows late what other PCs did.

The system is sshfs: NFS itself needs a kernel that has it, and what a client may know too late is much the
same. Each PC has a mount of its own, so none sees by chance what another has in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from marks import hosts
from namespaces import NamespacePool
from processes import wait_for
from programs import Programs, Project
from witness import Batch, begin, succeed

SECONDS = 4  # for which a PC believes what it has seen, or not seen
LATE = ",".join(
    f"{cache}_timeout={SECONDS}" for cache in ("dcache", "dcache_dir", "attr", "entry", "negative")
)
On = Callable[[str], Programs]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("sshfs") is None, reason="sshfs is not installed"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="this kernel has no FUSE"),
]


@hosts(2, heads=2)
def test_a_run_goes_on_from_another_pc_on_a_home_whose_news_come_late(
    pool: NamespacePool, project: Project, programs_on: On
) -> None:
    batch = Batch(project, 8)
    project.pool(pool.hosts)
    for pc in pool.pcs:
        pc.mount_network_home(LATE)
    begin(programs_on("head"), batch, 4).kill()
    program = programs_on("head2").start("inv", "submit", "--log")
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
    for pc in pool.pcs:
        pc.mount_network_home(LATE)
    elsewhere = programs_on("head2")
    assert elsewhere.run("inv", "status").returncode == 0  # so that it knows that there is no run yet
    program = begin(programs_on("head"), batch, 4)
    wait_for(lambda: "4 waiting, 4 running" in elsewhere.run("inv", "status").stdout, "the news")
    done = elsewhere.run("inv", "cancel")
    assert done.returncode == 0, done.said
    assert "it has ended; to go on: inv submit" in done.stdout
    assert program.wait().returncode == 130
    pool.assert_empty()
