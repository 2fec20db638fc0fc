"""The main job over SSH: real `sshd` processes on loopback, real workers, real faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import wait_for
from programs import Completed, Program, Project
from sshd import Hosts

Run = Callable[..., Completed]
Start = Callable[..., Program]

# Says on the shared home when it began and when it ended, as a user's own log would.
LOGGED = """
import os, sys, time
def log(what):
    with open(f"log/{os.environ['PISA_JOB']}", "a") as file:
        file.write(f"{what} {os.environ['PISA_HOST']} {time.monotonic()}\\n")
log("begin")
while not os.path.exists("go"):
    time.sleep(0.02)
log("end")
print(sys.argv[1:])
"""

# Goes on only when a job runs on each of three hosts.
MEETING = """
import json, os, pathlib, sys, time
pathlib.Path("here." + os.environ["PISA_HOST"]).touch()
while len(list(pathlib.Path().glob("here.*"))) < 3:
    time.sleep(0.02)
print(json.dumps(sys.argv[1:]))
"""


def hosts_of(project: Project) -> list[str]:
    return [row["host"] for row in project.table("run/results.csv")]


@pytest.fixture
def simple(project: Project) -> Project:
    project.write("script.py", "import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    project.jobs({"script": "script.py", "output": "run", "sweep": {"-n": {"from": 0, "to": 11}}})
    return project


@pytest.fixture
def waiting(project: Project) -> Project:
    """Jobs that run until a file `go` is there, and log their begin and end."""
    project.write("script.py", LOGGED)
    (project.path / "log").mkdir()
    project.jobs({"script": "script.py", "output": "run", "sweep": {"-n": {"from": 0, "to": 7}}})
    return project


def begun(project: Project) -> dict[str, list[str]]:
    """Give the hosts on which each job began."""
    return {
        path.name: [line.split()[1] for line in path.read_text().splitlines() if line.startswith("begin")]
        for path in (project.path / "log").iterdir()
    }


def test_a_batch_runs_on_all_hosts_of_the_pool(simple: Project, hosts: Hosts, run_program: Run) -> None:
    simple.write("script.py", MEETING)
    pool = hosts.start(3)
    simple.pool(pool, slots=2)
    done = run_program("inv", "submit", "--jobs", "jobs.yaml")
    assert done.returncode == 0, done.said
    assert "6 slots on 3 hosts" in done.stdout
    assert run_program("inv", "collect").returncode == 0
    assert set(hosts_of(simple)) == {"pc01", "pc02", "pc03"}
    for number in range(12):
        assert json.loads((simple.path / f"run/stdout/{number:04d}.out").read_text()) == ["-n", str(number)]
    status = run_program("inv", "status")
    assert "12 jobs: 12 succeeded" in status.stdout
    assert "3 hosts with 6 slots: pc01, pc02, pc03" in status.stdout


@pytest.mark.parametrize("greeting", ["Welcome to pc01!\nNo games.\n", "no newline", "x" * 200_000])
def test_what_a_login_shell_prints_is_skipped(
    simple: Project, hosts: Hosts, run_program: Run, greeting: str
) -> None:
    simple.pool(hosts.start(1, greeting=greeting))
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said


def test_arguments_pass_through_ssh_byte_for_byte(project: Project, hosts: Hosts, run_program: Run) -> None:
    values = [
        "",
        " a  b ",
        "'\"",
        "a\nb\n",
        "$(id) `id` $HOME",
        "*",
        "--",
        "-x",
        "äö→😀",
        "\\",
        "!",
        "x" * 100_000,
    ]
    project.write("script.py", "import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    project.jobs({"script": "script.py", "output": "run", "sweep": {"--value": values}})
    project.pool(hosts.start(2))
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    for number, value in enumerate(values):
        assert json.loads((project.path / f"run/stdout/{number:04d}.out").read_text()) == ["--value", value]


def test_slots_are_kept_and_a_later_entry_refines_an_earlier_one(
    waiting: Project, hosts: Hosts, run_program: Run, start_program: Start
) -> None:
    hosts.start(3)
    waiting.cluster({"slots": 2, "hosts": ["pc[01-03]", {"host": "pc02", "slots": 1}]})
    program = start_program("inv", "submit")
    wait_for(lambda: len(begun(waiting)) == 5, "five jobs to run")
    status = json.loads(run_program("inv", "status", "--json").stdout)
    running = {host["host"]: (host["running"], host["slots"]) for host in status["hosts"]}
    assert running == {"pc01": (2, 2), "pc02": (1, 1), "pc03": (2, 2)}
    assert len(begun(waiting)) == 5
    waiting.write("go", "")
    assert program.wait().returncode == 0


def test_hosts_that_cannot_be_used_are_named_with_their_reason_and_the_others_do_the_work(
    waiting: Project, hosts: Hosts, run_program: Run, start_program: Start
) -> None:
    good = hosts.start(1)
    stopped = hosts.start(1)
    refusing = hosts.start(1, refuse_key=True)
    unknown = hosts.start(1, unknown_key=True)
    changed = hosts.start(1, wrong_key=True)
    bare = hosts.start(1, python=False)
    stopped[0].stop()
    names = [host.name for host in (*good, *stopped, *refusing, *unknown, *changed, *bare)]
    waiting.cluster({"slots": 8, "hosts": [*names, "no-such-host.invalid"]})
    program = start_program("inv", "submit")
    wait_for(lambda: program.stdout.count("cannot be used") == 6, "every host to have said what is wrong")
    waiting.write("go", "")
    done = program.wait()
    assert done.returncode == 0, done.said
    lines = [line for line in done.stdout.splitlines() if "cannot be used" in line]
    assert len(lines) == 6, done.said
    said = {line.split(":")[0]: line for line in lines}
    assert "connection refused" in said["pc02"]
    assert "refuses the key of user" in said["pc03"]
    assert "host key is not known" in said["pc04"]
    assert "host key has CHANGED" in said["pc05"]
    assert "no python3 on this host" in said["pc06"]
    assert "no machine is known by the name" in said["no-such-host.invalid"]
    assert all(len(line) < 200 for line in lines)
    assert "unusable" in run_program("inv", "status").stdout


def test_no_usable_host_at_all_is_exit_code_3(simple: Project, hosts: Hosts, run_program: Run) -> None:
    simple.pool(hosts.start(2, refuse_key=True))
    done = run_program("inv", "submit")
    assert done.returncode == 3, done.said
    assert "no usable host was left; 12 jobs have not been run" in done.stderr
    hosts.start(1)
    simple.cluster({"hosts": ["pc03"]})
    again = run_program("inv", "submit")
    assert again.returncode == 0, again.said


@pytest.mark.root
@pytest.mark.parametrize(
    ("hidden", "reason"),
    [
        ("project", "does not see the run directory"),
        ("project/run", "does not see the run directory"),
        ("project/venv", "no such venv here"),
    ],
)
def test_a_host_that_does_not_see_what_it_needs_is_left_out(
    waiting: Project, hosts: Hosts, run_program: Run, start_program: Start, hidden: str, reason: str
) -> None:
    venv = waiting.path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    waiting.jobs({"venv": "venv", "script": "script.py", "output": "run"})
    (waiting.path / "run").mkdir()
    blind = hosts.start(1, hide=[waiting.path.parent / hidden])
    good = hosts.start(1)
    waiting.pool([*blind, *good])
    program = start_program("inv", "submit")
    program.wait_for_output(f"pc01: cannot be used: {reason}")
    waiting.write("go", "")
    done = program.wait()
    assert done.returncode == 0, done.said
    assert run_program("inv", "collect").returncode == 0
    assert hosts_of(waiting) == ["pc02"]


def test_a_host_that_dies_has_its_jobs_run_elsewhere(
    waiting: Project, hosts: Hosts, run_program: Run, start_program: Start
) -> None:
    pool = hosts.start(3)
    waiting.pool(pool, slots=2, lease="4s")
    program = start_program("inv", "submit", "--log")
    wait_for(lambda: len(begun(waiting)) == 6, "six jobs to run")
    on_first = {job for job, where in begun(waiting).items() if where == ["pc01"]}
    assert len(on_first) == 2
    pool[0].crash()
    program.wait_for_output("pc01: lost")
    waiting.write("go", "")
    done = program.wait()
    assert done.returncode == 0, done.said
    assert "8 jobs: 8 succeeded" in done.stdout
    runs = begun(waiting)
    assert all(len(where) == (2 if job in on_first else 1) for job, where in runs.items()), runs
    assert run_program("inv", "collect").returncode == 0
    assert set(hosts_of(waiting)) == {"pc02", "pc03"}


def test_a_connection_that_breaks_is_made_again_and_its_jobs_go_on(
    waiting: Project, hosts: Hosts, start_program: Start
) -> None:
    pool = hosts.start(2)
    waiting.pool(pool, slots=2, lease="4s")
    program = start_program("inv", "submit")
    wait_for(lambda: len(begun(waiting)) == 4, "four jobs to run")
    pool[0].kill_link()
    program.wait_for_output("pc01: lost")
    program.wait_for_output("pc01: back, with 2 jobs that it still has")
    waiting.write("go", "")
    done = program.wait()
    assert done.returncode == 0, done.said
    assert all(len(where) == 1 for where in begun(waiting).values())
    ends = Counter(
        path.name
        for path in (waiting.path / "log").iterdir()
        for line in path.read_text().splitlines()
        if line.startswith("end")
    )
    assert set(ends.values()) == {1}
    assert len(ends) == 8


def test_a_worker_that_is_killed_has_its_jobs_run_elsewhere_at_once(
    waiting: Project, hosts: Hosts, start_program: Start
) -> None:
    pool = hosts.start(2)
    waiting.pool(pool, slots=2)  # with the lease of a minute, which nobody has to wait for
    program = start_program("inv", "submit")
    wait_for(lambda: len(begun(waiting)) == 4, "four jobs to run")
    # The guardian is started first, and the worker by it.
    workers = [process for process in pool[0].started_there() if "pisa_fab: jobs for" in process.describe()]
    guardian, worker = sorted(workers, key=lambda process: (process.started, process.pid))
    assert worker.parent == guardian.pid
    worker.send(signal.SIGKILL)
    program.wait_for_output("pc01: lost: the worker was killed")
    waiting.write("go", "")
    done = program.wait(50)
    assert done.returncode == 0, done.said
    assert "8 succeeded" in done.stdout


def test_a_frozen_host_is_given_up_after_a_lease(
    waiting: Project, hosts: Hosts, start_program: Start
) -> None:
    pool = hosts.start(2)
    waiting.pool(pool, slots=2, lease="2s")
    program = start_program("inv", "submit")
    wait_for(lambda: len(begun(waiting)) == 4, "four jobs to run")
    pool[0].freeze()
    program.wait_for_output("pc01: lost: nothing heard for 1 s")
    waiting.write("go", "")
    done = program.wait()
    assert done.returncode == 0, done.said
    assert "8 succeeded" in done.stdout
    published = {path.name: path.read_bytes() for path in (waiting.path / "run/stdout").iterdir()}
    assert len(published) == 8
    pool[0].thaw()
    wait_for(lambda: not pool[0].started_there(), "what was frozen to end")
    assert {path.name: path.read_bytes() for path in (waiting.path / "run/stdout").iterdir()} == published


def test_all_hosts_lost_in_mid_run_is_exit_code_3_and_the_rest_runs_later(
    waiting: Project, hosts: Hosts, run_program: Run, start_program: Start
) -> None:
    pool = hosts.start(1)
    waiting.pool(pool, slots=2, lease="1s")
    program = start_program("inv", "submit")
    wait_for(lambda: len(begun(waiting)) == 2, "two jobs to run")
    pool[0].crash()
    done = program.wait()
    assert done.returncode == 3, done.said
    pool[0].start_again()
    waiting.write("go", "")
    again = run_program("inv", "submit")
    assert again.returncode == 0, again.said
    assert "8 succeeded" in again.stdout


def test_ctrl_c_ends_the_jobs_on_the_hosts(waiting: Project, hosts: Hosts, start_program: Start) -> None:
    pool = hosts.start(2)
    waiting.pool(pool, slots=2)
    program = start_program("inv", "submit")
    wait_for(lambda: len(begun(waiting)) == 4, "four jobs to run")
    program.interrupt()
    done = program.wait()
    assert done.returncode == 130, done.said
    for host in pool:
        wait_for(lambda host=host: not host.started_there(), f"{host.name} to be empty")


def test_a_head_that_is_killed_leaves_nothing_on_the_hosts(
    waiting: Project, hosts: Hosts, run_program: Run, start_program: Start
) -> None:
    pool = hosts.start(2)
    waiting.pool(pool, slots=2, lease="2s")
    program = start_program("inv", "submit")
    wait_for(lambda: len(begun(waiting)) == 4, "four jobs to run")
    program.kill()
    for host in pool:
        wait_for(lambda host=host: not host.started_there(), f"{host.name} to be empty")
    waiting.write("go", "")
    again = run_program("inv", "submit")
    assert again.returncode == 0, again.said
    assert "8 succeeded" in again.stdout


def test_one_gateway_serves_all_hosts(simple: Project, hosts: Hosts, run_program: Run) -> None:
    gateway, *pool = hosts.start(3)
    simple.cluster({"hosts": [host.name for host in pool], "gateway": gateway.name})
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    assert run_program("inv", "collect").returncode == 0
    assert set(hosts_of(simple)) <= {host.name for host in pool}
    log = (gateway.folder / "sshd.log").read_text()
    assert log.count("Accepted publickey") == 1


def test_user_port_and_identity_of_the_cluster_file_are_used(
    simple: Project, hosts: Hosts, run_program: Run
) -> None:
    host = hosts.start(1)[0]
    (hosts.home / ".ssh" / "config").unlink()
    key = hosts.identity.rename(hosts.identity.with_name("pool_key"))
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    entry = {"host": "127.0.0.1", "port": host.port, "user": user, "identity": str(key)}
    simple.cluster({"hosts": [entry]})
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said


def test_a_file_name_that_is_not_utf8_arrives(project: Project, hosts: Hosts, run_program: Run) -> None:
    name = os.fsencode(project.path) + b"/data-\xff.txt"
    Path(os.fsdecode(name)).write_text("inside")
    project.write("script.py", "import sys\nprint(open(sys.argv[1]).read())\n")
    project.jobs(
        {"script": "script.py", "output": "run", "args": ["{file}"], "sweep": {"file": {"glob": "data-*"}}}
    )
    project.pool(hosts.start(1))
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    assert (project.path / "run/stdout/0000.out").read_text() == "inside\n"
    for command in (["dryrun"], ["collect", "--to", "-"], ["collect"]):
        done = run_program("inv", *command)
        assert done.returncode == 0, done.said
    assert b"data-\xff.txt" in (project.path / "run/results.csv").read_bytes()
    assert b"data-\xff.txt" in (project.path / "run/assignments.csv").read_bytes()
