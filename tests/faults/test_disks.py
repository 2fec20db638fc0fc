"""Homes that are full, or that a host does not see: what stops, what goes on, and that nothing is lost.

On a full disk a job cannot log, so here each logs into a folder of its host that is no part of the home; the
order of what is logged is that of the one clock of this machine.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from marks import hosts
from namespaces import NamespacePool
from pcs import SHARE
from processes import wait_for
from programs import Completed, Program, Project
from witness import Batch

pytestmark = pytest.mark.root
Run = Callable[..., Completed]
Start = Callable[..., Program]

SMALL = "12m"  # of a home that is to be filled
FULL = "No space left on device"
# Waits until its host, or all hosts, are told to go on. `act` is what the job does besides.
SCRIPT = """
import os, sys, time
job, attempt, host = (os.environ["PISA_" + name] for name in ("JOB", "ATTEMPT", "HOST"))
log = open("{share}/log/jobs", "a", buffering=1)
def say(what):
    log.write(f"{{time.time():.6f}} {{what}} {{int(job)}} {{attempt}} {{host}}\\n")
say("begin")
{act}
while not any(os.path.exists(f"{share}/log/{{gate}}") for gate in ("go", f"go.{{int(job)}}")):
    time.sleep(0.02)
say("end")
"""


@dataclass(frozen=True, order=True)
class Line:
    """What a job logged: when, `begin` or `end`, which, and where."""

    time: float
    what: str
    job: int
    attempt: int
    host: str


class Logs:
    """A batch whose jobs log outside the home, and what they have logged."""

    def __init__(
        self, pool: NamespacePool, project: Project, jobs: int, act: str = "", **more: object
    ) -> None:
        self.pool = pool
        self.jobs = range(jobs)
        project.write("script.py", SCRIPT.format(share=SHARE, act=act))
        sweep = {"-n": {"from": 0, "to": jobs - 1}}
        project.jobs({"script": "script.py", "output": "run", "sweep": sweep, **more})
        for host in pool.hosts:
            self.folder(host.name).mkdir()
            pool.give(self.folder(host.name))

    def folder(self, host: str) -> Path:
        """Give the folder of a host's log."""
        return self.pool[host].folder / "log"

    def let_go(self, *jobs: int) -> None:
        """Let these jobs end, or all."""
        for host in self.pool.hosts:
            for gate in [f"go.{job}" for job in jobs] or ["go"]:
                (self.folder(host.name) / gate).touch()

    def lines(self, what: str) -> list[Line]:
        """Give what was logged by now, in its order."""
        found = []
        for host in self.pool.hosts:
            path = self.folder(host.name) / "jobs"
            for line in path.read_text().splitlines() if path.exists() else ():
                time, said, job, attempt, name = line.split()
                found.append(Line(float(time), said, int(job), int(attempt), name))
        return sorted(line for line in found if line.what == what)

    def wait_for(self, what: str, count: int) -> list[Line]:
        """Wait until so many jobs have logged that, and give the lines."""
        wait_for(lambda: len(self.lines(what)) >= count, f"{count} x {what}")
        return self.lines(what)

    def assert_once(self) -> None:
        """Demand that every job was begun once and came to its end."""
        once = Counter(self.jobs)
        assert Counter(line.job for line in self.lines("begin")) == once
        assert Counter(line.job for line in self.lines("end")) == once


def beat(project: Project) -> int:
    """Give the number in the lock file that goes up every few seconds as long as the head lives."""
    return int(json.loads((project.path / "run/.pisa/lock").read_bytes())["beat"])


def outlast(project: Project, beats: int) -> None:
    """Let a running head live on for so many beats, of two seconds each."""
    until = beat(project) + beats
    wait_for(lambda: beat(project) >= until, f"{beats} beats of the head")


def collected(project: Project, run_program: Run, jobs: int) -> None:
    """Demand that the user gets a table in which every job has succeeded, and every output."""
    done = run_program("inv", "collect")
    assert done.returncode == 0, done.said
    assert [row["state"] for row in project.table("run/results.csv")] == ["succeeded"] * jobs
    assert len(list((project.path / "run/stdout").iterdir())) == jobs
    counted = {f"{row['job']}.{row['attempt']}.out" for row in project.table("run/results.csv")}
    assert not counted & {path.name for path in (project.path / "run/.pisa/attempts").iterdir()}


# -- no room ------------------------------------------------------------------------------------------------


