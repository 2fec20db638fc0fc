"""How near to the best possible order a run comes whose jobs are skewed as those of fib(0..30).

Two kinds of jobs: those that sleep, many on all slots, so that neither the number of cores nor what the
machine does besides matters; and those that compute, one at a time on as many slots as there are cores. Each
is run twice, the second time with `--rerun`, when it is known how long each job takes. Knows nothing of the
table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

LONGEST = 4.0  # seconds that the longest of the jobs sleep
GOLDEN = (1 + 5**0.5) / 2  # fib(n + 1) takes so many times as long as fib(n)
NUMBERS = range(31)
ROUNDS = 2.0  # all jobs together keep all slots busy for about so many times the longest
FIB = """\
import argparse

def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

parser = argparse.ArgumentParser()
parser.add_argument("-n", type=int)
print(fib(parser.parse_args().n))
"""


@dataclass(frozen=True, slots=True)
class Makespan:
    """How long a run took from its first start to its last end, by its journal, in seconds.

    Attributes:
        seconds: that time.
        best: no order of these jobs takes less: not less than the longest job, not less than what keeps all
            slots busy to the end, and of the longest (slots + 1) jobs two share a slot. By the run times that
            the workers measured in the same run, so that what a start costs does not count as a job's time.
    """

    seconds: float
    best: float

    @property
    def ratio(self) -> float:
        """How many times the best possible time it took."""
        return self.seconds / self.best


def makespans(
    folder: Path, run: Callable[[Sequence[str]], object], hosts: Sequence[str], slots: int, kind: str
) -> list[Makespan]:
    """Measure a first run and a second one of the same jobs.

    Args:
        folder: of the project, whose tasks.py has our tasks; `makespan.*` and the folder `makespan_run` in it
            are ours, and the folder must not be there yet.
        run: runs `inv` in that folder with these words (`["submit", "-j", ...]`) to its end; raises if it
            failed.
        hosts: names of the hosts.
        slots: of each of them; where jobs compute there is one for each core, on so many hosts.
        kind: `sleep` or `compute`.
    """
    if kind == "compute":
        hosts, slots = hosts[: len(os.sched_getaffinity(0))], 1
    _write(folder, hosts, slots, kind)
    command = ["submit", "-j", "makespan.yaml", "-c", "makespan-hosts.yaml"]
    run(command)
    run([*command, "--rerun"])
    return read(folder / "makespan_run/.pisa/journal.jsonl", len(hosts) * slots)


def _write(folder: Path, hosts: Sequence[str], slots: int, kind: str) -> None:
    jobs: dict[str, object] = {"output": "makespan_run"}
    if kind == "compute":
        (folder / "makespan.py").write_text(FIB)
        jobs |= {"script": "makespan.py", "sweep": {"-n": [str(n) for n in NUMBERS]}}
    else:
        times = [LONGEST * GOLDEN ** (n - NUMBERS[-1]) for n in NUMBERS]
        again = max(1, round(ROUNDS * LONGEST * len(hosts) * slots / sum(times)))
        # By their numbers the longest jobs come last, which is the worst order.
        sweep = {"t": [f"{seconds:.6f}" for seconds in times], "again": {"from": 1, "to": again}}
        jobs |= {"command": ["sleep", "{t}"], "env": {"AGAIN": "{again}"}, "sweep": sweep}
    cluster = {"slots": slots, "hosts": [*hosts], "nice": 0, "owner": "ignore", "min_free_memory": 0}
    for name, content in (("makespan.yaml", jobs), ("makespan-hosts.yaml", cluster)):
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")


def read(journal: Path, slots: int) -> list[Makespan]:
    """Give the makespan of every run in a journal, all of whose jobs succeeded at once."""
    runs: list[list[dict[str, object]]] = []
    for line in journal.read_text("ascii").splitlines():
        event = json.loads(line)
        if event["e"] == "run":
            runs.append([])
        elif event["e"] in ("started", "ended"):
            runs[-1].append(event)
    return [_of_run(events, slots) for events in runs]


def _of_run(events: Sequence[dict[str, object]], slots: int) -> Makespan:
    begin = min(float(str(event["t"])) for event in events if event["e"] == "started")
    # Not those that were taken back from a host before they began.
    ends = [event for event in events if event["e"] == "ended" and "seconds" in event]
    seconds = [float(str(event["seconds"])) for event in ends]
    whole = max(float(str(event["t"])) for event in ends) - begin
    return Makespan(whole, best(seconds, slots))


def best(seconds: Sequence[float], slots: int) -> float:
    """Give a time below which no order of these jobs comes (see `Makespan`)."""
    ranked = sorted(seconds, reverse=True)
    two = ranked[slots - 1] + ranked[slots] if len(ranked) > slots else 0.0
    return max(ranked[0], sum(ranked) / slots, two)
