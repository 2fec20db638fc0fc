"""The start of a command: nothing is imported that is not needed, and nobody waits for the slowest host."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable

import pytest
from processes import wait_for
from programs import Completed, Home, Program, Project
from sshd import Hosts

Run = Callable[..., Completed]
Start = Callable[..., Program]

# The first one ends at once; all others wait for a job on the host that is late.
WAITING = """
import os, pathlib, time
pathlib.Path("here." + os.environ["PISA_HOST"]).touch()
while os.environ["PISA_JOB"] != "0000" and not os.path.exists("here.pc03"):
    time.sleep(0.02)
"""
SSH = {"fabric", "paramiko", "cryptography", "nacl"}
FILES = {"pydantic", "tomllib"}  # and PyYAML, which Invoke imports itself


def imported(done: Completed) -> set[str]:
    """Give the modules that a program has imported, which Python has listed on its standard error."""
    lines = [line.rpartition("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert lines
    return {name.strip().partition(".")[0] for _, _, name in lines}


def test_the_first_jobs_end_while_other_hosts_are_still_silent(
    project: Project, hosts: Hosts, start_program: Start
) -> None:
    started = hosts.start(3)
    project.write("script.py", WAITING)
    project.jobs({"script": "script.py", "output": "run", "sweep": {"-n": {"from": 0, "to": 7}}})
    project.pool(started, slots=1)
    started[2].freeze()  # its kernel takes the connection, and nobody says anything
    program = start_program("inv", "submit")
    wait_for((project.path / "run/stdout/0000.out").exists, "the first job")
    assert not (project.path / "here.pc03").exists()
    started[2].thaw()
    done = program.wait()
    assert done.returncode == 0, done.said
    events = [
        json.loads(line) for line in (project.path / "run/.pisa/journal.jsonl").read_text().splitlines()
    ]
    first_end = next(event["t"] for event in events if event["e"] == "ended")
    last_ready = next(event["t"] for event in events if event["e"] == "ready" and event["host"] == "pc03")
    assert first_end < last_ready


@pytest.mark.parametrize("command", [["--list"], ["--help", "submit"]], ids=" ".join)
def test_a_list_of_commands_reads_nothing(command: list[str], project: Project, run_program: Run) -> None:
    done = run_program("inv", *command, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0, done.said
    assert not imported(done) & (SSH | FILES | {"rich"})


@pytest.mark.parametrize("command", ["dryrun", "submit --dry-run", "status", "hosts", "collect", "logs 0"])
def test_only_what_connects_imports_a_library_of_ssh(
    command: str, project: Project, run_program: Run
) -> None:
    project.write("script.py", "print(1)\n")
    project.jobs({"script": "script.py", "output": "run"})
    assert run_program("inv", "submit").returncode == 0  # on this machine
    project.cluster({"hosts": ["pc01"]})
    done = run_program("inv", *command.split(), env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0, done.said
    assert not imported(done) & SSH


def test_a_run_on_this_machine_asks_no_ssh(project: Project, run_program: Run) -> None:
    project.write("bin/ssh", "#!/bin/sh\ntouch asked\nexit 1\n").chmod(0o755)
    project.write("script.py", "print(1)\n")
    project.jobs({"script": "script.py", "output": "run"})
    done = run_program("inv", "submit", env={"PATH": f"{project.path}/bin:/usr/bin:/bin"})
    assert done.returncode == 0, done.said
    assert not (project.path / "asked").exists()


@pytest.mark.parametrize("other_file", [False, True], ids=["as guessed", "another file"])
def test_ssh_is_asked_once_for_each_host_whoever_asks_first(
    other_file: bool, project: Project, hosts: Hosts, home: Home, run_program: Run
) -> None:
    names = [host.name for host in hosts.start(2)]
    real = shutil.which("ssh")
    project.write("bin/ssh", f'#!/bin/sh\necho "$@" >>{project.path}/asked\nexec {real} "$@"\n').chmod(0o755)
    project.jobs({"command": ["true"], "output": "run"})
    project.pool(names)
    if other_file:
        (home.path / ".ssh" / "config").rename(home.path / "config")
        project.write("fabric.yaml", f"ssh_config_path: {home.path}/config\n")
    path = f"{project.path}/bin:{os.environ['PATH']}"
    done = run_program("inv", "submit", env={"PATH": path})
    assert done.returncode == 0, done.said
    asked = (project.path / "asked").read_text().splitlines()
    right = [line for line in asked if f"{home.path}/config" in line] if other_file else asked
    assert sorted(line.split()[-1] for line in right if line.split()[-1] in names) == names


def test_our_modules_are_kept_compiled_and_tasks_py_is_not(project: Project, run_program: Run) -> None:
    """Invoke forbids both; ours would be compiled at every start where nothing else has done so."""
    kept = project.path / "kept"
    env = {"PYTHONPYCACHEPREFIX": str(kept), "PYTHONDONTWRITEBYTECODE": ""}
    project.write("script.py", "print(1)\n")
    project.jobs({"script": "script.py", "output": "run"})
    assert run_program("inv", "dryrun", env=env).returncode == 0
    names = {path.name.partition(".")[0] for path in kept.rglob("*.pyc") if path.parent.name == "pisa_fab"}
    assert {"api", "numbering"} <= names
    assert not list(kept.rglob("project/tasks.*.pyc"))
    nothing = project.path / "nothing"
    env |= {"PYTHONPYCACHEPREFIX": str(nothing), "PYTHONDONTWRITEBYTECODE": "1"}
    assert run_program("inv", "dryrun", env=env).returncode == 0
    assert not nothing.exists()
