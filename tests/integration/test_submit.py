"""The main job on this machine: real `inv` processes, real workers over pipes, real scripts."""

from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from processes import wait_for
from programs import Completed, Program, Project

Run = Callable[..., Completed]
Start = Callable[..., Program]

# Writes one line a run to a file of its own beside the others, as a user would see that it ran.
SCRIPT = """
import json, os, sys
with open("ran.log", "a") as log:
    log.write(os.environ["PISA_JOB"] + "\\n")
print(json.dumps(sys.argv[1:]))
"""
AWKWARD = [
    "",
    " ",
    "two words",
    "'",
    '"',
    "a\nb",
    "$(touch hacked)",
    "`id`",
    "$HOME",
    "*",
    "--",
    "äö→😀",
    "#no",
    "a,b",
]


def ran(project: Project) -> Counter[str]:
    path = project.path / "ran.log"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def printed(project: Project, job: int, folder: str = "run") -> str:
    return (project.path / folder / "stdout" / f"{job:04d}.out").read_text()


@pytest.fixture
def grid(project: Project) -> Project:
    project.write("script.py", SCRIPT)
    project.jobs(
        {
            "script": "script.py",
            "output": "run",
            "args": ["--fixed", "12"],
            "sweep": {"-n": {"from": 0, "to": 4}, "--mode": ["fast", "exact"]},
        }
    )
    return project


def test_every_combination_runs_once_and_is_told_apart(grid: Project, run_program: Run) -> None:
    done = run_program("inv", "submit", "--jobs", "jobs.yaml")
    assert done.returncode == 0, done.said
    assert "this machine (there is no cluster file)" in done.stdout
    assert "10 jobs: 10 succeeded" in done.stdout
    assert ran(grid) == Counter(f"{n:04d}" for n in range(10))
    table = grid.table("run/assignments.csv")
    assert [row["job"] for row in table] == [f"{n:04d}" for n in range(10)]
    assert (table[3]["-n"], table[3]["--mode"]) == ("1", "exact")  # the last key varies fastest
    for number, row in enumerate(table):
        assert json.loads(printed(grid, number)) == [
            "--fixed",
            "12",
            "-n",
            row["-n"],
            "--mode",
            row["--mode"],
        ]
        assert shlex.split(row["command"])[2:] == json.loads(printed(grid, number))
        assert (grid.path / "run" / "stderr" / f"{number:04d}.err").read_text() == ""


def test_the_run_directory_is_the_owners_alone(grid: Project, run_program: Run) -> None:
    run_program("inv", "submit")
    for folder in ("run", "run/.pisa"):
        assert (grid.path / folder).stat().st_mode & 0o777 == 0o700
    assert (grid.path / "run/.pisa/journal.jsonl").stat().st_mode & 0o077 == 0
    assert list((grid.path / "run/.pisa/attempts").iterdir()) == []


@pytest.mark.parametrize("how", [["inv"], ["fab"], ["pisa-fab"]], ids=lambda how: how[0])
def test_the_same_tasks_under_every_name(grid: Project, run_program: Run, how: list[str]) -> None:
    grid.write("fabfile.py", "from pisa_fab.tasks import *\n")
    done = run_program(*how, "submit", "-j", "jobs.yaml", "-l")
    assert done.returncode == 0, done.said
    assert "0003.1 started on" in done.stdout
    assert "10 jobs" in run_program(*how, "status").stdout


def test_a_namespace_in_a_strangers_own_tasks(grid: Project, run_program: Run) -> None:
    grid.write(
        "tasks.py",
        "from invoke import Collection, task\nimport pisa_fab.tasks\n"
        "@task\ndef hello(c):\n    pisa_fab.tasks.submit(c, jobs='jobs.yaml')\n    print('went on')\n"
        "ns = Collection(hello)\n"
        "ns.add_collection(Collection.from_module(pisa_fab.tasks, name='pisa'))\n",
    )
    done = run_program("inv", "pisa.submit", "-d")
    assert done.returncode == 0, done.said
    assert "--mode exact" in done.stdout
    called = run_program("inv", "hello")
    assert called.returncode == 0, called.said
    assert "10 succeeded" in called.stdout
    assert "went on" in called.stdout


def test_awkward_arguments_arrive_byte_for_byte(project: Project, run_program: Run) -> None:
    project.write("script.py", SCRIPT)
    big = "x" * 100_000
    values = [*AWKWARD, "-dash", "--n=3", "007", "0.10", "1e3", "yes", "on", "null", "22:30", big]
    project.jobs({"script": "script.py", "output": "run", "sweep": {"--value": values, "--joined=": ["a b"]}})
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    table = project.table("run/assignments.csv")
    for number, value in enumerate(values):
        assert json.loads(printed(project, number)) == ["--value", value, "--joined=a b"]
        assert table[number]["--value"] == value
        assert shlex.split(table[number]["command"])[2:] == ["--value", value, "--joined=a b"]
    assert not (project.path / "hacked").exists()


