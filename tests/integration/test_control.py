"""A run and what a person does to it: some jobs only, cancel, the background, a note at the end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import wait_for
from programs import Completed, Program, Project

Run = Callable[..., Completed]
Start = Callable[..., Program]

# Waits until the test opens the gate; says that it has begun.
GATED = """
import os, pathlib, sys, time
job = os.environ["PISA_JOB"]
pathlib.Path(f"began.{job}").touch()
while not pathlib.Path("gate").exists():
    time.sleep(0.02)
print(job)
"""


@pytest.fixture
def gated(project: Project) -> Project:
    """Ten jobs for two slots that wait at a gate."""
    project.write("script.py", GATED)
    project.jobs({"script": "script.py", "output": "run", "sweep": {"-n": {"from": 0, "to": 9}}})
    project.write("invoke.yaml", "pisa: {slots: 2}\n")
    return project


def open_gate(project: Project) -> None:
    (project.path / "gate").touch()


def wait_until_running(project: Project, *jobs: int) -> None:
    paths = [project.path / f"began.{job:04d}" for job in jobs]
    wait_for(lambda: all(path.exists() for path in paths), f"jobs {jobs} to run")


def states(run_program: Run) -> dict[str, int]:
    counts = json.loads(run_program("inv", "status", "--json").stdout)["counts"]
    return {state: count for state, count in counts.items() if count}


# -- only -------------------------------------------------------------------------------------------------


def test_only_some_jobs_are_run_and_the_others_by_the_next_submit(gated: Project, run_program: Run) -> None:
    open_gate(gated)
    done = run_program("inv", "submit", "--only", "3,7-8")
    assert done.returncode == 0, done.said
    assert "run: 3 of 3 jobs to run" in done.stdout
    assert "3 jobs (7 others were left out): 3 succeeded" in done.stdout
    assert sorted(path.name for path in gated.path.glob("run/stdout/*")) == [
        "0003.out",
        "0007.out",
        "0008.out",
    ]
    assert len(gated.table("run/assignments.csv")) == 10
    assert "(--only), and not this one" in run_program("inv", "status", "--job", "4").stdout
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    assert "7 of 10 jobs to run" in done.stdout


def test_one_job_can_be_run_again(gated: Project, run_program: Run) -> None:
    open_gate(gated)
    assert run_program("inv", "submit").returncode == 0
    before = table(run_program)
    done = run_program("inv", "submit", "--only", "4", "--rerun")
    assert "1 of 1 job to run" in done.stdout, done.said
    again = [new["job"] for old, new in zip(before, table(run_program), strict=True) if new != old]
    assert again == ["0004"]


def table(run_program: Run) -> list[dict[str, str]]:
    rows = json.loads(run_program("inv", "collect", "--to", "-", "--format", "json").stdout)
    return [{**row, "attempt": str(row["attempt"])} for row in rows]


@pytest.mark.parametrize(
    ("only", "problem"),
    [
        ("10", "there is no job 0010 in this batch\n  tip: it has 10 jobs, 0000 to 0009"),
        ("8-12", "there is no job 0012 in this batch"),
        ("x", "'x' is no number of a job\n  tip: name jobs as in: --only 3,7-9"),
        (",", "no job is named"),
    ],
)
def test_jobs_that_are_not_there_are_one_line(
    gated: Project, run_program: Run, only: str, problem: str
) -> None:
    for command in ("submit", "cancel"):
        run_program("inv", "dryrun")
        done = run_program("inv", command, "--only", only)
        assert done.returncode == 2, done.said
        if command == "submit":
            assert problem in done.stderr
    assert not (gated.path / "run/.pisa").exists()


# -- cancel -----------------------------------------------------------------------------------------------


def test_jobs_are_cancelled_while_they_wait_and_while_they_run(
    gated: Project, run_program: Run, start_program: Start
) -> None:
    head = start_program("inv", "submit")
    wait_until_running(gated, 0, 1)
    done = run_program("pisa-fab", "cancel", "--only", "0,5-6")
    assert done.returncode == 0, done.said
    assert done.stdout == "3 jobs cancelled: 0000, 0005, 0006\n"
    wait_until_running(gated, 2)  # in the place of the one that ran
    assert states(run_program) == {"waiting": 5, "running": 2, "cancelled": 3}
    open_gate(gated)
    ended = head.wait()
    assert ended.returncode == 1, ended.said
    assert "10 jobs: 7 succeeded, 3 cancelled" in ended.stdout
    assert " cancels 0000, 0005, 0006" in ended.stdout
    # They stay cancelled until somebody wants them again.
    assert "nothing left to run" in run_program("inv", "submit").stdout
    done = run_program("inv", "submit", "--retry-failed")
    assert done.returncode == 0, done.said
    assert "3 of 10 jobs to run" in done.stdout


def test_a_job_that_has_ended_cannot_be_cancelled(gated: Project, run_program: Run) -> None:
    open_gate(gated)
    run_program("inv", "submit", "--only", "0-3")
    done = run_program("inv", "cancel", "--only", "2-5")
    assert done.returncode == 0, done.said
    assert done.stdout == "2 jobs cancelled: 0004, 0005\n2 jobs succeeded: 0002, 0003\n"
    done = run_program("inv", "submit")
    assert done.returncode == 1
    assert "4 of 10 jobs to run" in done.stdout
    assert "10 jobs: 8 succeeded, 2 cancelled" in done.stdout


def test_a_whole_run_is_cancelled_and_can_go_on(
    gated: Project, run_program: Run, start_program: Start
) -> None:
    head = start_program("inv", "submit")
    wait_until_running(gated, 0, 1)
    done = run_program("inv", "cancel")
    assert done.returncode == 0, done.said
    assert "it has ended; to go on: inv submit" in done.stdout
    ended = head.wait()
    assert ended.returncode == 130, ended.said
    assert "cancelled the run" in ended.stdout
    assert states(run_program) == {"waiting": 10}
    done = run_program("inv", "cancel")
    assert (done.returncode, done.stdout) == (0, "run: nothing is running\n")
    open_gate(gated)
    assert run_program("inv", "submit").returncode == 0


def test_nothing_is_started_by_cancelling_jobs_of_a_run_that_was_stopped(
    gated: Project, run_program: Run, start_program: Start
) -> None:
    head = start_program("inv", "submit")
    wait_until_running(gated, 0, 1)
    assert run_program("inv", "cancel").returncode == 0
    assert head.wait().returncode == 130
    done = run_program("inv", "cancel", "--only", "0,5")
    assert done.stdout == "2 jobs cancelled: 0000, 0005\n", done.said
    assert states(run_program) == {"waiting": 8, "cancelled": 2}
    open_gate(gated)
    done = run_program("inv", "submit")
    assert done.returncode == 1, done.said
    assert "10 jobs: 8 succeeded, 2 cancelled" in done.stdout


def test_several_may_cancel_a_run_at_once(gated: Project, run_program: Run, start_program: Start) -> None:
    head = start_program("inv", "submit")
    wait_until_running(gated, 0, 1)
    cancels = [start_program("inv", "cancel") for _ in range(3)]
    for cancel in cancels:
        ended = cancel.wait()
        assert ended.returncode == 0, ended.said
    assert head.wait().returncode == 130
    assert list((gated.path / "run/.pisa/requests").iterdir()) == []


def test_a_job_that_was_not_submitted_yet_cannot_be_cancelled(gated: Project, run_program: Run) -> None:
    open_gate(gated)
    assert run_program("inv", "submit").returncode == 0
    gated.jobs({"script": "script.py", "output": "run", "sweep": {"-n": {"from": 0, "to": 10}}})
    done = run_program("inv", "cancel", "--only", "9-10")
    assert done.returncode == 2, done.said
    assert "not submitted yet: 0010" in done.stderr


def test_what_was_never_submitted_cannot_be_cancelled(gated: Project, run_program: Run) -> None:
    done = run_program("inv", "cancel")
    assert done.returncode == 2
    assert "nothing was submitted yet" in done.stderr
    assert not (gated.path / "run").exists()


def test_a_stop_that_was_asked_of_a_dead_head_does_not_stop_the_next(
    gated: Project, run_program: Run
) -> None:
    open_gate(gated)
    assert run_program("inv", "submit", "--only", "0").returncode == 0
    (gated.path / "run/.pisa/requests/0123456789abcdef.json").write_text('{"cancel": null, "by": "me"}')
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said


# -- the background ---------------------------------------------------------------------------------------


@pytest.fixture
def end_background(gated: Project) -> Iterator[None]:
    """Whatever goes on in the background has ended when the test has."""
    yield
    lock = gated.path / "run/.pisa/lock"
    if lock.exists():
        pid = int(json.loads(lock.read_text())["pid"])
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGINT)
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the head in the background")


@pytest.mark.usefixtures("end_background")
def test_a_run_goes_on_in_the_background(gated: Project, run_program: Run) -> None:
    done = run_program("inv", "submit", "--detach")
    assert done.returncode == 0, done.said
    assert "run: runs in the background on " in done.stdout
    assert "watch it: inv status --watch\n" in done.stdout
    wait_until_running(gated, 0, 1)
    pid = int(json.loads((gated.path / "run/.pisa/lock").read_text())["pid"])
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert stat[3] == str(pid), "it leads no session of its own"
    assert stat[4] == "0", "it has a terminal"
    assert run_program("inv", "submit", "--detach").returncode == 2  # one head at a time, and one log
    open_gate(gated)
    done = run_program("inv", "status", "--watch")
    assert done.returncode == 0, done.said
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the head")
    log = (gated.path / "run/.pisa/head.log").read_text()
    assert "10 jobs: 10 succeeded" in log
    assert (gated.path / "run/.pisa/head.log").stat().st_mode & 0o077 == 0


def test_what_ends_before_it_has_begun_is_said_at_once(gated: Project, run_program: Run) -> None:
    open_gate(gated)
    assert run_program("inv", "submit").returncode == 0
    done = run_program("inv", "submit", "--detach")
    assert done.returncode == 0, done.said
    assert "nothing left to run" in done.stdout
    assert "background" not in done.stdout


def test_a_run_directory_that_is_taken_is_said_at_once(
    gated: Project, run_program: Run, start_program: Start
) -> None:
    head = start_program("inv", "submit")
    wait_until_running(gated, 0, 1)
    done = run_program("inv", "submit", "--detach")
    assert done.returncode == 2, done.said
    assert "is being run by" in done.stderr
    assert not (gated.path / "run/.pisa/head.log").exists()
    open_gate(gated)
    assert head.wait().returncode == 0


def test_other_tasks_of_the_command_line_are_run_once(gated: Project, run_program: Run) -> None:
    gated.write(
        "tasks.py",
        "from invoke import task\nfrom pisa_fab.tasks import *\n\n@task\ndef after(c):\n    print('after')\n",
    )
    open_gate(gated)
    done = run_program("inv", "submit", "--detach", "after")
    assert done.returncode == 0, done.said
    assert done.stdout.splitlines()[-1] == "after"
    done = run_program("inv", "status", "--watch")
    assert done.returncode == 0, done.said
    assert "after" not in (gated.path / "run/.pisa/head.log").read_text()


# -- the note at the end ----------------------------------------------------------------------------------


def test_a_command_is_run_when_the_run_has_ended(gated: Project, run_program: Run) -> None:
    gated.write(
        "note.py",
        "import json, os, sys\n"
        "ours = {k: v for k, v in os.environ.items() if k.startswith('PISA_')}\n"
        "json.dump([sys.argv[1:], ours, sys.stdin.read()], open('note.json', 'w'))\n",
    )
    jobs = {"script": "script.py", "output": "run", "sweep": {"-n": [1, 2]}}
    gated.jobs({**jobs, "notify": ["python3", "note.py", "{state}: {summary}", "$HOME {x}"]})
    open_gate(gated)
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    words, env, text = json.loads((gated.path / "note.json").read_text())
    assert words[0].startswith("succeeded: run: 2 jobs: 2 succeeded in ")
    assert words[1] == "$HOME {x}"
    assert env["PISA_OUTPUT"] == str(gated.path / "run")
    assert env["PISA_STATE"] == "succeeded"
    assert text.startswith(env["PISA_SUMMARY"])
    (gated.path / "note.json").unlink()
    run_program("inv", "submit")  # nothing was run, so there is nothing to tell
    assert not (gated.path / "note.json").exists()


def test_the_configuration_can_say_what_is_run_at_the_end(gated: Project, run_program: Run) -> None:
    open_gate(gated)
    done = run_program("inv", "submit", env={"INVOKE_PISA_NOTIFY": "touch 'it has {state}'"})
    assert done.returncode == 0, done.said
    assert (gated.path / "it has succeeded").exists()


@pytest.mark.parametrize(
    ("notify", "problem"),
    [
        (["nothing-like-this"], "notify: nothing-like-this cannot be run: No such file or directory"),
        (["sh", "-c", "echo oh dear >&2; exit 3"], "notify: sh ended with 3: oh dear"),
    ],
)
def test_a_note_that_cannot_be_given_changes_nothing(
    gated: Project, run_program: Run, notify: list[str], problem: str
) -> None:
    gated.jobs({"command": "true", "output": "run", "notify": notify})
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    assert problem in done.stderr
