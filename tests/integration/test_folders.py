"""A run whose numbers go beyond ten thousand: files in subfolders, for everybody who asks for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest
from processes import wait_for
from programs import Completed, Program, Project
from sshd import Hosts

from pisa_fab import Batch

Run = Callable[..., Completed]
Start = Callable[..., Program]

FLAT, BEYOND = 9_999, 12_345
BOTH = f"{FLAT},{BEYOND}"
NAMES = {FLAT: "9999", BEYOND: "10000/12345"}  # within each folder of outputs
# The first attempt fails where a file says so; each says which it is.
SCRIPT = """
import os, sys
print(os.environ["PISA_JOB"], "attempt", os.environ["PISA_ATTEMPT"])
print("warned", file=sys.stderr)
sys.exit(3 if os.environ["PISA_ATTEMPT"] == "1" and os.path.exists("fail") else 0)
"""
# Waits for the test.
SLOW = ["sh", "-c", "echo $PISA_JOB >> ran.log; until [ -e go ]; do sleep 0.05; done; echo done"]


@pytest.fixture
def many(project: Project) -> Project:
    """A batch of more than ten thousand jobs, of which a test runs two or three."""
    project.write("script.py", SCRIPT)
    project.jobs(batch(script="script.py", retries=1, results={"regex": r"attempt (?P<found>\d+)"}))
    return project


def batch(**settings: object) -> dict[str, object]:
    return {"output": "run", "sweep": {"-n": {"from": 0, "to": BEYOND}}, **settings}


def files(project: Project) -> set[str]:
    """Give the files that jobs have written, within the run directory."""
    run = project.path / "run"
    folders = (run / "stdout", run / "stderr", run / ".pisa/attempts")
    return {str(path.relative_to(run)) for folder in folders for path in folder.rglob("*") if path.is_file()}


def published(*jobs: int) -> set[str]:
    return {f"std{stream}/{NAMES[job]}.{stream}" for job in jobs for stream in ("out", "err")}


def submit(run_program: Run, *options: str) -> None:
    done = run_program("inv", "submit", "--only", BOTH, *options)
    assert done.returncode == 0, done.said
    assert ": 2 succeeded" in done.stdout


def found(project: Project, run_program: Run) -> dict[str, str]:
    """Collect, and give what was found in the outputs of the jobs that ran."""
    assert run_program("inv", "collect").returncode == 1  # the others have not run
    rows = project.table("run/results.csv")
    return {row["job"]: row["found"] for row in rows if row["state"] == "succeeded"}


def test_files_beyond_ten_thousand_stand_in_subfolders(many: Project, run_program: Run) -> None:
    submit(run_program)
    assert files(many) == published(FLAT, BEYOND)
    for folder in ("run/stdout/10000", "run/stderr/10000", "run/.pisa/attempts/10000"):
        assert (many.path / folder).stat().st_mode & 0o777 == 0o700
    assert (many.path / "run/stdout/10000/12345.out").read_text() == "12345 attempt 1\n"
    assert found(many, run_program) == {"9999": "1", "12345": "1"}
    assert run_program("inv", "logs", "12345").stdout == "12345 attempt 1\n"
    assert run_program("inv", "logs", "12345", "--err").stdout == "warned\n"
    described = run_program("inv", "status", "--job", "12345").stdout
    assert described.splitlines()[-2:] == ["  run/stdout/10000/12345.out", "  run/stderr/10000/12345.err"]
    result = Batch.load(many.path / "jobs.yaml").results().job(BEYOND)
    assert (result.stdout, result.stderr) == ("12345 attempt 1\n", "warned\n")


def test_an_attempt_that_failed_keeps_its_files_by_the_same_rule(many: Project, run_program: Run) -> None:
    many.write("fail", "")
    submit(run_program)
    kept = {f".pisa/attempts/{name}.1.{stream}" for name in NAMES.values() for stream in ("out", "err")}
    assert files(many) == published(FLAT, BEYOND) | kept
    assert found(many, run_program) == {"9999": "2", "12345": "2"}
    first = run_program("inv", "logs", "12345.1")
    assert first.stdout == "12345 attempt 1\n"
    assert "exit code 3" in first.stderr
    assert "  run/.pisa/attempts/10000/12345.1.out" in run_program("inv", "status", "--job", "12345").stdout


@pytest.mark.parametrize("flat", [False, True])
def test_what_counted_but_was_not_published_is_published_by_the_next_head(
    many: Project, run_program: Run, flat: bool
) -> None:
    submit(run_program)
    run = many.path / "run"
    # As a head that died in between leaves it; a flat one is of 0.3.
    for job, name in NAMES.items():
        for stream in ("out", "err"):
            source = run / f"std{stream}/{name}.{stream}"
            source.rename(run / f".pisa/attempts/{job if flat else name}.1.{stream}")
    for folder in ("stdout", "stderr"):
        (run / folder / "10000").rmdir()
    assert found(many, run_program) == {"9999": "1", "12345": "1"}
    assert run_program("inv", "logs", "12345").stdout == "12345 attempt 1\n"
    submitted = run_program("inv", "submit", "--only", BOTH)
    assert submitted.returncode == 0, submitted.said
    assert files(many) == published(FLAT, BEYOND)
    assert found(many, run_program) == {"9999": "1", "12345": "1"}


def test_a_run_of_0_3_is_read_where_it_is_and_goes_on_by_the_rule(many: Project, run_program: Run) -> None:
    submit(run_program)
    run = many.path / "run"
    for stream in ("out", "err"):
        (run / f"std{stream}/10000/12345.{stream}").rename(run / f"std{stream}/12345.{stream}")
        (run / f"std{stream}/10000").rmdir()
    shutil.rmtree(run / ".pisa/attempts/10000")
    as_left = files(many)
    assert found(many, run_program) == {"9999": "1", "12345": "1"}
    assert run_program("inv", "logs", "12345").stdout == "12345 attempt 1\n"
    assert "  run/stdout/12345.out" in run_program("inv", "status", "--job", "12345").stdout
    assert Batch.load(many.path / "jobs.yaml").results().job(BEYOND).stderr == "warned\n"
    assert "nothing left to run" in run_program("inv", "submit", "--only", BOTH).stdout
    assert files(many) == as_left
    submit(run_program, "--rerun")
    assert files(many) == as_left | published(BEYOND)
    assert found(many, run_program) == {"9999": "2", "12345": "2"}
    assert run_program("inv", "logs", "12345").stdout == "12345 attempt 2\n"
    assert Batch.load(many.path / "jobs.yaml").results().job(BEYOND).stdout == "12345 attempt 2\n"


def test_a_head_that_dies_between_both_is_followed_by_one_that_loses_nothing(
    project: Project, run_program: Run, start_program: Start
) -> None:
    project.jobs(batch(command=SLOW))
    ran = project.path / "ran.log"
    first = start_program("inv", "submit", "--only", BOTH, "--slots", "2")
    wait_for(lambda: ran.exists() and len(ran.read_text().split()) == 2, "both jobs to run")
    first.kill()
    assert files(project) == {
        f".pisa/attempts/{name}.1.{stream}" for name in NAMES.values() for stream in ("out", "err")
    }
    again = start_program("inv", "submit", "--only", BOTH, "--slots", "2")
    again.wait_for_output("that it still has")
    project.write("go", "")
    done = again.wait()
    assert done.returncode == 0, done.said
    assert sorted(ran.read_text().split()) == ["12345", "9999"]
    assert files(project) == published(FLAT, BEYOND)


def test_a_job_is_followed_while_it_runs(project: Project, run_program: Run, start_program: Start) -> None:
    project.jobs(batch(command=["sh", "-c", "echo begun; until [ -e go ]; do sleep 0.05; done; echo done"]))
    program = start_program("inv", "submit", "--only", str(BEYOND))
    path = project.path / "run/.pisa/attempts/10000/12345.1.out"
    wait_for(lambda: path.exists() and path.read_text(), "the first words of the job")
    follower = start_program("inv", "logs", "12345", "--follow")
    follower.wait_for_output("begun")
    project.write("go", "")
    done = follower.wait()
    assert (done.returncode, done.stdout) == (0, "begun\ndone\n"), done.said
    assert program.wait().returncode == 0
    status = json.loads(run_program("inv", "status", "--json").stdout)
    assert status["counts"]["succeeded"] == 1


def test_hosts_that_make_the_same_folder_at_once_do_not_disturb_each_other(
    many: Project, hosts: Hosts, run_program: Run
) -> None:
    many.pool(hosts.start(2))
    done = run_program("inv", "submit", "--only", "9998-10017")
    assert done.returncode == 0, done.said
    assert ": 20 succeeded" in done.stdout
    run = many.path / "run"
    for number in range(9_998, 10_018):
        within = "10000" if number >= 10_000 else ""
        assert (run / "stdout" / within / f"{number}.out").read_text() == f"{number} attempt 1\n"
        assert (run / "stderr" / within / f"{number}.err").read_text() == "warned\n"
    assert len(files(many)) == 40