def test_values_reach_the_script_as_they_are_written(project: Project, run_program: Run) -> None:
    project.write("script.py", SCRIPT)
    project.jobs(
        "script: script.py\noutput: run\nsweep:\n"
        "  -v: [007, 0.10, 1e3, yes, on, null, ~, 2024-01-01, 22:30, 0x1F]\n"
    )
    assert run_program("inv", "submit").returncode == 0
    arrived = [json.loads(printed(project, number))[1] for number in range(10)]
    assert arrived == ["007", "0.10", "1e3", "yes", "on", "null", "~", "2024-01-01", "22:30", "0x1F"]


def test_jobs_know_who_they_are(project: Project, run_program: Run) -> None:
    project.jobs(
        {
            "command": [
                "sh",
                "-c",
                'echo "$PISA_JOB $PISA_ATTEMPT $PISA_OUTPUT $NOTE $1"',
                "sh",
                "{job} {output} {x}",
            ],
            "output": "run",
            "sweep": {"x": ["a"]},
            "env": {"NOTE": "note {x}"},
        }
    )
    assert run_program("inv", "submit").returncode == 0
    output = project.path / "run"
    assert printed(project, 0) == f"0000 1 {output} note a 0000 {output} a\n"


def test_a_failed_job_is_shown_with_its_reason(project: Project, run_program: Run) -> None:
    project.write(
        "s.py", "import sys\nprint('bad luck\\33[2J', file=sys.stderr)\nsys.exit(int(sys.argv[2]))\n"
    )
    project.jobs({"script": "s.py", "output": "run", "sweep": {"--code": ["0", "3", "255"]}})
    done = run_program("inv", "submit")
    assert done.returncode == 1, done.said
    assert "1 succeeded, 2 failed" in done.stdout
    assert "0001  exit code 3 on" in done.stdout
    assert "0002  exit code 255 on" in done.stdout
    assert done.stdout.count("bad luck\N{REPLACEMENT CHARACTER}[2J") == 2  # a terminal is not steered by it
    assert "Traceback" not in done.said
    failed = run_program("inv", "status", "--failed")
    assert "0002  exit code 255" in failed.stdout


def test_a_job_that_is_killed_or_cannot_start_has_failed(project: Project, run_program: Run) -> None:
    project.write("killed.sh", "#!/bin/sh\nkill -SEGV $$\n").chmod(0o755)
    project.write("noexec.sh", "#!/bin/sh\n")
    project.jobs(
        {
            "command": ["{program}"],
            "output": "run",
            "sweep": {"program": ["./killed.sh", "./noexec.sh", "no-such"]},
        }
    )
    done = run_program("inv", "submit")
    assert done.returncode == 1, done.said
    assert "0000  signal 11 (SIGSEGV)" in done.stdout
    assert "0001  not started" in done.stdout
    assert "Permission denied" in done.stdout
    assert "no such program in PATH" in done.stdout


def test_retries_come_after_fresh_work_and_count(project: Project, run_program: Run) -> None:
    project.write(
        "s.py",
        "import os, sys\n"
        "open('order', 'a').write(os.environ['PISA_JOB'] + '.' + os.environ['PISA_ATTEMPT'] + ' ')\n"
        "sys.exit(os.environ['PISA_ATTEMPT'] != '3' and sys.argv[2] == '0')\n",
    )
    project.jobs({"script": "s.py", "output": "run", "retries": 2, "sweep": {"-n": {"from": 0, "to": 19}}})
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    order = (project.path / "order").read_text().split()
    assert Counter(order)["0000.3"] == 1
    assert len(order) == 22
    assert order.index("0000.2") > order.index("0017.1")
    assert len(list((project.path / "run/.pisa/attempts").iterdir())) == 4  # the two that did not count


def test_a_job_that_takes_too_long_has_failed(project: Project, run_program: Run) -> None:
    project.jobs({"command": "sleep {s}", "output": "run", "timeout": "1", "sweep": {"s": ["0", "1000"]}})
    done = run_program("inv", "submit")
    assert done.returncode == 1, done.said
    assert "0001  timeout after 1 s" in done.stdout


