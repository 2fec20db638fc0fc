"""The Python API, as a user's program: in a process of its own where it runs a batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import wait_for
from programs import Completed, Program, Project
from sshd import Hosts

import pisa_fab
from pisa_fab import Batch, PisaError, Pool
from pisa_fab.errors import RunError, SpecError, UsageError

Run = Callable[..., Completed]
Start = Callable[..., Program]

SCRIPT = """
import json, sys
n, mode = int(sys.argv[2]), sys.argv[4]
print("to the right", file=sys.stderr)
if (n, mode) == (2, "exact"):
    sys.exit(3)
print(json.dumps({"value": n * 0.5, "name": mode}))
"""


@pytest.fixture
def grid(project: Project) -> Project:
    project.write("script.py", SCRIPT)
    project.jobs(
        {
            "script": "script.py",
            "output": "run",
            "sweep": {"-n": {"from": 0, "to": 3}, "--mode": ["fast", "exact"]},
            "results": "json",
        }
    )
    return project


def python(run_program: Run, project: Project, source: str) -> Completed:
    project.write("program.py", source)
    return run_program(sys.executable, "program.py")


IN_A_THREAD = """
import sys, threading
from pathlib import Path
from pisa_fab import Batch, PisaError, Pool

batch, pool = Batch.load("jobs.yaml"), Pool.this_machine(slots=2)
thread = threading.Thread(target=lambda: print("first:", pool.run(batch).reason))
thread.start()
while not Path("began").exists():
    pass
print(batch.results()[0].state)
try:
    pool.run(batch)
except PisaError as error:
    print("second:", error.message.partition(" by ")[0].rpartition("/")[2])
Path("gate").touch()
thread.join()
print(batch.results().succeeded)
"""


def test_a_program_runs_a_batch_in_a_thread_and_cannot_run_it_twice(
    project: Project, run_program: Run
) -> None:
    project.write(
        "wait.py",
        "import pathlib, time\npathlib.Path('began').touch()\n"
        "while not pathlib.Path('gate').exists(): time.sleep(0.02)\n",
    )
    project.jobs({"script": "wait.py", "output": "run"})
    done = python(run_program, project, IN_A_THREAD)
    assert done.stdout.splitlines() == ["running", "second: run: is being run", "first: finished", "True"]


@pytest.mark.parametrize("slots", [0, -1])
def test_a_host_without_a_slot_is_a_mistake(slots: int) -> None:
    with pytest.raises(UsageError, match="at least one slot"):
        Pool.of("pc01", slots=slots)


def test_a_pool_without_a_host_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="at least one host"):
        Pool.of()


WHOLE = """
from pisa_fab import Batch, Pool

results = Pool.this_machine(slots=3).run(Batch.load("jobs.yaml"))
print(len(results), results.succeeded, results.reason)
for result in results:
    print(result.name, result.state, result.exit_code, dict(result.arguments), result.stdout.strip())
[failed] = results.failed
print(failed.number, failed.stderr.strip(), failed.attempt, failed.seconds > 0, failed.memory > 0)
print(results[-1].name, [result.number for result in results[1:3]], results.job(5).arguments["-n"])
frame = results.to_frame()
print(frame.shape[0], frame["-n"].sum(), frame["value"].sum(), frame["state"].value_counts()["failed"])
print(repr(frame["job"][1]), frame["--mode"][1])
"""


def test_a_program_runs_a_batch_and_goes_on_with_the_results(grid: Project, run_program: Run) -> None:
    done = python(run_program, grid, WHOLE)
    assert done.returncode == 0, done.said
    lines = done.stdout.splitlines()
    assert lines[0] == "8 False finished"
    assert lines[1] == "0000 succeeded 0 {'-n': '0', '--mode': 'fast'} " + '{"value": 0.0, "name": "fast"}'
    assert lines[6] == "0005 failed 3 {'-n': '2', '--mode': 'exact'} "
    assert lines[9] == "5 to the right 1 True True"
    assert lines[10] == "0007 [1, 2] 2"
    assert lines[11] == "8 12 5.0 1"
    assert lines[12] == "'0001' exact"
    assert len(lines) == 13  # nothing was shown that the program did not print


def test_a_run_can_be_shown(grid: Project, run_program: Run) -> None:
    source = 'from pisa_fab import *\nPool.this_machine().run(Batch.load("jobs.yaml"), show=True)\n'
    done = python(run_program, grid, source)
    assert "run: 8 of 8 jobs to run" in done.stdout, done.said


def test_only_some_jobs_and_again(grid: Project, run_program: Run) -> None:
    source = """
from pisa_fab import Batch, Pool

pool, batch = Pool.this_machine(2), Batch.load("jobs.yaml")
print([result.state for result in pool.run(batch, only=[5, 1])])
print([result.attempt for result in pool.run(batch, only=[5], retry_failed=True)])
print([job.name for job in batch][:2], len(batch), batch.output.name)
print([result.state for result in pool.run(batch, only="2-3,7")].count("succeeded"))
"""
    done = python(run_program, grid, source)
    lines = done.stdout.splitlines()
    waiting = ["waiting"]
    assert lines[0] == str([*waiting, "succeeded", *waiting * 3, "failed", *waiting * 2]), done.said
    assert lines[1] == str([None, 1, None, None, None, 2, None, None])
    assert lines[2] == "['0000', '0001'] 8 run"
    assert lines[3] == "4"


def test_over_ssh(grid: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(3)
    grid.pool(["pc01", "pc02"])
    source = """
