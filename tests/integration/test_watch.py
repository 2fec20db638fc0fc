"""A run that is looked at while it goes on: the real `inv`, and real jobs that wait for the test."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import wait_for
from programs import Completed, Home, Program, Project
from terminal import CTRL_C, Terminal

Run = Callable[..., Completed]
Start = Callable[..., Program]

# Each attempt ends when there is a file for it, with the exit code that is in the file.
SCRIPT = """
import os, sys, time
name = os.environ["PISA_JOB"] + "." + os.environ["PISA_ATTEMPT"]
print("began", name, flush=True)
print("warned", file=sys.stderr, flush=True)
while not os.path.exists("go/" + name) and not os.path.exists("go/all"):
    time.sleep(0.02)
print("ended", name)
sys.exit(int(open("go/" + name).read()) if os.path.exists("go/" + name) else 0)
"""


class Jobs:
    """The jobs of a project, which run until they are let go."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.go = project.path / "go"
        self.go.mkdir()
        project.write("script.py", SCRIPT)

    def write(self, count: int, **settings: object) -> None:
        sweep = {"-n": {"from": 1, "to": count}}
        self.project.jobs(
            {"script": "script.py", "output": "run", "sweep": sweep, "stop_after": 0, **settings}
        )

    def let_go(self, name: str, code: int = 0) -> None:
        """Let an attempt (`0001.1`) end, or all."""
        (self.go / f"{name}.new").write_text(str(code))
        (self.go / f"{name}.new").rename(self.go / name)

    def wait_until_begun(self, *names: str) -> None:
        for name in names:
            path = self.project.path / "run/.pisa/attempts" / f"{name}.out"
            wait_for(lambda path=path: path.exists() and path.read_text(), f"the first words of {name}")


@pytest.fixture
def jobs(project: Project) -> Iterator[Jobs]:
    """Jobs on this machine; at the end all are let go."""
    jobs = Jobs(project)
    yield jobs
    jobs.let_go("all")


# -- status --watch -----------------------------------------------------------------------------------------


def test_lines_say_what_changes_until_it_is_over(jobs: Jobs, start_program: Start) -> None:
    jobs.write(3)
    submit = start_program("inv", "submit")
    jobs.wait_until_begun("0000.1")
    watch = start_program("inv", "status", "--watch")
    watch.wait_for_output("running on ")
    jobs.let_go("0000.1", code=3)
    watch.wait_for_output("0000: failed on ")
    jobs.let_go("all")
    assert submit.wait().returncode == 1
    done = watch.wait()
    assert done.returncode == 1, done.said
    assert re.search(r"^0000: failed on \S+: exit code 3 \(-n 1\)$", done.stdout, re.M), done.said
    assert re.search(r"^\d\d:\d\d:\d\d \d/3 done, .*running", done.stdout, re.M), done.said
    assert "run: 3 jobs: 2 succeeded, 1 failed" in done.stdout
    assert done.stdout.splitlines()[-1] == "outputs: run"


def test_a_head_that_dies_is_noticed(jobs: Jobs, start_program: Start, run_program: Run) -> None:
    jobs.write(1)
    submit = start_program("inv", "submit")
    jobs.wait_until_begun("0000.1")
    watch = start_program("inv", "status", "--watch")
    watch.wait_for_output("running on ")
    submit.kill()
    done = watch.wait()
    assert done.returncode == 130, done.said
    assert "its head died after " in done.stdout
    status = run_program("inv", "status", "--job", "0")
    assert "when its head ended" in status.stdout, status.said
    jobs.let_go("all")
    assert run_program("inv", "submit").returncode == 0
    again = run_program("inv", "status", "--watch")
    assert (again.returncode, again.stdout) == (0, "run: 1 job: 1 succeeded\noutputs: run\n"), again.said


def test_an_interrupted_run_ends_the_watch(jobs: Jobs, start_program: Start) -> None:
    jobs.write(1)
    submit = start_program("inv", "submit")
    jobs.wait_until_begun("0000.1")
    watch = start_program("inv", "status", "--watch")
    watch.wait_for_output("running on ")
    submit.interrupt()
    assert submit.wait().returncode == 130
    done = watch.wait()
    assert done.returncode == 130, done.said
    assert "  interrupted at " in done.stdout


@pytest.fixture
def terminal(project: Project, home: Home) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*args: str) -> Terminal:
        inv = str(Path(sys.executable).parent / "inv")
        started.append(Terminal([inv, *args], project.path, {**home.env, "TERM": "xterm-256color"}))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_picture_stands_until_it_is_over(
    jobs: Jobs, start_program: Start, terminal: Callable[..., Terminal]
) -> None:
    jobs.write(3)
    submit = start_program("inv", "submit")
    jobs.wait_until_begun("0000.1")
    screen = terminal("status", "--watch")
    screen.wait_for_line(r"^run: running on \S+ \(process \d+\) since ")
    screen.wait_for_line(r"━ 0/3, \d running, 1 host$")
    screen.wait_for_line(r"^host +state +slots +running +done$")
    screen.wait_for_line(r"^\S+ +ready +\d+ +\d+ +0$")
    assert all(len(line) <= 80 for line in screen.lines)
    jobs.let_go("0000.1", code=3)
    screen.wait_for_line(r"^0000: failed on \S+: exit code 3 \(-n 1\)$")
    before = len(screen.lines)
    screen.resize(20, 60)
    screen.wait_for_line(r"━ 1/3, 1 failed", before)
    assert all(len(line) <= 60 for line in screen.lines[-5:]), screen.lines[-5:]
    screen.wait_for_line(r"^0000: failed on ", before)  # said once more: the screen was cleared
    jobs.let_go("all")
    assert submit.wait().returncode == 1
    assert screen.wait() == 1, screen.lines
    assert any("run: 3 jobs: 2 succeeded, 1 failed" in line for line in screen.lines)
    assert screen.lines[-1] == "outputs: run"