@hosts(2, home_size=SMALL)
def test_a_disk_that_is_full_for_a_while_stops_what_is_new_and_nothing_else(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    logs = Logs(pool, project, 60)
    project.pool(pool.hosts, lease="3s")
    program = start_program("inv", "submit")
    logs.wait_for("begin", 4)
    pool.fill_home()
    logs.let_go(*range(1, 60))  # the first one runs through it all
    program.wait_for_output(FULL)
    outlast(project, 3)  # longer than a lease: the hosts are spoken with all the same
    begun = {line.job for line in logs.lines("begin")}
    assert begun == {line.job for line in logs.lines("end")} | {0}
    assert len(begun) < 60
    assert program.running()
    pool.empty_home()
    program.wait_for_output("there is room again: it goes on")
    logs.let_go()
    done = program.wait()
    assert done.returncode == 0, done.said
    assert done.stdout.count(FULL) == 1
    assert (
        "run/.pisa/journal.jsonl: No space left on device: nothing is started until there is room"
        in done.said
    )
    assert "60 jobs: 60 succeeded" in done.stdout
    assert "lost" not in done.stdout
    logs.assert_once()
    collected(project, run_program, 60)
    pool.assert_empty()


@hosts(2, home_size=SMALL)
def test_a_disk_that_is_full_when_the_last_job_ends_is_waited_for(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    logs = Logs(pool, project, 40)
    project.pool(pool.hosts, slots=20)
    program = start_program("inv", "submit")
    logs.wait_for("begin", 40)
    pool.fill_home()
    logs.let_go()
    logs.wait_for("end", 40)
    program.wait_for_output(FULL)
    outlast(project, 1)
    assert program.running()
    pool.empty_home()
    done = program.wait()
    assert done.returncode == 0, done.said
    logs.assert_once()
    collected(project, run_program, 40)
    pool.assert_empty()


@hosts(2, home_size=SMALL)
@pytest.mark.parametrize("later", ["submit again", "interrupt"])
def test_a_head_that_dies_while_the_disk_is_full_loses_nothing(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start, later: str
) -> None:
    logs = Logs(pool, project, 40)
    project.pool(pool.hosts, slots=20)
    program = start_program("inv", "submit")
    logs.wait_for("begin", 40)
    pool.fill_home()
    logs.let_go(*range(1, 40))
    logs.wait_for("end", 39)
    program.wait_for_output(FULL)
    if later == "interrupt":
        program.interrupt()
        done = program.wait()
        assert done.returncode != 0
        assert "Traceback" not in done.said
        assert FULL in done.stderr
    else:
        program.kill()
    full = run_program("inv", "submit")
    assert full.returncode == 2, full.said
    assert FULL in full.stderr
    assert "Traceback" not in full.said
    assert "its head died" in run_program("inv", "status").stdout
    pool.empty_home()
    logs.let_go()
    again = run_program("inv", "submit")
    assert again.returncode == 0, again.said
    assert "40 jobs: 40 succeeded" in again.stdout
    if later == "submit again":
        logs.assert_once()
    collected(project, run_program, 40)
    pool.assert_empty()


@hosts(1, home_size=SMALL)
def test_a_disk_that_is_full_from_the_start_is_one_line(
    pool: NamespacePool, project: Project, run_program: Run
) -> None:
    logs = Logs(pool, project, 6)
    logs.let_go()
    project.pool(pool.hosts)
    for options in ((), ("--rerun",)):  # a run directory that is not there, and one that is
        pool.fill_home()
        done = run_program("inv", "submit", *options)
        assert done.returncode == 2, done.said
        assert FULL in done.stderr
        assert len(done.stderr.strip().splitlines()) <= 2  # the line, and a tip
        assert done.stdout == ""
        pool.empty_home()
        done = run_program("inv", "submit", *options)
        assert done.returncode == 0, done.said
    assert Counter(line.job for line in logs.lines("end")) == Counter(2 * list(logs.jobs))
    collected(project, run_program, 6)
    pool.assert_empty()


# Writes more than there is room for, says so, and takes away what it wrote.
HUNGRY = """
print("writes a lot", file=sys.stderr, flush=True)
try:
    for _ in range(20):
        os.write(1, b"x" * 1_000_000)
except OSError as error:
    say("full")
    os.ftruncate(1, 0)
    sys.exit(f"cannot write: {error.strerror}")
"""


@hosts(2, home_size=SMALL)
def test_a_job_whose_output_finds_no_room_fails_and_says_so(
    pool: NamespacePool, project: Project, run_program: Run
) -> None:
    logs = Logs(pool, project, 1, HUNGRY)
    logs.let_go()
    project.pool(pool.hosts)
    done = run_program("inv", "submit")
    assert done.returncode == 1, done.said
    assert len(logs.lines("full")) == 1
    assert "0000  exit code 1" in done.stdout
    assert f"cannot write: {FULL}" in done.stdout
    project.write("script.py", (project.path / "script.py").read_text().replace("range(20)", "range(2)"))
    again = run_program("inv", "submit", "--retry-failed")
    assert again.returncode == 0, again.said
    assert (project.path / "run/stdout/0000.out").stat().st_size == 2_000_000
    collected(project, run_program, 1)
    pool.assert_empty()


@hosts(2, home_size=f"{SMALL},nr_inodes=400")
def test_where_no_files_can_be_made_jobs_are_refused_and_run_later(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    logs = Logs(pool, project, 12)
    project.pool(pool.hosts)
    program = start_program("inv", "submit")
    logs.wait_for("begin", 4)
    files = pool.home / "files"
    files.mkdir()
    with pytest.raises(OSError, match=FULL):
        for number in count():
            (files / str(number)).touch()
    logs.let_go()
    program.wait_for_output(f"its output files cannot be made: {FULL}; it is tried again")
    shutil.rmtree(files)
    done = program.wait()
    assert done.returncode == 0, done.said
    assert 1 <= done.stdout.count("can start nothing at the moment") <= 2  # once for each host
    logs.assert_once()
    collected(project, run_program, 12)
    pool.assert_empty()


def quotas() -> bool:
    """Say whether this kernel has quotas on the file system that the pool's home is."""
    options = "size=1m,usrquota,usrquota_block_hardlimit=512k"
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", options, "none", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not quotas(), reason="this kernel has no quotas on tmpfs (CONFIG_TMPFS_QUOTA)")
@hosts(1, home_size="40m,usrquota,usrquota_block_hardlimit=8m")
def test_a_quota_is_as_good_as_a_full_disk(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    logs = Logs(pool, project, 60)
    project.pool(pool.hosts)
    program = start_program("inv", "submit")
    logs.wait_for("begin", 2)
    filler = project.path / "filler"
    fill = ["sh", "-c", "cat /dev/zero >filler"]
    filled = subprocess.run([*pool.prefix(), *fill], cwd=project.path, capture_output=True, check=False)
    assert b"quota" in filled.stderr
    logs.let_go()
    program.wait_for_output("quota exceeded: nothing is started")
    filler.unlink()
    done = program.wait()
    assert done.returncode == 0, done.said
    logs.assert_once()
    collected(project, run_program, 60)
    pool.assert_empty()


# -- no home ------------------------------------------------------------------------------------------------


@hosts(3)
def test_a_host_that_does_not_see_the_home_joins_when_it_does(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 8)
    cluster = project.pool(pool.hosts)
    host = pool["pc01"]
    host.mount_over(pool.home)
    program = start_program("inv", "submit")
    program.wait_for_output("pc01: cannot be used: no such folder here: ")
    batch.wait_for_begun(4)
    host.unmount(pool.home)
    # It is called again after half a minute or more; a person who says something of it has it called at once.
    cluster.write_text(cluster.read_text().replace("- pc01", "- {host: pc01, slots: 4}"))
    program.process.send_signal(signal.SIGHUP)
    batch.wait_for_begun(4, "pc01")
    batch.let_go()
    done = program.wait()
    assert done.returncode == 0, done.said
    assert done.stdout.count("cannot be used") == 1
    batch.check(run_program, again=set())
    pool.assert_empty()


@hosts(3)
def test_a_home_that_vanishes_in_mid_run_costs_no_job_and_no_output(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    # The script is named by its path, as one in a venv is: what is in the way is not there any more.
    batch = Batch(project, 40, script=str(project.path / "script.py"))
    project.pool(pool.hosts)
    program = start_program("inv", "submit")
    ran = {attempt.job for attempt in batch.wait_for_begun(6) if attempt.host == "pc01"}
    pool["pc01"].mount_over(pool.home)
    batch.let_go()
    done = program.wait()
    assert done.returncode == 0, done.said
    assert "40 jobs: 40 succeeded" in done.stdout
    assert done.stdout.count("pc01: gets no jobs for a while") == 1
    # What ran there then has ended well, and its outputs are where they belong.
    assert {attempt.job for attempt in batch.begun("pc01") if attempt.ended} == ran
    batch.check(run_program)
    pool.assert_empty()
