"""Hosts that go away, come back, hang, refuse and change, each in a pool of namespaces under a real run.

What happened is judged by what the jobs themselves logged and by what their user gets (see witness.py).
"""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from marks import hosts
from namespaces import NamespacePool
from pcs import Host
from processes import Process, wait_for
from programs import AT_HOME, Completed, Program, Project
from sshd import find_sshd
from witness import Batch, begin, succeed

pytestmark = pytest.mark.root
Run = Callable[..., Completed]
Start = Callable[..., Program]

# Kills the worker above it, in every attempt of one job.
KILLER = """
import signal
if job == "0001":
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)
"""
# Connects and says nothing, often, which an sshd with penalties remembers against this address.
NAGGING = """
import socket, sys, time
for _ in range(3):
    with socket.create_connection((sys.argv[1], 22)) as link:
        link.recv(100)
"""

knows_machines = pytest.mark.skipif(
    not Path("/etc/machine-id").is_file() or not Path("/etc/machine-id").read_text().strip(),
    reason="without /etc/machine-id no host can prove that it is the machine of before",
)


def jobs_on(batch: Batch, host: str) -> set[str]:
    """Give the jobs that have begun on a host."""
    return {attempt.job for attempt in batch.begun(host)}


def worker_of(host: Host) -> tuple[Process, Process]:
    """Give the guardian on a host and the worker, which is its child."""
    found = [process for process in host.started_there() if "pisa_fab: jobs for" in process.describe()]
    pids = {process.pid for process in found}
    guardian = next(process for process in found if process.parent not in pids)
    return guardian, next(process for process in found if process.parent == guardian.pid)


def relay_of(host: Host) -> Process:
    """Give the relay on a host: the latest process with the worker's program."""
    found = [process for process in host.started_there() if "pisa_fab: jobs for" in process.describe()]
    return max(found, key=lambda process: (process.started, process.pid))


# -- the link -----------------------------------------------------------------------------------------------


@hosts(2)
def test_a_cut_that_is_healed_within_the_lease_costs_nothing(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, lease="6s")
    program = begin(start_program, batch, 4)
    one = batch.begun("pc01")[0].job
    pool["pc01"].cut()
    batch.let_go(one)
    wait_for(lambda: any(a.ended for a in batch.begun("pc01")), "a job to end behind the cut")
    program.wait_for_output("pc01: lost: nothing heard for 3 s; it is called again")
    pool["pc01"].heal()
    program.wait_for_output("pc01: back, with 2 jobs that it still has")
    succeed(program, batch)
    batch.check(run_program, again=set())
    pool.assert_empty()