def test_who_leaves_ends_nothing(jobs: Jobs, start_program: Start, terminal: Callable[..., Terminal]) -> None:
    jobs.write(1)
    submit = start_program("inv", "submit")
    jobs.wait_until_begun("0000.1")
    screen = terminal("status", "--watch")
    screen.wait_for_line(r"━ 0/1, 1 running")
    screen.type(CTRL_C)
    assert screen.wait() == 0, screen.lines
    assert screen.lines[-1].startswith("run: the run goes on; look again with: "), screen.lines
    assert "━" in "".join(screen.lines[-6:])
    assert submit.running()
    jobs.let_go("all")
    assert submit.wait().returncode == 0


# -- why ----------------------------------------------------------------------------------------------------


def test_a_job_that_waits_says_why(jobs: Jobs, start_program: Start, run_program: Run) -> None:
    cores = len(os.sched_getaffinity(0))
    jobs.write(cores + 2)
    start_program("inv", "submit")
    jobs.wait_until_begun(*[f"{n:04d}.1" for n in range(cores)])
    last = cores + 1
    busy = f"all {cores} slots on 1 host are busy" if cores > 1 else "the only slot, on 1 host, is busy"
    status = run_program("inv", "status")
    assert f"  2 jobs wait: {busy}\n" in status.stdout, status.said
    one = run_program("inv", "status", "--job", str(last))
    assert one.stdout.splitlines()[:2] == [f"{last:04d}  waiting", f"  {busy}; 1 job before it"], one.said
    data = json.loads(run_program("inv", "status", "--job", str(last), "--json").stdout)
    assert data["why"] == [f"{busy}; 1 job before it"]
    running = run_program("inv", "status", "--job", "0000").stdout.splitlines()
    assert re.fullmatch(r"  it runs on \S+ since .*, for .*, attempt 1", running[1]), running
    assert "  run/.pisa/attempts/0000.1.out" in running
    log = run_program("inv", "logs", str(last))
    assert (log.returncode, log.stdout) == (1, ""), log.said
    assert log.stderr == f"{last:04d}: {busy}; 1 job before it\n"
    unknown = run_program("inv", "logs", "77")
    assert unknown.returncode == 2
    assert f"there is no job 0077: they are 0000 to {last:04d}" in unknown.stderr


# -- logs ---------------------------------------------------------------------------------------------------


def test_logs_of_a_job_that_runs(jobs: Jobs, start_program: Start, run_program: Run) -> None:
    jobs.write(1)
    submit = start_program("inv", "submit")
    jobs.wait_until_begun("0000.1")
    log = run_program("inv", "logs", "0")
    assert (log.returncode, log.stdout, log.stderr) == (0, "began 0000.1\n", ""), log.said
    assert run_program("inv", "logs", "0000", "--err").stdout == "warned\n"
    jobs.let_go("all")
    submit.wait()
    assert run_program("inv", "logs", "0000.1").stdout == "began 0000.1\nended 0000.1\n"


def test_following_goes_through_retries_and_the_renaming(jobs: Jobs, start_program: Start) -> None:
    cores = len(os.sched_getaffinity(0))
    last = f"{cores:04d}"  # the first that has to wait
    jobs.write(cores + 1, retries=2)
    submit = start_program("inv", "submit")
    jobs.wait_until_begun("0000.1")
    log = start_program("inv", "logs", last, "--follow")
    log.wait_for_output("busy")
    jobs.let_go("0000.1")
    log.wait_for_output(f"began {last}.1")
    log.wait_for_output("-- attempt 1 on ")
    jobs.let_go(f"{last}.1", code=4)
    log.wait_for_output(f"began {last}.2")
    jobs.let_go(f"{last}.2", code=5)
    log.wait_for_output(f"began {last}.3")
    jobs.let_go("all")
    done = log.wait()
    assert done.returncode == 0, done.said
    assert done.stdout == "".join(f"began {last}.{n}\nended {last}.{n}\n" for n in (1, 2, 3))
    said = [re.sub(r" on [^\s:]+", "", line) for line in done.stderr.splitlines()[1:]]
    assert said == [
        "-- attempt 1 --",
        f"{last}.1: exit code 4",
        "-- attempt 2 --",
        f"{last}.2: exit code 5",
        "-- attempt 3 --",
    ], done.said
    assert submit.wait().returncode == 0


def test_following_a_job_that_fails_ends_with_1(jobs: Jobs, start_program: Start) -> None:
    jobs.write(1)
    start_program("inv", "submit")
    jobs.wait_until_begun("0000.1")
    log = start_program("inv", "logs", "0", "--follow", "--err")
    log.wait_for_output("warned")
    jobs.let_go("0000.1", code=7)
    done = log.wait()
    assert (done.returncode, done.stdout) == (1, "warned\n"), done.said
    assert re.fullmatch(r"0000\.1 on \S+: exit code 7\n", done.stderr), done.said


def test_who_leaves_a_log_ends_nothing(jobs: Jobs, start_program: Start) -> None:
    jobs.write(1)
    submit = start_program("inv", "submit")
    jobs.wait_until_begun("0000.1")
    log = start_program("inv", "logs", "0", "--follow")
    log.wait_for_output("began")
    log.interrupt()
    done = log.wait()
    assert (done.returncode, done.stderr) == (0, ""), done.said
    jobs.let_go("all")
    assert submit.wait().returncode == 0
