"""The order of starts in a real run: by the numbers at first, and the longest first when all is known."""

from __future__ import annotations

from collections.abc import Callable

from programs import Completed, Project
from sshd import Hosts

from pisa_fab.events import AttemptEnded, AttemptStarted, RunOpened
from pisa_fab.journal import read

SCRIPT = "import sys, time\ntime.sleep(float(sys.argv[2]))\n"
SECONDS = [0.1, 0.7, 0.3, 1.3, 0.5, 1.0, 0.2]


def runs_of(project: Project) -> list[list[AttemptStarted | AttemptEnded]]:
    """Give the starts and ends of each run, from its journal."""
    runs: list[list[AttemptStarted | AttemptEnded]] = []
    for _, event in read(project.path / "run/.pisa/journal.jsonl"):
        if isinstance(event, RunOpened):
            runs.append([])
        elif isinstance(event, AttemptStarted | AttemptEnded):
            runs[-1].append(event)
    return runs


def starts(events: list[AttemptStarted | AttemptEnded]) -> list[int]:
    return [event.job for event in events if isinstance(event, AttemptStarted)]


def test_a_second_run_starts_the_jobs_that_took_longest_first(
    project: Project, hosts: Hosts, run_program: Callable[..., Completed]
) -> None:
    project.write("script.py", SCRIPT)
    project.jobs({"script": "script.py", "output": "run", "sweep": {"-s": [*map(str, SECONDS)]}})
    project.pool(hosts.start(2), slots=1)
    assert run_program("inv", "submit").returncode == 0
    done = run_program("inv", "submit", "--rerun")
    assert done.returncode == 0, done.said
    first, second = runs_of(project)
    took = {event.job: event.outcome.worked for event in first if isinstance(event, AttemptEnded)}
    assert sorted(took) == [*range(len(SECONDS))]
    assert starts(second) == sorted(took, key=lambda job: -took[job])


def test_what_the_jobs_file_says_orders_the_first_run(
    project: Project, hosts: Hosts, run_program: Callable[..., Completed]
) -> None:
    project.write("script.py", "")
    said = [3, 9, 1, 7, 5]
    sweep = [{"-n": [*range(5)], "t": [f"{minutes}m" for minutes in said]}]
    project.jobs({"script": "script.py", "output": "run", "sweep": sweep, "expect": "{t}"})
    project.pool(hosts.start(1), slots=1)
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    assert starts(runs_of(project)[0])[:3] == [1, 3, 4]  # then it is known how long they take
