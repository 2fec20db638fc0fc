"""Short jobs over SSH: hosts are sent more than they have slots for, and give back what waits in vain."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from processes import wait_for
from programs import Completed, Program, Project
from sshd import Hosts

Run = Callable[..., Completed]
Start = Callable[..., Program]

JOBS = 400
# From the 150th on, one job on pc02 takes as long as the test wants, and nobody knows that before.
JOB = """
if [ "$1" -ge 150 ] && [ "$PISA_HOST" = pc02 ] && mkdir held 2>/dev/null; then
    until [ -e go ]; do sleep 0.02; done
fi
echo "$1 $PISA_HOST"
"""


def events(project: Project) -> list[dict[str, object]]:
    text = (project.path / "run/.pisa/journal.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def ended(project: Project) -> int:
    return sum(event["e"] == "ended" and event["ending"] == "exited" for event in events(project))


def most_waiting(project: Project, slots: int) -> int:
    """Give how many jobs a host had at once beyond its slots."""
    given: Counter[object] = Counter()
    most = 0
    for event in events(project):
        given[event.get("host")] += {"started": 1, "ended": -1}.get(str(event["e"]), 0)
        most = max([most, *given.values()])
    return most - slots


def test_jobs_that_wait_behind_one_that_turns_out_long_are_run_elsewhere(
    project: Project, hosts: Hosts, start_program: Start
) -> None:
    project.write("job.sh", JOB)
    sweep = {"n": {"from": 0, "to": JOBS - 1}}
    project.jobs({"command": ["sh", "job.sh", "{n}"], "output": "run", "sweep": sweep})
    project.pool(hosts.start(2), slots=1)
    submit = start_program("inv", "submit")
    held = project.path / "held"
    wait_for(lambda: held.exists() and ended(project) == JOBS - 1, "all jobs but the one that is held")
    (project.path / "go").touch()
    assert submit.wait().returncode == 0
    assert most_waiting(project, slots=1) > 1
    outputs = [path.read_text().split() for path in sorted((project.path / "run/stdout").iterdir())]
    assert [int(number) for number, _ in outputs] == list(range(JOBS))
    assert {host for _, host in outputs} == {"pc01", "pc02"}


def test_what_waits_on_a_host_does_not_count_as_running(
    project: Project, hosts: Hosts, start_program: Start, run_program: Run
) -> None:
    project.write("job.sh", JOB)
    sweep = {"n": {"from": 0, "to": 3 * JOBS}}
    project.jobs({"command": ["sh", "job.sh", "{n}"], "output": "run", "sweep": sweep})
    project.pool(hosts.start(2), slots=1)
    submit = start_program("inv", "submit")
    wait_for(lambda: (project.path / "held").exists(), "a job that is held")
    status = json.loads(run_program("inv", "status", "--json").stdout)
    assert all(host["running"] <= host["slots"] for host in status["hosts"])
    assert status["counts"]["running"] == status["sent_ahead"] + sum(h["running"] for h in status["hosts"])
    (project.path / "go").touch()
    assert submit.wait().returncode == 0
