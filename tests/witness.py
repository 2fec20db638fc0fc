"""What jobs themselves say of when and where they ran, for tests that do not take our journal's word for it.

A batch whose jobs write into logs on the shared home and wait for a file before they end. Each attempt logs
its begin and its end, and holds a lock of its job meanwhile, which the kernel gives back however it dies: an
attempt that finds the lock taken logs that two attempts of one job overlap. This needs one kernel below all
hosts (see namespaces.py), but no clock that they share.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from processes import wait_for
from programs import Completed, Program, Project

Run = Callable[..., Completed]
Start = Callable[..., Program]

# An attempt goes on when there is any of the files `go` names. What ABUSE says is run first.
SCRIPT = """
import fcntl, json, os, sys, time
job, attempt, host = (os.environ["PISA_" + name] for name in ("JOB", "ATTEMPT", "HOST"))
log = open(f"log/{job}.{attempt}", "a", buffering=1)
lock = open(f"lock/{job}", "a")
def say(what):
    log.write(f"{what} {host} {time.monotonic()}\\n")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    say("overlap")
say("begin")
exec(os.environ.get("ABUSE", ""))
gates = ["go", f"go.{job}", f"go.{job}.{attempt}", f"go.{host}"]
while not any(os.path.exists(gate) for gate in gates):
    time.sleep(0.02)
say("end")
print(json.dumps(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Attempt:
    """What an attempt said.

    Attributes:
        job, number, host: which, and where it ran.
        began, ended: seconds of the monotonic clock of its host; `ended` is None if it did not come so far.
        overlaps: whether another attempt of the same job ran when it began.
    """

    job: str
    number: int
    host: str
    began: float
    ended: float | None
    overlaps: bool


class Batch:
    """A batch of such jobs in a project, `run` its run directory."""

    def __init__(self, project: Project, jobs: int, abuse: str = "", **settings: object) -> None:
        """Write its files: the script, and jobs.yaml with `settings`; `abuse` is Python that jobs run."""
        self.project = project
        self.jobs = [f"{number:04d}" for number in range(jobs)]
        self.run = project.path / "run"
        project.write("script.py", SCRIPT)
        for name in ("log", "lock"):
            (project.path / name).mkdir()
        project.jobs(
            {
                "script": "script.py",
                "output": "run",
                "sweep": {"-n": {"from": 0, "to": jobs - 1}},
                "env": {"ABUSE": abuse},
                **settings,
            }
        )

    def attempts(self) -> list[Attempt]:
        """Give every attempt that has begun, by job and number."""
        paths = sorted((self.project.path / "log").iterdir(), key=lambda path: path.name)
        return [attempt for path in paths if (attempt := read(path)) is not None]

    def begun(self, host: str = "") -> list[Attempt]:
        """Give the attempts that have begun, on one host or anywhere."""
        return [attempt for attempt in self.attempts() if host in ("", attempt.host)]

    def wait_for_begun(self, count: int, host: str = "") -> list[Attempt]:
        """Wait until so many attempts have begun, on one host or anywhere, and give them."""
        wait_for(lambda: len(self.begun(host)) >= count, f"{count} attempts to begin {host}")
        return self.begun(host)

    def hosts_of(self, job: str) -> list[str]:
        """Give where the attempts of a job ran, in their order."""
        return [attempt.host for attempt in self.attempts() if attempt.job == job]

    def let_go(self, *gates: str) -> None:
        """Let attempts end: all, or those of a job (`0003`), one of them (`0003.2`), those on a host."""
        for name in [f"go.{gate}" for gate in gates] or ["go"]:
            (self.project.path / name).touch()

    def taken_back(self) -> set[str]:
        """Give the jobs of which the journal says that an attempt was stopped."""
        lines = (self.run / ".pisa/journal.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines if '"ending": "stopped"' in line]
        return {f"{event['job']:04d}" for event in events}

    def check(self, collect: Run, again: set[str] | None = None, *, overlaps: bool = False) -> None:
        """Assert that every job succeeded exactly once, as its user sees it, and never ran twice at a time.

        Args:
            collect: runs a program in the project.
            again: the jobs that have begun more than once; not looked at if None.
            overlaps: whether a frozen host has made it unavoidable that attempts overlap.
        """
        attempts = self.attempts()
        assert {attempt.job for attempt in attempts} == set(self.jobs)
        assert [attempt for attempt in attempts if attempt.overlaps and not overlaps] == []
        if again is not None:
            begun = Counter(attempt.job for attempt in attempts)
            assert {job for job, times in begun.items() if times > 1} == again, attempts
            # An attempt that was taken back from its host before it began has a number, too.
            given_again = {attempt.job for attempt in attempts if attempt.number > 1}
            assert given_again - again <= self.taken_back(), attempts
        for number, job in enumerate(self.jobs):
            assert json.loads((self.run / f"stdout/{job}.out").read_text()) == ["-n", str(number)]
            assert (self.run / f"stderr/{job}.err").read_text() == ""
        done = collect("inv", "collect")
        assert done.returncode == 0, done.said
        rows = self.project.table("run/results.csv")
        assert [(row["job"], row["state"]) for row in rows] == [(job, "succeeded") for job in self.jobs]
        counted = {(row["job"], int(row["attempt"]), row["host"]) for row in rows}
        ended = {(a.job, a.number, a.host) for a in attempts if a.ended is not None}
        assert counted <= ended
        kept = {path.name for path in (self.run / ".pisa/attempts").iterdir()}
        assert not kept & {f"{job}.{number}.out" for job, number, _ in counted}


def read(path: Path) -> Attempt | None:
    """Read the log of an attempt, None if it has hardly begun."""
    lines = [line.split() for line in path.read_text().splitlines()]
    said = {what: (host, float(moment)) for what, host, moment in lines}
    assert len(said) == len(lines), f"{path} was written by two: {lines}"
    if "begin" not in said:
        return None
    job, number = path.name.split(".")
    ended = said["end"][1] if "end" in said else None
    return Attempt(job, int(number), said["begin"][0], said["begin"][1], ended, "overlap" in said)


def submit(start: Start, *inv: str) -> Program:
    """Begin or go on, in the background; `start` starts `inv`, or what is named instead, in the project."""
    return start(*(inv or ("inv",)), "submit", "--log")


def begin(start: Start, batch: Batch, running: int, *inv: str) -> Program:
    """Submit, and wait until so many jobs run."""
    program = submit(start, *inv)
    wait_for(lambda: len(batch.begun()) >= running or not program.running(), f"{running} jobs to begin")
    assert program.running(), program.stdout + program.stderr
    return program


def succeed(program: Program, batch: Batch) -> Completed:
    """Let all jobs end, and wait for the end of the run, which is a success."""
    batch.let_go()
    done = program.wait()
    assert done.returncode == 0, done.said
    assert f"{len(batch.jobs)} jobs: {len(batch.jobs)} succeeded" in done.stdout
    return done