from fabric import Connection
from pisa_fab import Batch, Pool

batch = Batch.load("jobs.yaml")
print(len(Pool.load("cluster.yaml")), {result.host for result in Pool.load("cluster.yaml").run(batch)})
mine = {"slots": 2, "owner": "ignore"}
for pool in (Pool.of("pc[03-03]", **mine), Pool.over([Connection("pc02")], **mine)):
    print({result.host for result in pool.run(batch, rerun=True)})
"""
    done = python(run_program, grid, source)
    assert done.returncode == 0, done.said
    first, *others = done.stdout.splitlines()
    assert first.startswith("2 {")
    assert set(eval(first[2:])) == {"pc01", "pc02"}
    assert others == ["{'pc03'}", "{'pc02'}"]


def test_results_can_be_looked_at_without_running(grid: Project, run_program: Run, home: object) -> None:
    batch = Batch.load(grid.path / "jobs.yaml")
    before = batch.results()
    assert {result.state for result in before} == {"waiting"}
    assert (before[0].stdout, before[0].host, before[0].started) == ("", None, None)
    assert not (grid.path / "run").exists()
    run_program("inv", "submit")
    after = batch.results()
    assert [result.state for result in after].count("succeeded") == 7
    assert after.rows()[1]["value"] == 0.0
    assert after.rows()[1]["-n"] == "0"
    assert repr(after).startswith("<Results of run: 7 succeeded, ")
    assert "layout" not in repr(after[0])
    with pytest.raises(KeyError):
        after.job(99)


def test_a_batch_of_options(grid: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(grid.path)
    batch = Batch.from_options(script="script.py", sweep=["-n=0..3", "--mode=fast"], output="other")
    assert [job.argv[2:] for job in batch][-1] == ("-n", "3", "--mode", "fast")


def test_mistakes_are_of_one_kind(grid: Project, run_program: Run, start_program: Start) -> None:
    with pytest.raises(SpecError):
        Batch.load(grid.path / "nothing.yaml")
    with pytest.raises(UsageError, match="bracket"):
        Pool.of("pc[01-34")
    with pytest.raises(UsageError, match="no job 0099"):
        Pool.this_machine().run(Batch.load(grid.path / "jobs.yaml"), only=[99])
    with pytest.raises(PisaError):
        Pool.load(grid.path / "nothing.yaml")
    grid.write("slow.py", "import time\nopen('began', 'w')\ntime.sleep(600)\n")
    grid.jobs({"script": "slow.py", "output": "slow"}, "slow.yaml")
    head = start_program("inv", "submit", "-j", "slow.yaml")
    wait_for((grid.path / "began").exists, "the job")
    with pytest.raises(RunError, match="is being run by"):
        Pool.this_machine().run(Batch.load(grid.path / "slow.yaml"))
    head.interrupt()
    assert head.wait().returncode == 130


def test_no_host_is_an_error(grid: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(1)[0].stop()
    source = """
from pisa_fab import Batch, PisaError, Pool

try:
    Pool.of("pc01", owner="ignore").run(Batch.load("jobs.yaml"))
except PisaError as error:
    print(error.exit_code, error.message)
"""
    done = python(run_program, grid, source)
    assert done.stdout == "3 no usable host was left; 8 jobs have not been run\n", done.said


def test_ctrl_c_gives_what_there_is(grid: Project, start_program: Start) -> None:
    grid.write("script.py", "import time\nopen('began', 'w')\ntime.sleep(600)\n")
    source = """
from pisa_fab import Batch, Pool

results = Pool.this_machine(1).run(Batch.load("jobs.yaml"))
print(results.reason, {result.state for result in results})
"""
    grid.write("program.py", source)
    program = start_program(sys.executable, "program.py")
    wait_for((grid.path / "began").exists, "the first job")
    os.kill(program.process.pid, signal.SIGINT)
    done = program.wait()
    assert done.stdout == "interrupted {'waiting'}\n", done.said


def test_a_data_frame_without_pandas_is_one_line(grid: Project, run_program: Run, tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "pandas.py").write_text("raise ImportError\n")
    source = """
from pisa_fab import Batch, PisaError

try:
    Batch.load("jobs.yaml").results().to_frame()
except PisaError as error:
    print(error)
"""
    grid.write("program.py", source)
    done = run_program(sys.executable, "program.py", env={"PYTHONPATH": str(tmp_path / "hidden")})
    assert done.stdout == "a data frame needs pandas\n  tip: pip install 'pisa-fab[frame]'\n", done.said


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("fabric", "paramiko", "pydantic", "yaml", "rich", "pandas", "invoke")
    source = f"import pisa_fab, sys, json; print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_first_look_at_a_batch_imports_nothing_that_runs_it(grid: Project, run_program: Run) -> None:
    inv = str(Path(sys.executable).parent / "inv")
    done = run_program(sys.executable, "-X", "importtime", inv, "dryrun")
    assert done.stdout.splitlines()[-1].startswith("8 jobs, nothing was run"), done.said
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"pisa_fab.api", "pisa_fab.specs.jobs"} <= imported
    for_runs = {"events", "head", "history", "progress", "run", "scheduler"}
    assert not imported & {"fabric", "paramiko", "rich", *(f"pisa_fab.{name}" for name in for_runs)}


def test_the_package_has_what_it_says() -> None:
    for name in pisa_fab.__all__:
        assert getattr(pisa_fab, name) is not None
    assert pisa_fab.tasks.submit.name == "submit"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pisa_fab.nothing  # noqa: B018 - it is looked at
