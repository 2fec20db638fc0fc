"""The rows about the head alone: how soon a command starts, how many jobs it can have, and their order.

`scale` and `makespan` measure; here what they say becomes lines.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import makespan as order
import scale
from ground import SLOTS, Ground

MANY, MOST = 100_000, 1_000_000
MEGABYTE = 1e6


def dryrun(ground: Ground) -> None:
    """Start of the smallest command."""
    jobs = {"script": "small.py", "output": "run", "sweep": {"-n": {"from": 1, "to": 10}}}
    ground.project.write("small.py", "print(1)\n")
    ground.project.jobs(jobs, "small.yaml")
    invoke = ground.line("dryrun", "inv --version", "s")
    ours = ground.line("dryrun", "inv dryrun, 10 jobs", "s", bar=0.3)
    inv = ground.program("inv")
    for _ in range(3 * ground.repeat):
        invoke.add(ground.measure([inv, "--version"]).wall)
        ours.add(ground.measure([inv, "dryrun", "-j", "small.yaml"]).wall)


def memory(ground: Ground) -> None:
    """What a head with many jobs holds in memory."""
    line = ground.line("memory", f"head, {MANY:,} jobs of true", "MB", bar=200)
    for _ in ground.rounds("memory"):
        with tempfile.TemporaryDirectory(dir=ground.root) as folder:
            line.add(scale.memory(Path(folder), MANY).peak / MEGABYTE)


def million(ground: Ground) -> None:
    """A million jobs: through scheduler and journal without hosts, by `dryrun`, and by `status`."""
    hosts = "1,000 hosts x 16, scheduler and journal"
    seconds = ground.line("million", f"simulation, {hosts}", "s", bar=60)
    peak = ground.line("million", "the same, memory", "MB", bar=1000)
    shown = ground.line("million", "inv dryrun", "s", bar=15)
    summed = ground.line("million", "inv status of the finished run", "s", bar=3)
    for _ in ground.rounds("million"):
        with tempfile.TemporaryDirectory(dir=ground.root) as name:
            folder = Path(name)
            simulated = scale.simulation(folder, MOST)
            seconds.add(simulated.wall)
            peak.add(simulated.peak / MEGABYTE)
            summed.add(scale.status(folder, MOST).wall)
            shown.add(scale.dryrun(folder, MOST).wall)


def makespan(ground: Ground) -> None:
    """Jobs of very different lengths, run twice, each run against the best order that its jobs could have."""
    for kind, jobs in (("sleep", "jobs that sleep"), ("compute", "fib(0..30), computed")):
        first = ground.line("makespan", f"{jobs}, first run to the best order", "x")
        second = ground.line("makespan", f"{jobs}, second run", "x", bar=1.1)
        for _ in ground.rounds("makespan"):
            for left in ("makespan_run", "makespan.yaml", "makespan-hosts.yaml", "makespan.py"):
                ground.put_aside(ground.folder / left)
            runs = order.makespans(ground.folder, ground.inv, ground.names, SLOTS, kind)
            first.add(runs[0].ratio)
            second.add(runs[1].ratio)
