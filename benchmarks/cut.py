"""A batch during which one host's cable is pulled, on a pool of namespaces: how long it takes all the same.

Loopback has no cable, so this row has hosts of its own.
"""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import peers
from ground import Ground
from namespaces import NamespacePool
from programs import Project
from sshd import UnavailableError
from timing import BrokenRunError, measure

HOSTS, SLOTS = 4, 2
JOBS = 40
LEASE = 3
CUT_AFTER = 2.0  # seconds from the start of the command
VICTIM = "pc01"
PEER_OPTIONS = ("--timeout", "5", "--retries", "5")  # without these it hangs
PEER_PATIENCE = "60"  # seconds after which it is given up
SCRIPT = """\
import time
time.sleep(1)
print(time.time())
"""


@dataclass(frozen=True)
class CutCost:
    """How long it took, in seconds.

    Attributes:
        whole: the whole command.
        rerun: from the cut to the end of the last job that was run again.
    """

    whole: float
    rerun: float


class CutScene:
    """A pool and a project in its home; each run is on a healed pool."""

    def __init__(self, pool: NamespacePool, inv: str) -> None:
        self.pool = pool
        self.inv = inv
        self.project = Project(pool.home / "project")
        self.folder = self.project.path
        self.old = 0
        self.folder.mkdir()
        self.project.write("tasks.py", "from pisa_fab.tasks import *\n")
        self.project.write("second.py", SCRIPT)
        self.project.jobs({"script": "second.py", "output": "run", "sweep": {"-n": {"from": 1, "to": JOBS}}})
        self.project.pool(pool.names, SLOTS, lease=LEASE)
        pool.give(self.folder)

    def floor(self) -> float:
        """Do the same here: on all slots until the moment of the cut, then on those that are left."""
        began = time.perf_counter()
        slots = HOSTS * SLOTS
        before = int(CUT_AFTER) * slots
        for jobs, together in ((before, slots), (JOBS - before, slots - SLOTS)):
            numbers = [str(number) for number in range(jobs)]
            self._measure(["xargs", f"-P{together}", "-n1", "python3", "second.py"], numbers)
        return time.perf_counter() - began

    def ours(self) -> CutCost:
        """Submit, and pull the cable. Raises BrokenRunError unless all succeed, some in a second attempt."""
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        with self._cutting() as moment:
            whole = self._measure([self.inv, "submit"])
        rows = self._collect()
        if len(rows) != JOBS or any(row["state"] != "succeeded" for row in rows):
            raise BrokenRunError("not every job has succeeded")
        again = [row["job"] for row in rows if row["attempt"] != "1"]
        if not again:
            raise BrokenRunError("the cut hit no job: the machine is too busy to have begun by then")
        ends = [float((self.folder / "run" / "stdout" / f"{job}.out").read_text()) for job in again]
        return CutCost(whole, max(ends) - moment[0])

    def gnu_parallel(self) -> float:
        """Let GNU parallel do it. Raises NoPeerError, BrokenRunError."""
        shutil.rmtree(self.folder / peers.OUTPUT, ignore_errors=True)
        command = peers.gnu_parallel(self.folder, "second.py", self.pool.names, SLOTS, PEER_OPTIONS)
        self.pool.give(self.folder)
        with self._cutting():
            numbers = [str(number) for number in range(JOBS)]
            whole = self._measure(["timeout", PEER_PATIENCE, *command], numbers)
        outputs = [path for path in (self.folder / peers.OUTPUT / "stdout").iterdir() if path.read_text()]
        if len(outputs) != JOBS:
            raise BrokenRunError(f"{len(outputs)} of {JOBS} jobs have an output")
        return whole

    @contextmanager
    def _cutting(self) -> Iterator[list[float]]:
        """Pull the cable in time, and give when that was; heal at the end, and wait until all is quiet."""
        host = self.pool[VICTIM]
        moment: list[float] = []

        def cut() -> None:
            host.cut()
            moment.append(time.time())

        timer = Timer(CUT_AFTER, cut)
        timer.start()
        try:
            yield moment
        finally:
            timer.cancel()
            timer.join()
            host.boot()
            self.pool.assert_empty()

    def _measure(self, command: Sequence[str], given: Sequence[str] = ()) -> float:
        environment: Mapping[str, str] = self.pool.environment
        return measure([*self.pool.prefix(), *command], self.folder, environment, given).wall

    def _collect(self) -> list[dict[str, str]]:
        self._measure([self.inv, "collect"])
        with (self.folder / "run" / "results.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@contextmanager
def cut_scene(folder: Path, inv: str) -> Iterator[CutScene]:
    """Give a scene in a folder. Raises UnavailableError where there can be no pool of namespaces."""
    with NamespacePool(folder / "pool", folder / "pool" / "home", hosts=HOSTS) as pool:
        yield CutScene(pool, inv)


def cut(ground: Ground) -> None:
    """A host whose cable is pulled: all jobs are done soon all the same."""
    floor = ground.line("cut", "xargs -P8, after 2 s -P6, local", "s")
    ours = ground.line("cut", "pisa_fab", "s", floor=floor, bar=13, bar_is_value=True)
    rerun = ground.line("cut", "pisa_fab, from the cut to the last rerun", "s")
    try:
        with cut_scene(ground.root / "cut", ground.program("inv")) as scene:
            ground.say(f"cut: {VICTIM} after {CUT_AFTER:g} s, lease {LEASE} s")
            for _ in ground.rounds("cut"):
                floor.add(scene.floor())
                cost = scene.ours()
                ours.add(cost.whole)
                rerun.add(cost.rerun)
            ground.peer(floor, "GNU parallel --timeout 5", scene.gnu_parallel)
    except UnavailableError as error:
        floor.note = str(error)
