"""Hosts that fail what others can do, and scripts that fail everywhere: what is taken out, what stops.

What happened is judged by what the jobs themselves logged and by what their user gets (see witness.py). How
long a host is out and how it comes back is a matter of minutes, and of the tests of the pure `quarantine`.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from marks import hosts
from namespaces import NamespacePool
from processes import wait_for
from programs import Completed, Program, Project
from witness import Batch

pytestmark = pytest.mark.root
Run = Callable[..., Completed]
Start = Callable[..., Program]

COLUMNS = 80
MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
OUT = "gets no jobs for a while"
# The hosts in BROKEN lack something that the job needs, and it says so at once.
LICENCE = """
if host in os.environ["BROKEN"].split() and not os.path.exists("mended"):
    sys.exit("no licence found")
"""
# Fails in the same way everywhere, in a way that only looks different: numbers, quotes, paths.
TYPO = """
while not os.path.exists("fail"):
    time.sleep(0.02)
if not os.path.exists("mended"):
    raise FileNotFoundError(2, "No such file or directory", f"/data/{job}.csv")
"""


def broken(project: Project, jobs: int, *names: str, **settings: object) -> Batch:
    """Write a batch whose jobs fail on some hosts at once, and are done at once elsewhere."""
    batch = Batch(project, jobs, LICENCE, **settings)
    settings = {**settings, "env": {"ABUSE": LICENCE, "BROKEN": " ".join(names)}}
    project.jobs(
        {"script": "script.py", "output": "run", "sweep": {"-n": {"from": 0, "to": jobs - 1}}, **settings}
    )
    batch.let_go()
    return batch


def taken_out(done: Completed) -> list[str]:
    """Name the hosts of which it was said that they get no jobs."""
    return sorted(line.partition(":")[0] for line in done.stdout.splitlines() if OUT in line)


# -- hosts --------------------------------------------------------------------------------------------------


@hosts(4)
def test_a_host_that_fails_everything_costs_no_job(
    pool: NamespacePool, project: Project, run_program: Run
) -> None:
    batch = broken(project, 60, "pc02")
    project.pool(pool.hosts)
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    assert "60 jobs: 60 succeeded" in done.stdout
    assert taken_out(done) == ["pc02"]
    assert re.search(
        r"^pc02: gets no jobs for a while: .*; \d+ jobs? run again elsewhere$", done.stdout, re.M
    )
    on_broken = {attempt.job for attempt in batch.begun("pc02")}
    assert on_broken
    assert {attempt.host for attempt in batch.attempts() if attempt.ended} == {"pc01", "pc03", "pc04"}
    assert {attempt.number for attempt in batch.begun("pc02")} == {1}  # it gets none of them back
    batch.check(run_program, again=on_broken)
    pool.assert_empty()


@hosts(4)
def test_a_host_that_fails_everything_before_others_have_come_does_not_stop_the_run(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = broken(project, 200, "pc02")
    project.pool(pool.hosts)
    late = [pool[name] for name in ("pc01", "pc03", "pc04")]
    for host in late:
        host.cut()
    program = start_program("inv", "submit")
    batch.wait_for_begun(8, "pc02")  # more than `stop_after`
    for host in late:
        host.heal()
    done = program.wait()
    assert done.returncode == 0, done.said
    assert "200 jobs: 200 succeeded" in done.stdout
    assert taken_out(done) == ["pc02"]
    batch.check(run_program)
    pool.assert_empty()


@hosts(4)
def test_no_more_than_half_of_the_hosts_are_taken_out(
    pool: NamespacePool, project: Project, run_program: Run
) -> None:
    batch = broken(project, 60, "pc01", "pc02", "pc03", stop_after=0)
    project.pool(pool.hosts)
    done = run_program("inv", "submit")
    assert done.returncode == 1, done.said  # the third of them fails what it gets
    assert 1 <= len(taken_out(done)) <= 2, done.said
    assert "pc04" not in taken_out(done)
    project.write("mended", "")
    again = run_program("inv", "submit", "--retry-failed")
    assert again.returncode == 0, again.said
    assert taken_out(again) == []  # a new run trusts everybody
    batch.check(run_program)
    pool.assert_empty()


@hosts(3)
def test_jobs_that_fail_everywhere_are_to_blame_themselves(
    pool: NamespacePool, project: Project, run_program: Run
) -> None:
    batch = Batch(project, 30, "if int(job) % 3 == 0: sys.exit(int(job) + 1)", retries=1)
    batch.let_go()
    project.pool(pool.hosts)
    done = run_program("inv", "submit")
    assert done.returncode == 1, done.said
    assert "30 jobs: 20 succeeded, 10 failed" in done.stdout
    attempts = batch.attempts()
    failed = {attempt.job for attempt in attempts if attempt.ended is None}
    assert failed == {f"{number:04d}" for number in range(0, 30, 3)}
    assert all(len(batch.hosts_of(job)) >= 2 for job in failed)
    assert "0027  exit code 28 on" in run_program("inv", "status", "--failed").stdout
    pool.assert_empty()


# -- scripts ------------------------------------------------------------------------------------------------


def on_a_terminal(
    pool: NamespacePool, project: Project, *arguments: str
) -> tuple[subprocess.Popen[bytes], int]:
    """Start `inv` on the head on a terminal of 80 columns; give it, and the other end of the terminal."""
    terminal, line = pty.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [*pool.prefix(), str(Path(sys.executable).parent / "inv"), *arguments],
        cwd=project.path,
        env={**pool.environment, "TERM": "xterm-256color"},
        stdin=line,
        stdout=line,
        stderr=line,
    )
    os.close(line)
    return process, terminal


def drawn_on(terminal: int) -> list[str]:
    """Give every line that is drawn until nobody has the terminal open any more."""
    drawn = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # that is how Linux ends it
            break
        if not data:
            break
        drawn += data
    os.close(terminal)
    return [line for line in re.split(r"[\r\n]+", MOVES.sub("", drawn.decode())) if line.strip()]


@hosts(3)
def test_a_script_that_fails_everywhere_stops_the_run(
    pool: NamespacePool, project: Project, run_program: Run
) -> None:
    batch = Batch(project, 40, TYPO)
    batch.let_go()
    project.pool(pool.hosts)
    process, terminal = on_a_terminal(pool, project, "submit")
    batch.wait_for_begun(6)
    project.write("fail", "")
    lines = drawn_on(terminal)
    shown = "\n".join(lines)
    print(shown)
    assert process.wait() == 1, shown
    begun = {attempt.job for attempt in batch.attempts()}
    assert 5 <= len(begun) < 40, shown

    # What a person sees: what is common once, and what to do.
    assert shown.count("Traceback (most recent call last):") == 1, shown
    assert shown.count("FileNotFoundError: [Errno 2] No such file or directory: '/data/0000.csv'") == 1, shown
    assert re.search(
        r"^stopping: the first \d+ jobs all failed in the same way, on [23] hosts: exit code 1$", shown, re.M
    )
    start = next(number for number, line in enumerate(lines) if line.startswith("run: 40 jobs: "))
    ours = [line for line in lines[start:] if not line.startswith("    ")]
    assert all(len(line.rstrip()) <= COLUMNS for line in ours), ours
    assert "submit --retry-failed" in shown
    assert "stop_after: 0" in shown

    status = run_program("inv", "status").stdout
    assert "stopped early at " in status
    assert status.count("Traceback") == 1
    assert "submit --retry-failed" in status
    assert "hopeless" not in status

    # What it would have run still waits, and is run when the script is mended.
    assert re.search(r"^run: 40 jobs: \d+ waiting, \d+ failed", lines[start]), lines[start]
    project.write("mended", "")
    again = run_program("inv", "submit", "--retry-failed")
    assert again.returncode == 0, again.said
    assert "40 jobs: 40 succeeded" in again.stdout
    batch.check(run_program)
    pool.assert_empty()


@hosts(2)
@pytest.mark.parametrize(
    ("abuse", "settings"),
    [("sys.exit('the same')", {"stop_after": 0}), ("sys.exit(1 + int(job) % 2)", {})],
    ids=["stop_after is 0", "they fail differently"],
)
def test_failing_jobs_do_not_stop_a_run(
    pool: NamespacePool, project: Project, run_program: Run, abuse: str, settings: dict[str, object]
) -> None:
    batch = Batch(project, 16, abuse, **settings)
    project.pool(pool.hosts)
    done = run_program("inv", "submit")
    assert done.returncode == 1, done.said
    assert "16 jobs: 16 failed" in done.stdout
    assert "stopping" not in done.stdout
    assert {attempt.job for attempt in batch.attempts()} == set(batch.jobs)
    assert "finished at" in run_program("inv", "status").stdout
    pool.assert_empty()


@hosts(2)
def test_a_run_that_was_stopped_early_goes_on_if_told_to_let_jobs_fail(
    pool: NamespacePool, project: Project, run_program: Run
) -> None:
    batch = Batch(project, 12, "sys.exit('as always')", stop_after=2, retries=1)
    project.pool(pool.hosts)
    done = run_program("inv", "submit")
    assert done.returncode == 1, done.said
    assert done.stdout.count("as always") == 1, done.said
    assert len({attempt.job for attempt in batch.attempts()}) < 12
    text = (project.path / "jobs.yaml").read_text()
    project.write("jobs.yaml", text.replace("stop_after: 2", "stop_after: 0"))
    again = run_program("inv", "submit")
    assert again.returncode == 1, again.said
    assert "12 jobs: 12 failed" in again.stdout
    wait_for(lambda: len({attempt.job for attempt in batch.attempts()}) == 12, "all jobs in the log")
    pool.assert_empty()