@hosts(2)
def test_a_cut_for_longer_than_the_lease_has_the_jobs_run_elsewhere_and_the_host_comes_back(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.cluster({"lease": "2s", "hosts": ["pc01", {"host": "pc02", "slots": 4}], "slots": 2})
    program = begin(start_program, batch, 6)
    lost, others = jobs_on(batch, "pc01"), sorted(jobs_on(batch, "pc02"))
    pool["pc01"].cut()
    batch.let_go(*others[:2])
    batch.wait_for_begun(8)
    assert jobs_on(batch, "pc02") == set(batch.jobs)
    wait_for(lambda: not pool["pc01"].started_there(), "the worker behind the cut to leave")
    pool["pc01"].heal()
    wait_for(lambda: program.stdout.count("pc01: ready") == 2, "the host to be back")
    succeed(program, batch)
    batch.check(run_program, again=lost)
    pool.assert_empty()


@hosts(2)
def test_a_restart_of_sshd_that_ends_the_sessions_costs_nothing_nor_does_the_death_of_what_holds_them(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts)
    program = begin(start_program, batch, 4)
    host = pool["pc01"]

    def back(times: int) -> bool:
        return program.stdout.count("pc01: back, with 2 jobs that it still has") == times

    host.restart_sshd(sessions=True)
    wait_for(lambda: back(1), "the worker to be taken up again")
    relay_of(host).send(signal.SIGKILL)
    wait_for(lambda: back(2), "the worker to be taken up again after its relay was killed")
    guardian, worker = worker_of(host)
    guardian.send(signal.SIGKILL)
    relay_of(host).send(signal.SIGKILL)
    wait_for(lambda: back(3), "the worker to be taken up again without its guardian")
    assert worker.alive()
    succeed(program, batch)
    batch.check(run_program, again=set())
    pool.assert_empty()


@hosts(2)
def test_a_guardian_that_is_killed_costs_nothing(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts)
    program = begin(start_program, batch, 4)
    guardian, worker = worker_of(pool["pc01"])
    guardian.send(signal.SIGKILL)
    program.wait_for_output("pc01: back, with 2 jobs that it still has")
    assert worker.alive()
    succeed(program, batch)
    batch.check(run_program, again=set())
    pool.assert_empty()


@hosts(2)
def test_nobody_notices_a_restart_of_sshd_that_spares_the_sessions(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts)
    program = begin(start_program, batch, 4)
    for host in pool.hosts:
        host.restart_sshd()
    done = succeed(program, batch)
    assert "lost" not in done.stdout
    batch.check(run_program, again=set())


# -- power --------------------------------------------------------------------------------------------------


@hosts(2)
def test_a_power_cut_has_the_jobs_run_elsewhere_and_a_host_that_boots_later_joins_again(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 9)
    project.pool(pool.hosts, lease="2s")
    program = begin(start_program, batch, 4)
    lost = jobs_on(batch, "pc01")
    pool["pc01"].power_off()
    batch.let_go(*jobs_on(batch, "pc02"))
    program.wait_for_output("pc01: lost: nothing heard for 1 s")
    pool["pc01"].boot()
    batch.wait_for_begun(4, "pc01")
    succeed(program, batch)
    batch.check(run_program, again=lost)
    pool.assert_empty()


@knows_machines
@hosts(2)
def test_a_crash_and_a_boot_within_the_lease_rerun_the_jobs_without_waiting_for_its_end(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 4)
    project.pool(pool.hosts, lease="10m")
    program = begin(start_program, batch, 4)
    lost = jobs_on(batch, "pc01")
    pool["pc01"].crash()
    program.wait_for_output("pc01: lost: ")
    pool["pc01"].boot()
    batch.wait_for_begun(4, "pc01")
    succeed(program, batch)
    batch.check(run_program, again=lost)
    pool.assert_empty()


@knows_machines
@hosts(1)
def test_a_power_cut_and_a_boot_within_the_lease_rerun_the_jobs_at_once(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 2)
    project.pool(pool.hosts, lease="8s")
    program = begin(start_program, batch, 2)
    pool["pc01"].power_off()
    pool["pc01"].boot()
    batch.wait_for_begun(4)
    done = succeed(program, batch)
    lines = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
    rerun = lines.index("0000.2 started on pc01")
    assert lines[rerun - 1] in ("pc01: ready, 2 slots, Python " + python(), "0001.2 started on pc01")
    batch.check(run_program, again=set(batch.jobs))
    pool.assert_empty()


def python() -> str:
    """Give the version of what runs the workers."""
    return sys.version.split()[0]


@hosts(2)
def test_a_crash_with_reset_connections_has_the_jobs_run_elsewhere_after_the_lease(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 4)
    project.pool(pool.hosts, lease="2s")
    program = begin(start_program, batch, 4)
    lost = jobs_on(batch, "pc01")
    pool["pc01"].crash()
    program.wait_for_output("pc01: lost: ")
    succeed(program, batch)
    batch.check(run_program, again=lost)
    pool.assert_empty()


# -- what stands still, and what is killed ------------------------------------------------------------------


@hosts(2)
def test_a_host_that_stands_still_for_less_than_the_lease_goes_on(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, lease="6s")
    program = begin(start_program, batch, 4)
    pool["pc01"].freeze()
    program.wait_for_output("pc01: lost: nothing heard for 3 s")
    pool["pc01"].thaw()
    program.wait_for_output("pc01: back, with 2 jobs that it still has")
    succeed(program, batch)
    batch.check(run_program, again=set())
    pool.assert_empty()


@hosts(2)
def test_a_host_that_stands_still_for_longer_ends_its_jobs_when_it_goes_on_and_replaces_no_result(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 4)
    project.pool(pool.hosts, lease="2s")
    program = begin(start_program, batch, 4)
    lost = jobs_on(batch, "pc01")
    pool["pc01"].freeze()
    batch.let_go("pc02")
    done = program.wait()
    assert done.returncode == 0, done.said
    published = {path: path.read_bytes() for path in batch.run.glob("std*/*")}
    pool.assert_empty()  # lets it go on first
    assert {path: path.read_bytes() for path in batch.run.glob("std*/*")} == published
    # Unlike elsewhere the attempts overlap, for what stands still cannot be ended. It does no more harm.
    batch.check(run_program, again=lost, overlaps=True)
    assert [attempt for attempt in batch.begun("pc01") if attempt.ended] == []


@knows_machines
@hosts(2)
def test_a_worker_that_stands_still_is_replaced(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, lease="4s")
    program = begin(start_program, batch, 4)
    lost = jobs_on(batch, "pc01")
    worker_of(pool["pc01"])[1].send(signal.SIGSTOP)
    program.wait_for_output("pc01: lost: nothing heard for 2 s")
    batch.wait_for_begun(4, "pc01")
    succeed(program, batch)
    batch.check(run_program, again=lost)
    pool.assert_empty()


@hosts(2)
def test_a_worker_that_is_killed_has_its_jobs_run_again_at_once(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, lease="10m")
    program = begin(start_program, batch, 4)
    lost = jobs_on(batch, "pc01")
    worker_of(pool["pc01"])[1].send(signal.SIGKILL)
    program.wait_for_output("pc01: lost: the worker was killed; what it was running is run again")
    batch.wait_for_begun(4, "pc01")
    succeed(program, batch)
    batch.check(run_program, again=lost)
    pool.assert_empty()


@knows_machines
@hosts(2)
def test_a_worker_that_is_killed_with_its_guardian_leaves_nothing_and_its_jobs_are_run_again(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, lease="10m")
    program = begin(start_program, batch, 4)
    lost = jobs_on(batch, "pc01")
    both = worker_of(pool["pc01"])
    for process in both:
        process.send(signal.SIGSTOP)
    for process in both:
        process.send(signal.SIGKILL)
    batch.wait_for_begun(4, "pc01")
    succeed(program, batch)
    batch.check(run_program, again=lost)
    pool.assert_empty()


@hosts(4)
def test_a_job_that_kills_its_worker_each_time_is_given_up_and_the_hosts_are_named(
    pool: NamespacePool, project: Project, start_program: Start
) -> None:
    batch = Batch(project, 8, abuse=KILLER)
    project.pool(pool.hosts, slots=1)
    batch.let_go()
    done = start_program("inv", "submit").wait()
    assert done.returncode == 1, done.said
    where = batch.hosts_of("0001")
    assert len(where) == 3
    assert f"0001: given up: lost with {', '.join(where)}" in done.stdout
    assert "8 jobs: 7 succeeded, 1 lost" in done.stdout
    assert {attempt.job for attempt in batch.attempts() if attempt.ended is None} == {"0001"}
    assert not any(attempt.overlaps for attempt in batch.attempts())
    pool.assert_empty()


# -- nobody there -------------------------------------------------------------------------------------------


@hosts(2)
def test_a_run_without_hosts_waits_for_them(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, lease="2s", patience="10m")
    program = begin(start_program, batch, 4)
    lost = {attempt.job for attempt in batch.attempts()}
    for host in pool.hosts:
        host.power_off()
    program.wait_for_output("no host is left; all are called again now and then")
    for host in pool.hosts:
        host.boot()
    succeed(program, batch)
    batch.check(run_program, again=lost)
    pool.assert_empty()


@hosts(2)
def test_a_run_without_hosts_ends_when_its_patience_does_and_goes_on_with_the_next_submit(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, lease="1s", patience="1s")
    program = begin(start_program, batch, 4)
    lost = {attempt.job for attempt in batch.attempts()}
    for host in pool.hosts:
        host.crash()
    done = program.wait()
    assert done.returncode == 3, done.said
    assert "no usable host was left; 6 jobs have not been run" in done.stderr
    for host in pool.hosts:
        host.boot()
    succeed(start_program("inv", "submit"), batch)
    batch.check(run_program, again=lost)
    pool.assert_empty()


@hosts(2)
def test_without_any_host_at_the_start_a_run_ends_at_once_and_says_why(
    pool: NamespacePool, project: Project, run_program: Run
) -> None:
    Batch(project, 6)
    project.pool(pool.hosts, patience="10m")
    for host in pool.hosts:
        host.stop_sshd()
    done = run_program("inv", "submit")
    assert done.returncode == 3, done.said
    for name in pool.names:
        assert f"{name}: cannot be used: connection refused at {name} port 22" in done.stdout
    assert "no usable host was left; 6 jobs have not been run" in done.stderr


@hosts(2)
def test_a_host_that_is_down_at_the_start_joins_when_it_is_booted(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 4)
    project.pool(pool.hosts)
    pool["pc02"].crash()
    program = begin(start_program, batch, 2)
    program.wait_for_output("pc02: cannot be used: connection refused")
    pool["pc02"].boot()
    batch.wait_for_begun(2, "pc02")
    succeed(program, batch)
    batch.check(run_program, again=set())
    pool.assert_empty()


# -- refused connections ------------------------------------------------------------------------------------


def many_names(pool: NamespacePool, number: int) -> list[str]:
    """Give so many names for the first host, each a host of its own to us, in the user's ssh_config."""
    names = [f"desk{n}" for n in range(number)]
    config = pool.home / ".ssh" / "config"
    config.write_text(f"Host {' '.join(names)}\n  HostName {pool.names[0]}\n")
    pool.give(config)
    return names


@hosts(1, settings=["MaxStartups 1:100:1"])
def test_hosts_that_refuse_because_many_call_at_once_all_come_to_work(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    names = many_names(pool, 5)
    batch = Batch(project, 6)
    project.cluster({"hosts": names})
    program = start_program("inv", "submit")
    batch.wait_for_begun(5)
    assert {attempt.host for attempt in batch.attempts()} == set(names)
    assert "MaxStartups" in pool["pc01"].sshd_log.read_text()  # it did refuse
    done = succeed(program, batch)
    assert "cannot be used: its SSH server refuses for the moment" in done.stdout
    batch.check(run_program, again=set())
    pool.assert_empty()


def knows_penalties() -> bool:
    """Whether this sshd has PerSourcePenalties (OpenSSH 9.8)."""
    sshd = find_sshd()
    if sshd is None:
        return False
    asked = subprocess.run(
        [sshd, "-T", "-f", "/dev/null", "-o", "PerSourcePenalties=yes"], capture_output=True, check=False
    )
    return b"Bad configuration option" not in asked.stderr


@pytest.mark.skipif(not knows_penalties(), reason="this sshd has no PerSourcePenalties")
@hosts(2, settings=["PerSourcePenalties noauth:3s min:1s"])
def test_a_host_that_punishes_this_address_is_called_again(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 4)
    project.pool(pool.hosts)
    assert run_program("python3", "-c", NAGGING, "pc01").returncode == 0
    program = start_program("inv", "submit")
    batch.wait_for_begun(2, "pc01")
    done = succeed(program, batch)
    assert "pc01: cannot be used: its SSH server refuses for the moment" in done.stdout
    batch.check(run_program, again=set())


# -- the cluster file ---------------------------------------------------------------------------------------


def rewrite(project: Project, text: str) -> None:
    """Replace the cluster file in one step, as editors do."""
    new = project.path / "cluster.new"
    new.write_text(text)
    new.rename(project.path / "cluster.yaml")


@hosts(3)
def test_hosts_join_leave_and_change_as_the_cluster_file_says(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 12)
    project.pool(["pc01", "pc02"])
    program = begin(start_program, batch, 4)
    stay = jobs_on(batch, "pc01")

    rewrite(project, yaml.safe_dump({"slots": 2, "hosts": [{"host": "pc02", "slots": 3}, "pc03"], **AT_HOME}))
    program.process.send_signal(signal.SIGHUP)
    batch.wait_for_begun(3, "pc02")
    batch.wait_for_begun(2, "pc03")
    program.wait_for_output("pc01: no longer in the cluster file")
    assert "the cluster file was read again: 2 hosts, 1 of them new" in program.stdout
    batch.let_go("pc01")
    wait_for(lambda: not pool["pc01"].started_there(), "the host that was taken out to be left")
    assert jobs_on(batch, "pc01") == stay  # it got no more, although others waited

    rewrite(project, "hosts: [pc02, pc03]\nslotts: 2\n")
    program.process.send_signal(signal.SIGHUP)
    program.wait_for_output("the hosts stay as they are until that is mended")
    assert "cluster.yaml:2:1: unknown key" in program.stdout
    (project.path / "go.pc01").unlink()

    rewrite(project, yaml.safe_dump({"slots": 2, "hosts": ["pc01", "pc02", "pc03"], **AT_HOME}))
    batch.wait_for_begun(4, "pc01")  # that it has changed is enough
    succeed(program, batch)
    batch.check(run_program, again=set())
    pool.assert_empty()


@hosts(1)
def test_a_terminal_that_is_closed_ends_nothing(
    pool: NamespacePool, project: Project, run_program: Run, tmp_path: Path
) -> None:
    batch = Batch(project, 4)
    project.pool(pool.hosts)
    terminal, line = pty.openpty()
    inv = Path(sys.executable).parent / "inv"
    command = ["setsid", "--ctty", *pool.prefix(), str(inv), "submit"]
    # Not the leader of its group, so that `setsid` need not fork.
    complaint = tmp_path / "complaint"
    with complaint.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=project.path, env=pool.environment, stdin=line, stdout=line, stderr=file
        )
    os.close(line)
    try:
        batch.wait_for_begun(2)
        os.close(terminal)
        batch.let_go("0000")
        batch.wait_for_begun(3)
        batch.let_go()
        assert process.wait(300) == 0
    finally:
        process.kill()
        process.wait()
        print(complaint.read_text())
    batch.check(run_program, again=set())
    pool.assert_empty()


# -- clocks -------------------------------------------------------------------------------------------------


@hosts(2, clock_step=3600)
def test_monotonic_clocks_that_are_an_hour_apart_change_nothing(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, lease="3s")
    program = begin(start_program, batch, 4)
    lost = jobs_on(batch, "pc02")
    pool["pc01"].restart_sshd(sessions=True)
    program.wait_for_output("pc01: back, with 2 jobs that it still has")
    pool["pc02"].cut()
    batch.let_go("pc01")
    done = program.wait()
    assert done.returncode == 0, done.said
    batch.check(run_program, again=lost)
    pool["pc02"].heal()
    pool.assert_empty()


@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs the command faketime")
@hosts(2)
def test_wall_clocks_that_are_an_hour_apart_change_nothing(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6, abuse='print(time.time(), file=open("clock." + host, "w"))')
    # With --exclude-monotonic, libfaketime 0.9.10 makes Python's sleep fail; so all clocks of pc01 are wrong.
    ahead = project.path / "python-ahead"
    ahead.write_text('#!/bin/sh\nexec faketime -f +1h python3 "$@"\n')
    ahead.chmod(0o755)
    project.cluster({"slots": 2, "lease": "6s", "hosts": [{"host": "pc01", "python": str(ahead)}, "pc02"]})
    program = begin(start_program, batch, 4)
    pool["pc01"].restart_sshd(sessions=True)
    program.wait_for_output("pc01: back, with 2 jobs that it still has")
    succeed(program, batch)
    first, second = (float((project.path / f"clock.{name}").read_text()) for name in pool.names)
    assert first - second > 3000
    batch.check(run_program, again=set())
    starts = [datetime.fromisoformat(row["start"]) for row in project.table("run/results.csv")]
    assert max(starts) - min(starts) < timedelta(minutes=50)  # all by the clock of the head
    pool.assert_empty()
