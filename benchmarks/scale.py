"""Many jobs: what a million of them cost in memory and seconds, without hosts, on one folder.

Each function measures one thing in a process of its own, so that its peak of memory is its own, and gives a
`Measured`. Called as a program it prints them: `python benchmarks/scale.py simulation 1000000`.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CLUSTER_HOSTS, CLUSTER_SLOTS = 1000, 16
EVERY_SO_MANY_FAILS = 20  # of the jobs that are simulated
A_TURN = 256  # results that the head takes in before it decides anew
ARGUMENTS = 100  # the least number of values of the second column of the sweep


@dataclass(frozen=True, slots=True)
class Measured:
    """What a process took.

    Attributes:
        wall: seconds by the clock.
        processor: seconds of processors, its children included.
        peak: bytes, the most that it held in memory at once.
    """

    wall: float
    processor: float
    peak: int


def memory(folder: Path, jobs: int = 100_000) -> Measured:
    """Run so many `true` on this machine with `submit`: the whole head process."""
    return _command(_project(folder, jobs), "submit", "--rerun")


def simulation(
    folder: Path, jobs: int = 1_000_000, hosts: int = CLUSTER_HOSTS, slots: int = CLUSTER_SLOTS
) -> Measured:
    """Put a run of so many jobs through scheduler, history and the journal's file; one in 20 fails.

    The folder holds a finished run then, for `status`.
    """
    arguments = [str(jobs), str(hosts), str(slots)]
    return _measure([sys.executable, __file__, "--simulate", *arguments], _project(folder, jobs))


def dryrun(folder: Path, jobs: int = 1_000_000) -> Measured:
    """Show every job's command line, and write the assignment file."""
    return _command(_project(folder, jobs), "dryrun")


def status(folder: Path, jobs: int = 1_000_000) -> Measured:
    """Say where the run stands that `simulation` has left in this folder."""
    return _command(_project(folder, jobs), "status")


def replay(folder: Path, jobs: int = 1_000_000) -> Measured:
    """Read all of that run's journal, as `status` must where there is no checkpoint."""
    return _measure([sys.executable, __file__, "--replay", str(jobs)], _project(folder, jobs))


# -- how ----------------------------------------------------------------------------------------------------


def _project(folder: Path, jobs: int) -> Path:
    """Give the folder of a batch of so many jobs, which is made if it is not there."""
    project = folder / f"scale-{jobs}"
    project.mkdir(parents=True, exist_ok=True)
    second = next(count for count in range(ARGUMENTS, 0, -1) if jobs % count == 0)
    (project / "jobs.yaml").write_text(
        "command: ['true', --seed, '{n}']\n"
        "output: run\n"
        "sweep:\n"
        f"  n: {{from: 1, to: {jobs // second}}}\n"
        f"  --beta: {{from: 1, to: {second}}}\n"
    )
    return project


def _command(project: Path, name: str, *options: str) -> Measured:
    program = "from pisa_fab.program import main; main()"
    return _measure([sys.executable, "-c", program, name, "-j", "jobs.yaml", *options], project)


def _measure(command: Sequence[str], project: Path, env: Mapping[str, str] = os.environ) -> Measured:
    """Run a command whose output goes into a file; raises CalledProcessError unless it ends with 0 or 1."""
    with (project / "last.log").open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=project, env=dict(env), stdin=subprocess.DEVNULL, stdout=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise subprocess.CalledProcessError(process.returncode, command)
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _simulate(jobs: int, hosts: int, slots: int) -> None:
    """Be the head of the batch in this folder, with hosts of which nothing is there but the names."""
    from pisa_fab.api import Batch
    from pisa_fab.commands import look_for_garbage
    from pisa_fab.events import AttemptEnded, AttemptStarted, Ending, HostReady, JobState, Outcome, RunClosed
    from pisa_fab.model import Policy
    from pisa_fab.run import Wish, open_run

    look_for_garbage()  # as a head does
    dice = random.Random(jobs)
    batch = Batch.load("jobs.yaml")
    running: deque[AttemptStarted] = deque()
    with open_run(batch.spec, waiting=print) as run:
        run.begin(Policy(stop_after=0), 0.0, Wish(rerun=True))
        for number in range(hosts):
            name = f"pc{number:04d}"
            run.record(HostReady(name, slots, "3.11.2", slots, f"machine of {name}"), 0.0)
        now = 0.0
        while not run.history.scheduler.finished:
            now += 0.25
            running += [event for event in run.decide(now) if isinstance(event, AttemptStarted)]
            run.sync()
            for _ in range(min(A_TURN, len(running))):
                start = running.popleft()
                seconds = dice.uniform(0.2, 30.0)
                failed = dice.randrange(EVERY_SO_MANY_FAILS) == 0
                outcome = Outcome(
                    Ending.EXITED,
                    int(failed),
                    None,
                    seconds=round(seconds, 3),
                    user=round(seconds * 0.97, 3),
                    system=0.02,
                    memory=dice.randrange(9 << 20, 64 << 20, 4096),
                    tail=f"Traceback (most recent call last):\nValueError: {seconds}\n" if failed else "",
                )
                run.record(AttemptEnded(start.job, start.attempt, start.host, outcome), now)
        run.record(RunClosed("finished"), now)
        counts = run.history.scheduler.counts()
        print(counts[JobState.SUCCEEDED], "succeeded,", counts[JobState.FAILED], "failed")


def _replay() -> None:
    """Read the journal of the batch in this folder from its beginning."""
    from pisa_fab.api import Batch
    from pisa_fab.history import History
    from pisa_fab.journal import read

    history = History()
    for moment, event in read(Batch.load("jobs.yaml").layout.journal):
        history.apply(moment, event, moment)
    print(len(history.results), "results")


def main() -> int:
    """Measure what the command line asks for, in a folder that is removed unless one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "simulation", "dryrun", "status", "replay"])
    parser.add_argument("jobs", type=int)
    parser.add_argument("--folder", type=Path, help="kept; for status and replay the one of simulation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pisa-fab-scale.") as temporary:
        found = globals()[options.what](options.folder or Path(temporary), options.jobs)
    print(
        f"{options.what} of {options.jobs} jobs: {found.wall:.2f} s ({found.processor:.2f} s of processors)"
    )
    print(f"  at most {found.peak / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "--simulate":
        _simulate(*map(int, sys.argv[2:]))
    elif sys.argv[1] == "--replay":
        _replay()
    else:
        sys.exit(main())