def test_a_second_submit_runs_nothing_again(grid: Project, run_program: Run) -> None:
    run_program("inv", "submit")
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    assert "nothing left to run" in done.stdout
    assert "finished at" in run_program("inv", "status").stdout
    assert max(ran(grid).values()) == 1


def test_a_grid_that_grew_runs_its_new_points_and_old_numbers_stay(grid: Project, run_program: Run) -> None:
    run_program("inv", "submit")
    before = grid.table("run/assignments.csv")
    jobs = yaml.safe_load((grid.path / "jobs.yaml").read_text())
    jobs["sweep"]["-n"] = {"from": -1, "to": 5}
    grid.jobs(jobs)
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    assert "14 jobs: 14 succeeded" in done.stdout
    assert ran(grid) == Counter(f"{n:04d}" for n in range(14))
    after = grid.table("run/assignments.csv")
    assert after[:10] == before
    assert [row["-n"] for row in after[10:]] == ["-1", "-1", "5", "5"]


def test_jobs_that_a_grid_no_longer_has_keep_their_rows_and_numbers(grid: Project, run_program: Run) -> None:
    run_program("inv", "submit")
    jobs = yaml.safe_load((grid.path / "jobs.yaml").read_text())
    jobs["sweep"] = {"-n": ["4", "5"], "--mode": ["exact"], "--new": ["x"]}
    grid.jobs(jobs)
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    table = grid.table("run/assignments.csv")
    assert len(table) == 12
    assert (table[0]["-n"], table[0]["--new"]) == ("0", "")
    assert (table[11]["job"], table[11]["-n"], table[11]["--new"]) == ("0011", "5", "x")
    collected = run_program("inv", "collect", "--to", "-")
    assert [row["job"] for row in csv.DictReader(io.StringIO(collected.stdout))] == ["0010", "0011"]


def test_failed_jobs_run_again_only_when_asked_to(project: Project, run_program: Run) -> None:
    project.write("s.py", SCRIPT + "sys.exit(os.path.exists('broken') and sys.argv[2] == '1')\n")
    project.write("broken", "")
    project.jobs({"script": "s.py", "output": "run", "sweep": {"-n": ["0", "1"]}})
    assert run_program("inv", "submit").returncode == 1
    (project.path / "broken").unlink()
    assert run_program("inv", "submit").returncode == 1
    assert ran(project) == {"0000": 1, "0001": 1}
    assert run_program("inv", "submit", "--retry-failed").returncode == 0
    assert ran(project) == {"0000": 1, "0001": 2}
    assert run_program("inv", "submit", "--rerun").returncode == 0
    assert ran(project) == {"0000": 2, "0001": 3}


SLOW = {
    "command": [
        "sh",
        "-c",
        "echo $PISA_JOB >> ran.log; touch up; until [ -e go ]; do sleep 0.05; done; echo done",
    ],
    "output": "run",
    "sweep": {"-n": {"from": 0, "to": 9}},
}


def interrupt_in_mid_run(project: Project, start_program: Start) -> Program:
    project.jobs(SLOW)
    program = start_program("inv", "submit")
    wait_for(lambda: (project.path / "up").exists(), "a job to run")
    return program


def test_ctrl_c_keeps_everything_and_the_same_command_goes_on(
    project: Project, run_program: Run, start_program: Start
) -> None:
    program = interrupt_in_mid_run(project, start_program)
    program.interrupt()
    done = program.wait()
    assert done.returncode == 130, done.said
    assert "Traceback" not in done.said
    assert "submit again to go on" in done.stdout
    assert "interrupted at" in run_program("inv", "status").stdout
    project.write("go", "")
    again = run_program("inv", "submit")
    assert again.returncode == 0, again.said
    assert "10 succeeded" in again.stdout
    assert set(ran(project)) == {f"{n:04d}" for n in range(10)}


def test_ctrl_c_twice_leaves_at_once_and_the_workers_end_the_jobs(
    project: Project, run_program: Run, start_program: Start
) -> None:
    project.jobs({"command": ["sh", "-c", "trap '' TERM; touch up; sleep 1000"], "output": "run"})
    program = start_program("inv", "submit")
    wait_for(lambda: (project.path / "up").exists(), "a job to run")
    program.interrupt()
    program.wait_for_output("stopping")
    program.interrupt()
    done = program.wait()
    assert done.returncode == 130, done.said
    assert "1 job: 1 " in run_program("inv", "status").stdout


