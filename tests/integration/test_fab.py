"""The tasks under `fab`, with and without hosts, and from other people's tasks: real programs, real sshds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Completed, Project
from sshd import Hosts

Run = Callable[..., Completed]

JOBS = 12
SCRIPT = (
    "import os\nprint(os.environ['PISA_HOST'])\nopen('ran.log', 'a').write(os.environ['PISA_JOB'] + '\\n')\n"
)


@pytest.fixture
def batch(project: Project) -> Project:
    project.write("fabfile.py", "from pisa_fab.tasks import *  # noqa: F403\n")
    project.write("script.py", SCRIPT)
    project.jobs({"script": "script.py", "output": "run", "sweep": {"-n": {"from": 1, "to": JOBS}}})
    return project


def ran(project: Project) -> Counter[str]:
    path = project.path / "ran.log"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def used(project: Project) -> set[str]:
    return {path.read_text().strip() for path in project.path.glob("run/stdout/*.out")}


def each_ran_once(project: Project) -> bool:
    return ran(project) == Counter(f"{job:04d}" for job in range(JOBS))


# -- fab -H -------------------------------------------------------------------------------------------------


def test_a_batch_runs_once_over_exactly_the_hosts_that_are_named(
    batch: Project, hosts: Hosts, run_program: Run
) -> None:
    names = [host.name for host in hosts.start(3)]
    batch.pool(names)
    done = run_program("fab", "-H", "pc01,pc03", "submit", "-j", "jobs.yaml", "-l")
    assert done.returncode == 0, done.said
    assert "12 of 12 jobs to run, 4 slots on 2 hosts" in done.stdout  # slots as the cluster file says
    assert done.stdout.count("12 jobs: 12 succeeded") == 1
    assert each_ran_once(batch)
    assert used(batch) == {"pc01", "pc03"}


def test_hosts_need_no_cluster_file(batch: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(2)
    done = run_program("fab", "-H", "pc01,pc02", "submit")
    assert done.returncode == 0, done.said
    assert "2 slots on 2 hosts" in done.stdout
    assert used(batch) == {"pc01", "pc02"}
    done = run_program("fab", "-H", "pc01,pc02", "submit", "--rerun", "--slots", "3")
    assert "6 slots on 2 hosts" in done.stdout


def test_several_commands_are_each_run_once(batch: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(2)
    done = run_program("fab", "-H", "pc01,pc02", "submit", "status", "collect")
    assert done.returncode == 0, done.said
    assert done.stdout.count("12 jobs: 12 succeeded") == 2  # of submit and of status
    assert done.stdout.count("12 rows written") == 1
    assert each_ran_once(batch)


def test_two_batches_in_one_command(batch: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(2)
    batch.jobs({"script": "script.py", "output": "other"}, "other.yaml")
    done = run_program("fab", "-H", "pc01,pc02", "submit", "-j", "jobs.yaml", "submit", "-j", "other.yaml")
    assert done.returncode == 0, done.said
    assert "12 of 12 jobs to run, 2 slots on 2 hosts" in done.stdout
    assert "1 of 1 job to run, 2 slots on 2 hosts" in done.stdout


def test_a_failed_batch_ends_fab_with_its_exit_code(batch: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(2)
    batch.write("script.py", "import sys\nsys.exit(sys.argv[2] == '3')\n")
    done = run_program("fab", "-H", "pc01,pc02", "submit", "status")
    assert done.returncode == 1, done.said
    assert "Traceback" not in done.stderr
    assert done.stdout.count("11 succeeded, 1 failed") == 1  # status was not run any more


def test_a_mistake_is_said_once(batch: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(2)
    batch.write("jobs.yaml", "swep: 1\n")
    done = run_program("fab", "-H", "pc01,pc02", "submit")
    assert done.returncode == 2
    assert done.stderr.count('unknown key "swep"') == 1, done.said


def test_a_host_may_be_written_with_user_and_port(batch: Project, hosts: Hosts, run_program: Run) -> None:
    [host] = hosts.start(1)
    done = run_program("fab", "-H", f"root@127.0.0.1:{host.port}", "-i", str(hosts.identity), "submit")
    assert done.returncode == 0, done.said
    assert used(batch) == {"127.0.0.1"}


def test_the_same_host_twice_is_one_host(batch: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(1)
    done = run_program("fab", "-H", "pc01,pc01", "submit")
    assert done.returncode == 0, done.said
    assert "1 slot on 1 host" in done.stdout
    assert each_ran_once(batch)


def test_the_options_of_fab_are_used(batch: Project, hosts: Hosts, run_program: Run, tmp_path: Path) -> None:
    """The ssh configuration and the key that fab is told, where the user's own know neither host nor key."""
    hosts.start(1)
    folder = hosts.home / ".ssh"
    config = (folder / "config").rename(tmp_path / "elsewhere")
    key = (folder / "id_ed25519").rename(tmp_path / "my_key")
    text = config.read_text()
    config.write_text("".join(line for line in text.splitlines(True) if "IdentityFile" not in line))
    done = run_program("fab", "-H", "pc01", "submit")
    assert done.returncode == 3, done.said
    done = run_program("fab", "-S", str(config), "-i", str(key), "-t", "20", "-H", "pc01", "submit")
    assert done.returncode == 0, done.said
    assert used(batch) == {"pc01"}


