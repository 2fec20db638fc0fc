"""The rows about how fast jobs are done: short scripts, scripts with NumPy, sleepers, jobs that do nothing.

The other programs stand in the same rows; how they are called is known to `peers` and `clusters`.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import peers
from ground import HOSTS, SLOTS, Ground
from lines import Line

OURS = "pisa_fab"
XARGS = ["xargs", "-P2", "-n1"]
SCRIPTS, NUMPYS, TRUES = 400, 100, 8000
LOCAL_WORKERS = 2  # of the programs that know no hosts
SLEEPERS, SLEEP_HOSTS, SLEEP_SLOTS = 510, 34, 3
SCRIPT = """\
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("-n", type=int)
print(parser.parse_args().n ** 2)
"""
NUMPY_SCRIPT = """\
import argparse
import numpy
parser = argparse.ArgumentParser()
parser.add_argument("-n", type=int)
print(numpy.arange(parser.parse_args().n + 1).sum())
"""


def scripts(ground: Ground) -> None:
    """Short Python scripts on all hosts, the whole command, against the same commands run here."""
    batch: dict[str, object] = {
        "script": "script.py",
        "output": "run",
        "sweep": {"-n": {"from": 0, "to": SCRIPTS - 1}},
    }
    ground.project.write("script.py", SCRIPT)
    floor = _python_jobs(ground, "scripts", "python3", batch, SCRIPTS, plain=1.1, preloaded=0.6, crowded=True)
    _pool_peers(ground, floor)
    command = ["python3", "script.py", "-n", "{}"]
    _cluster_peers(ground, floor, command, SCRIPTS, lambda seconds: seconds)


def numpy(ground: Ground) -> None:
    """Scripts that import NumPy, by the interpreter of this environment, which has it."""
    venv = Path(sys.prefix)
    batch: dict[str, object] = {
        "script": "with_numpy.py",
        "venv": str(venv),
        "output": "run",
        "sweep": {"-n": {"from": 0, "to": NUMPYS - 1}},
    }
    ground.project.write("with_numpy.py", NUMPY_SCRIPT)
    python = str(venv / "bin" / "python")
    # NumPy takes as many threads as there are cores, our jobs one (`threads:`): both are a fair floor.
    one_thread = ["env", "OPENBLAS_NUM_THREADS=1", *XARGS]
    _python_jobs(ground, "numpy", python, batch, NUMPYS, plain=None, preloaded=0.3, stricter=one_thread)


def _python_jobs(
    ground: Ground,
    row: str,
    python: str,
    batch: dict[str, object],
    count: int,
    *,
    plain: float | None,
    preloaded: float,
    stricter: list[str] | None = None,
    crowded: bool = False,
) -> Line:
    """Measure `python SCRIPT -n N` for all N: here, on the hosts, and there preloaded; give the floor.

    `crowded` is for what it costs to run as many scripts at a time here as the hosts do.
    """
    ground.project.jobs(batch, f"{row}.yaml")
    ground.project.jobs({**batch, "preload": True}, f"{row}-preload.yaml")
    floor = ground.line(row, "xargs -P2, local", "s")
    numbers = [str(number) for number in range(count)]
    command = [python, str(batch["script"]), "-n"]
    beside: list[tuple[Line, list[str]]] = []  # what else is run here in every round
    if crowded:
        crowd = ground.line(row, f"{HOSTS} times that at once, each for its part", "s", floor=floor)
        beside.append((crowd, _at_once(command, count)))
    ours = ground.line(row, OURS, "s", floor=floor, bar=plain)
    with_preload = ground.line(row, f"{OURS}, preload: true", "s", floor=floor, bar=preloaded)
    if stricter is not None:
        second = ground.line(row, "xargs -P2, local, one thread a script", "s")
        beside.append((second, [*stricter, *command]))
        for line in (ours, with_preload):  # the same times beside that
            ground.line(row, line.name, "s", floor=second, series=line.series)
    for _ in ground.rounds(row):
        floor.add(ground.measure([*XARGS, *command], numbers).wall)
        for line, words in beside:
            line.add(ground.measure(words, numbers).wall)
        ours.add(ground.submit(f"{row}.yaml", count).wall)
        with_preload.add(ground.submit(f"{row}-preload.yaml", count).wall)
    return floor


def _at_once(command: list[str], count: int) -> list[str]:
    """Give what runs a part of the commands in each of as many `xargs -P2` as there are hosts."""
    part = f'printf "%s\\n" "$@" | {shlex.join([*XARGS, *command])}'
    return ["xargs", f"-P{HOSTS}", f"-n{math.ceil(count / HOSTS)}", "sh", "-c", part, "sh"]


def sleep(ground: Ground) -> None:
    """Jobs that sleep for a second, on many hosts: what start, hand-over and end add to the ideal."""
    ideal = SLEEPERS / (SLEEP_HOSTS * SLEEP_SLOTS)
    cluster = ground.more_hosts(SLEEP_HOSTS, SLEEP_SLOTS)
    batch = {"command": ["sleep", "1"], "output": "run", "env": {"N": "{n}"}}
    ground.project.jobs({**batch, "sweep": {"n": {"from": 1, "to": SLEEPERS}}}, "sleep.yaml")
    ground.project.jobs({**batch, "sweep": {"n": {"from": 1, "to": 1}}}, "sleep-one.yaml")
    floor = ground.line("sleep", f"the ideal: {SLEEPERS} / ({SLEEP_HOSTS} x {SLEEP_SLOTS}) x 1 s", "s")
    ours = ground.line("sleep", OURS, "s", floor=floor, bar=1.2)
    one = ground.line("sleep", f"{OURS}, one job on so many hosts", "s")
    for _ in ground.rounds("sleep"):
        floor.add(ideal)
        ours.add(ground.submit("sleep.yaml", SLEEPERS, cluster).wall)
        one.add(ground.submit("sleep-one.yaml", 1, cluster).wall)


def true(ground: Ground) -> None:
    """Jobs that do nothing: how many a second, the start of the command included."""
    floor = ground.line("true", "xargs -P2, local, sh and a file a job", "jobs/s", more_is_better=True)
    ours = ground.line("true", OURS, "jobs/s", floor=floor, bar=2.0, more_is_better=True)
    steady = ground.line("true", f"{OURS}, without its start", "jobs/s", floor=floor, more_is_better=True)
    numbers = [str(number) for number in range(TRUES)]
    run_trues(ground)
    for many, one in ground.trues:
        (ground.folder / "true_out").mkdir(exist_ok=True)
        shell = ["xargs", "-P2", "-I{}", "sh", "-c", "/bin/true -n {} > true_out/{}.out"]
        floor.add(TRUES / ground.measure(shell, numbers).wall)
        ours.add(TRUES / many.wall)
        steady.add((TRUES - 1) / (many.wall - one.wall))
    _cluster_peers(ground, floor, ["/bin/true", "-n", "{}"], TRUES, lambda seconds: TRUES / seconds)


def cpu(ground: Ground) -> None:
    """Processor time of the head: for a job, which is what many jobs take more than one, and for a start."""
    line = ground.line("cpu", f"{OURS}: head, for a job", "ms", bar=0.1)
    start = ground.line("cpu", f"{OURS}: head, for a batch of one job", "s")
    whole = ground.line("cpu", f"{OURS}: batch of one job, whole command", "s")
    run_trues(ground)
    for many, one in ground.trues:
        line.add(1000 * (many.processor - one.processor) / (TRUES - 1))
        start.add(one.processor)
        whole.add(one.wall)


def run_trues(ground: Ground) -> None:
    """Submit many jobs that do nothing, and one, for both rows that want to know."""
    if ground.trues:
        return
    for jobs, name in ((TRUES, "many.yaml"), (1, "one.yaml")):
        sweep = {"-n": {"from": 1, "to": jobs}}
        ground.project.jobs({"command": ["/bin/true"], "output": "run", "sweep": sweep}, name)
    for _ in ground.rounds("true"):
        ground.trues.append((ground.submit("many.yaml", TRUES), ground.submit("one.yaml", 1)))


# -- other programs -----------------------------------------------------------------------------------------


def _pool_peers(ground: Ground, floor: Line) -> None:
    """Measure what runs the same scripts over ssh, on the same hosts with as many slots."""
    pool = (ground.names, SLOTS)
    numbers = [str(number) for number in range(SCRIPTS)]

    def pisa_ssh() -> float:
        ground.put_aside(ground.folder / peers.OUTPUT)
        return measured(peers.pisa_ssh(ground.folder, "script.py", SCRIPTS, *pool))

    def gnu_parallel(*options: str) -> float:
        ground.put_aside(ground.folder / peers.OUTPUT)
        return measured(peers.gnu_parallel(ground.folder, "script.py", *pool, options))

    def measured(command: list[str]) -> float:
        cost = ground.measure(command, numbers)
        ground.check(ground.folder / peers.OUTPUT / "stdout", SCRIPTS)
        return cost.wall

    ground.peer(floor, "pisa-ssh", pisa_ssh)
    ground.peer(floor, "GNU parallel", gnu_parallel)
    # With -M there is one connection a host for all jobs.
    ground.peer(floor, "GNU parallel -M", lambda: gnu_parallel("-M"))


def _cluster_peers(
    ground: Ground, floor: Line, command: list[str], jobs: int, value: Callable[[float], float]
) -> None:
    """Measure what has workers on this machine, without ssh: as many at once as `xargs` in the floor."""

    def run(peer: peers.Cluster) -> Callable[[], float]:
        def once() -> float:
            ground.put_aside(ground.folder / peers.OUTPUT)
            started = peers.local_cluster(peer, LOCAL_WORKERS, jobs, command)
            seconds = ground.measure(started).wall
            ground.check(ground.folder / peers.OUTPUT / "stdout", jobs)
            return value(seconds)

        return once

    for peer in peers.CLUSTERS:
        ground.peer(floor, f"{peer.title}, {LOCAL_WORKERS} local workers of 1 core", run(peer))