def test_a_head_that_was_killed_loses_nothing(
    project: Project, run_program: Run, start_program: Start
) -> None:
    project.cluster({"hosts": ["unused"]}, "other.yaml")  # not taken: it is not called cluster.yaml
    program = interrupt_in_mid_run(project, start_program)
    journal = project.path / "run/.pisa/journal.jsonl"
    wait_for(lambda: '"started"' in journal.read_text(), "a start in the journal")
    program.kill()
    assert "its head died" in run_program("inv", "status").stdout
    with journal.open("a") as file:
        file.write('{"t": 1, "e": "ended", "jo')  # torn in the middle of a line
    again = start_program("inv", "submit")
    # What was running is taken up where it is.
    again.wait_for_output("that it still has")
    assert "the end of the journal was torn and is cut off" in again.stdout
    project.write("go", "")
    done = again.wait()
    assert done.returncode == 0, done.said
    assert "10 jobs: 10 succeeded" in done.stdout
    assert set(ran(project).values()) == {1}


def test_a_second_submit_says_who_is_at_it(project: Project, run_program: Run, start_program: Start) -> None:
    program = interrupt_in_mid_run(project, start_program)
    second = run_program("inv", "submit")
    assert second.returncode == 2, second.said
    assert f"process {program.process.pid}" in second.stderr
    status = json.loads(run_program("inv", "status", "--json").stdout)
    assert status["running"] is True
    assert status["counts"]["running"] >= 1
    assert status["jobs"] == 10
    text = run_program("inv", "status").stdout
    assert f"(process {program.process.pid})" in text
    program.interrupt()
    assert program.wait().returncode == 130


def test_dryrun_writes_the_assignment_file_again_and_runs_nothing(grid: Project, run_program: Run) -> None:
    grid.cluster({"hosts": ["no-such-host.invalid"]})
    dry = run_program("inv", "dryrun", "-j", "jobs.yaml")
    assert dry.returncode == 0, dry.said
    assert "0003  python3 script.py --fixed 12 -n 1 --mode exact" in dry.stdout
    assert ran(grid) == {}
    path = grid.path / "run/assignments.csv"
    before = path.read_bytes()
    (grid.path / "cluster.yaml").unlink()
    run_program("inv", "submit")
    assert path.read_bytes() == before
    path.unlink()
    lines = run_program("inv", "dryrun", "--json").stdout.splitlines()
    assert path.read_bytes() == before
    assert json.loads(lines[3])["argv"] == [
        "python3",
        "script.py",
        "--fixed",
        "12",
        "-n",
        "1",
        "--mode",
        "exact",
    ]
    assert ran(grid) == Counter(f"{n:04d}" for n in range(10))


def test_dryrun_into_a_pipe_that_closes_ends_quietly(grid: Project, run_program: Run) -> None:
    grid.jobs({"script": "script.py", "output": "run", "sweep": {"-n": {"from": 0, "to": 50_000}}})
    inv = Path(sys.executable).parent / "inv"
    done = run_program("sh", "-c", f"{shlex.quote(str(inv))} dryrun | head -1")
    assert done.stdout == "0000  python3 script.py -n 0\n"
    assert done.stderr == ""


def test_a_mistake_stops_everything_before_anything_is_written(grid: Project, run_program: Run) -> None:
    grid.jobs("script: script.py\noutput: run\nswep: {-n: [1]}\n")
    for command in ("submit", "dryrun", "status", "collect"):
        done = run_program("inv", command)
        assert done.returncode == 2, done.said
        assert done.stderr.startswith("jobs.yaml:3:1: ")
        assert "sweep" in done.stderr
        assert done.stdout == ""
    assert not (grid.path / "run").exists()


@pytest.mark.parametrize(
    "taken", ["run/.pisa", "run/.pisa/journal.jsonl", "run/.pisa/lock", "run/.pisa/nonce"]
)
def test_a_run_directory_that_cannot_be_used_is_one_line(grid: Project, run_program: Run, taken: str) -> None:
    if taken == "run/.pisa":
        grid.write(taken, "a file where a folder should be")
    else:
        (grid.path / taken).mkdir(parents=True)
    done = run_program("inv", "submit")
    assert done.returncode == 2, done.said
    assert taken in done.stderr
    assert "Traceback" not in done.said
    assert ran(grid) == {}


def test_a_jobs_file_that_is_not_there_is_one_line(project: Project, run_program: Run) -> None:
    done = run_program("inv", "submit")
    assert done.returncode == 2, done.said
    assert "no jobs file was named" in done.stderr
    assert "Traceback" not in done.said