def test_fabrics_own_configuration_is_used(
    batch: Project, hosts: Hosts, run_program: Run, tmp_path: Path
) -> None:
    """As under `fab`, so under `inv`."""
    hosts.start(1)
    folder = hosts.home / ".ssh"
    config = (folder / "config").rename(tmp_path / "elsewhere")
    batch.write("fabric.yaml", f"ssh_config_path: {config}\n")
    batch.pool(["pc01"])
    for number, command in enumerate((["fab", "-H", "pc01"], ["fab"], ["inv"]), start=1):
        done = run_program(*command, "submit", "--rerun")
        assert done.returncode == 0, done.said
        assert ran(batch)["0003"] == number


@pytest.mark.parametrize("command", ["status", "dryrun", "collect", "cancel"])
def test_commands_that_need_no_host_are_run_once(
    batch: Project, hosts: Hosts, run_program: Run, command: str
) -> None:
    plain = run_program("inv", "submit", "--only", "0")
    assert plain.returncode == 0, plain.said
    # Nobody listens there: a connection would fail.
    over = run_program("fab", "-H", "nobody1,nobody2", command)
    alone = run_program("inv", command)
    assert (over.returncode, over.stdout) == (alone.returncode, alone.stdout), over.said


def test_one_host_can_be_checked(batch: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(2)
    batch.pool(["pc01", "pc02"])
    done = run_program("fab", "-H", "pc02", "check", "--json")
    assert done.returncode == 0, done.said
    assert [host["host"] for host in json.loads(done.stdout)["hosts"]] == ["pc02"]


# -- from a user's own tasks -----------------------------------------------------------------------------

OWN = """
from fabric import Connection, task as fabric_task
from invoke import Collection, call, task
import pisa_fab
from pisa_fab.tasks import collect, status, submit

@task
def plain(c):
    submit(c, jobs="jobs.yaml")
    print("plain goes on")

@fabric_task
def here(c):
    submit(c, jobs="jobs.yaml", slots=2)
    print(f"{c.host} goes on")

@task
def by_hand(c):
    with Connection("pc02") as connection:
        submit(connection, jobs="jobs.yaml")

@task(pre=[call(submit, jobs="jobs.yaml")], post=[collect])
def between(c):
    print("between")

ns = Collection(plain, here, by_hand, between)
ns.add_collection(pisa_fab.tasks, "pisa")
"""


@pytest.fixture
def own(batch: Project) -> Project:
    batch.write("tasks.py", OWN)
    batch.write("fabfile.py", OWN)
    return batch


def test_submit_is_a_function_with_a_plain_context(own: Project, run_program: Run) -> None:
    done = run_program("inv", "plain")
    assert done.returncode == 0, done.said
    assert done.stdout.splitlines()[-1] == "plain goes on"
    assert each_ran_once(own)


def test_submit_is_a_function_with_a_connection(own: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(2)
    done = run_program("inv", "by-hand")
    assert done.returncode == 0, done.said
    assert each_ran_once(own)
    assert used(own) == {"pc02"}


def test_a_task_under_fab_calls_submit_for_each_host(own: Project, hosts: Hosts, run_program: Run) -> None:
    """That is how Fabric calls a task: the first call does the work, the second finds nothing to do."""
    hosts.start(2)
    done = run_program("fab", "-H", "pc01,pc02", "here")
    assert done.returncode == 0, done.said
    assert "12 of 12 jobs to run, 2 slots on 1 host" in done.stdout
    assert "nothing left to run" in done.stdout
    assert used(own) == {"pc01"}
    assert done.stdout.count("goes on") == 2


@pytest.mark.parametrize("program", [["inv"], ["fab"], ["fab", "-H", "nobody"]], ids=" ".join)
def test_submit_before_and_collect_after_a_task(own: Project, run_program: Run, program: list[str]) -> None:
    done = run_program(*program, "between")
    assert done.returncode == 0, done.said
    lines = [
        line for line in done.stdout.splitlines() if line.startswith(("run: 12 jobs", "between", "12 rows"))
    ]
    assert [line[:7] for line in lines] == ["run: 12", "between", "12 rows"]
    assert each_ran_once(own)


def test_a_namespace_has_its_defaults_from_the_configuration(own: Project, run_program: Run) -> None:
    (own.path / "jobs.yaml").rename(own.path / "mine.yaml")
    assert run_program("inv", "pisa.submit").returncode == 2
    done = run_program("inv", "pisa.submit", env={"INVOKE_PISA_JOBS": "mine.yaml", "INVOKE_PISA_SLOTS": "3"})
    assert done.returncode == 0, done.said
    assert "3 slots on this machine" in done.stdout
    own.write("invoke.yaml", "pisa: {jobs: mine.yaml}\n")
    assert "12 succeeded" in run_program("inv", "pisa.status").stdout
    done = run_program("inv", "pisa.status", env={"INVOKE_PISA_JOBS": "other.yaml"})
    assert "other.yaml: no such file" in done.stderr  # a variable wins over a file
    # A tip is in the user's words.
    own.write("invoke.yaml", "")
    done = run_program("inv", "pisa.status")
    assert "inv pisa.init" in done.stderr, done.said


def test_defaults_of_the_users_own_configuration(own: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(1)
    pool = own.cluster({"hosts": ["pc01"]}, "pool.yaml")
    (hosts.home / ".invoke.yaml").write_text(f"pisa: {{cluster: {pool}}}\n")
    for program in ("inv", "pisa-fab"):
        done = run_program(program, "pisa.submit" if program == "inv" else "submit", "--rerun")
        assert done.returncode == 0, done.said
        assert "1 slot on 1 host" in done.stdout


def test_pisa_fab_reads_the_projects_configuration(own: Project, run_program: Run) -> None:
    (own.path / "jobs.yaml").rename(own.path / "mine.yaml")
    own.write("invoke.yaml", "pisa: {jobs: mine.yaml}\n")
    done = run_program("pisa-fab", "submit")
    assert done.returncode == 0, done.said


@pytest.mark.parametrize("slots", ["many", "-1", "1.5"])
def test_a_configured_number_that_is_none_is_one_line(own: Project, run_program: Run, slots: str) -> None:
    done = run_program("inv", "pisa.submit", env={"INVOKE_PISA_SLOTS": slots})
    assert done.returncode == 2
    assert f"pisa.slots must be a whole number, not '{slots}'" in done.stderr


def test_a_configuration_file_that_is_named_wins_over_the_projects(own: Project, run_program: Run) -> None:
    (own.path / "jobs.yaml").rename(own.path / "mine.yaml")
    own.write("invoke.yaml", "pisa: {jobs: other.yaml, slots: 1}\n")
    own.write("night.yaml", "pisa: {jobs: mine.yaml}\n")
    for program, task in (("inv", "pisa.submit"), ("pisa-fab", "submit")):
        done = run_program(program, "-f", "night.yaml", task, "--rerun")
        assert done.returncode == 0, done.said
        assert "12 of 12 jobs to run, 1 slot on this machine" in done.stdout


def test_under_fab_it_is_fabrics_configuration(own: Project, hosts: Hosts, run_program: Run) -> None:
    hosts.start(1)
    (own.path / "jobs.yaml").rename(own.path / "mine.yaml")
    own.write("fabric.yaml", "pisa: {jobs: other.yaml, slots: 3}\n")
    done = run_program("fab", "-H", "pc01", "pisa.submit", env={"FABRIC_PISA_JOBS": "mine.yaml"})
    assert done.returncode == 0, done.said
    assert "12 of 12 jobs to run, 3 slots on 1 host" in done.stdout
    own.write("fabric.yaml", "")
    done = run_program("fab", "pisa.status", env={"FABRIC_PISA_JOBS": "mine.yaml"})
    assert "12 succeeded" in done.stdout, done.said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pisa: 3", "pisa: of Invoke's configuration must have keys below it, not 3"),
        ("pisa: jobs.yaml", "pisa: of Invoke's configuration must have keys below it, not 'jobs.yaml'"),
        ("pisa: [jobs]", "pisa: of Invoke's configuration must have keys below it, not ['jobs']"),
        ("pisa: {jobs: 3}", "3: no such file"),
        ("pisa: {job: a.yaml}", 'unknown key "job" below pisa: of Invoke\'s configuration'),
        ("pisa: {jobs: [a.yaml]}", "pisa.jobs of Invoke's configuration must be a single text or number"),
        ("pisa: {jobs: {a: 1}}", "pisa.jobs of Invoke's configuration must be a single text or number"),
        ("pisa: {cluster: true}", "pisa.cluster of Invoke's configuration must be a single text or number"),
        ("pisa: {slots: [3]}", "pisa.slots of Invoke's configuration must be a single text or number"),
        (
            "pisa: {notify: [mail, me]}",
            "pisa.notify of Invoke's configuration must be a single text or number",
        ),
    ],
)
def test_a_default_of_the_wrong_kind_is_one_line(
    own: Project, run_program: Run, text: str, said: str
) -> None:
    own.write("invoke.yaml", f"{text}\n")
    done = run_program("inv", "pisa.submit")
    assert done.returncode == 2, done.said
    first, *tip = done.stderr.splitlines()
    assert (first, len(tip) <= 1) == (said, True), done.said
    assert not (own.path / "run").exists()


@pytest.mark.parametrize("text", ["pisa:", "pisa: {}", "pisa: {jobs: }"])
def test_a_default_that_says_nothing_is_none(own: Project, run_program: Run, text: str) -> None:
    own.write("invoke.yaml", f"{text}\n")
    done = run_program("inv", "pisa.dryrun")
    assert done.returncode == 0, done.said