def test_a_bug_shows_its_traceback(grid: Project, run_program: Run) -> None:
    grid.write(
        "tasks.py", "from pisa_fab import commands\nfrom pisa_fab.tasks import *\ncommands.submit = None\n"
    )
    done = run_program("inv", "submit")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("results", "script", "column", "value"),
    [
        (
            {"regex": r"E=(?P<energy>\S+)"},
            "print('E=1'); print('E=', sys.argv[2] + '.5', sep='')",
            "energy",
            "1.5",
        ),
        ("json", "print('noise'); print('{\"energy\": %s.5}' % sys.argv[2])", "energy", "1.5"),
        ("csv", "print('energy,n'); print(sys.argv[2] + '.5,0')", "energy", "1.5"),
    ],
    ids=["regex", "json", "csv"],
)
def test_collect_reads_what_jobs_print(
    project: Project, run_program: Run, results: object, script: str, column: str, value: str
) -> None:
    project.write("s.py", "import sys\n" + script)
    project.jobs({"script": "s.py", "output": "run", "results": results, "sweep": {"-n": ["0", "1"]}})
    assert run_program("inv", "submit").returncode == 0
    done = run_program("inv", "collect")
    assert done.returncode == 0, done.said
    row = project.table("run/results.csv")[1]
    assert (row["job"], row["-n"], row["state"], row["exit_code"], row[column]) == (
        "0001",
        "1",
        "succeeded",
        "0",
        value,
    )
    assert row["host"]
    assert row["attempt"] == "1"
    assert float(row["seconds"]) > 0
    assert int(row["peak_memory_bytes"]) > 1_000_000
    as_json = run_program("inv", "collect", "--to", "-", "--format", "json")
    assert str(json.loads(as_json.stdout)[1][column]) == value


def test_collect_lists_what_is_missing_and_says_so(project: Project, run_program: Run) -> None:
    project.write(
        "s.py",
        "import sys\nif sys.argv[2] == '1': sys.exit(4)\nprint('{}' if sys.argv[2] == '0' else 'what')\n",
    )
    project.jobs({"script": "s.py", "output": "run", "results": "json", "sweep": {"-n": ["0", "1", "2"]}})
    assert run_program("inv", "collect").returncode == 2
    run_program("inv", "submit")
    done = run_program("inv", "collect", "--to", "table.json")
    assert done.returncode == 1, done.said
    assert "0001  failed: exit code 4" in done.stderr
    assert "0002  its last line is not JSON: 'what'" in done.stderr
    table = json.loads((project.path / "table.json").read_text())
    assert [row["state"] for row in table] == ["succeeded", "failed", "succeeded"]


def test_collect_tells_which_outputs_are_gone(project: Project, run_program: Run) -> None:
    project.jobs(
        {
            "command": "echo 1",
            "output": "run",
            "results": "json",
            "env": {"N": "{n}"},
            "sweep": {"n": ["0", "1"]},
        }
    )
    run_program("inv", "submit")
    (project.path / "run/stdout/0001.out").unlink()
    done = run_program("inv", "collect")
    assert done.returncode == 1, done.said
    assert "output not understood of 1 of 2 jobs" in done.stderr
    assert "0001  its output file is gone" in done.stderr
    assert [row["result"] for row in project.table("run/results.csv")] == ["1", ""]


def test_the_venv_of_the_jobs_file_runs_the_jobs(project: Project, run_program: Run) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project.path / "venv"], check=True)
    project.write("s.py", "import os, sys\nprint(sys.prefix, os.environ['VIRTUAL_ENV'])\n")
    project.jobs({"venv": "venv", "script": "s.py", "output": "run"})
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    venv = project.path / "venv"
    assert printed(project, 0) == f"{venv} {venv}\n"
    assert project.table("run/assignments.csv")[0]["command"] == "venv/bin/python s.py"


def test_pisas_own_files_give_pisas_result(project: Project, run_program: Run) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project.path / "venv"], check=True)
    project.write("fib.py", "import sys\nprint(sys.prefix, sys.argv[1:])\n")
    project.write(
        "task.toml",
        'woking_directory = "."\nenvironment = "venv"\noutput = "fib_run"\nassign = "assign.csv"\n'
        'executable = "python fib.py"\nfix_arguments = "-p \'a b\'"\n'
        'var_arguments = [{"arg"="-n", "type"="numeric", "start"=0, "end"=10, "step"=4}]\n',
    )
    done = run_program("pisa-fab", "submit", "-j", "task.toml")
    assert done.returncode == 0, done.said
    for number, n in enumerate(("0", "4", "8")):
        expected = f"{project.path / 'venv'} {['-p', 'a b', '-n', n]!r}\n"
        assert printed(project, number, "fib_run") == expected
    assert len(project.table("assign.csv")) == 3
    assert sorted(path.name for path in (project.path / "fib_run/stderr").iterdir()) == [
        "0000.err",
        "0001.err",
        "0002.err",
    ]
