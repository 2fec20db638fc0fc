"""What `inv bench` runs: our speed beside the local machine and other programs, in one run, as a table.

Rounds are interleaved, so that a slow minute of the machine hits everybody. The other programs are slow and
take part in the first round only. The hosts are those of the tests: real sshd on loopback; for the row `cut`
a pool of namespaces, for loopback has no cable.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import cut
import foreign
import peers
from programs import Project
from rich.console import Console
from rich.table import Table
from sshd import Hosts, UnavailableError, link_python
from timing import BrokenRunError, Cost, Series, measure

HOSTS, SLOTS = 8, 2
SCRIPTS, TRUES = 400, 8000
SCRIPT = """\
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("-n", type=int)
print(parser.parse_args().n ** 2)
"""
NUMPY_SCRIPT = """\
import argparse
import numpy as np
parser = argparse.ArgumentParser()
parser.add_argument("-n", type=int)
print(np.arange(parser.parse_args().n).sum())
"""
NUMPY_SCRIPTS = 100
ROWS = ("scripts", "preload", "true", "cpu", "dryrun", "cut", "foreign")
OURS = "pisa_fab"


@dataclass(slots=True)
class Line:
    """A line of the table.

    `bar` is what we want to reach: a ratio to the floor, or the value itself where there is no floor or
    `bar_is_value` is set.
    """

    row: str
    name: str
    unit: str
    series: Series = field(default_factory=Series)
    floor: Line | None = None
    bar: float | None = None
    bar_is_value: bool = False
    more_is_better: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times the floor this is."""
        return self.series.value / self.floor.series.value if self.floor else None

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached, None where there is none."""
        if self.bar is None or not self.series.values:
            return None
        reached = self.series.value if self.ratio is None or self.bar_is_value else self.ratio
        return reached >= self.bar if self.more_is_better else reached <= self.bar

    def cells(self) -> list[str]:
        """Give the cells of the printed table."""
        if not self.series.values:
            return [self.row, self.name, "-", "", "", "0", self.note]
        sign = "at least" if self.more_is_better else "at most"
        unit = " x" if self.floor and not self.bar_is_value else f" {self.unit}"
        bar = "" if self.bar is None else f"{sign} {self.bar:g}{unit}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        verdict = {None: self.note, True: "met", False: "MISSED"}[self.met]
        value = f"{self.series.value:.4g} {self.unit}"
        return [self.row, self.name, value, ratio, bar, str(len(self.series.values)), verdict]

    def as_json(self) -> dict[str, object]:
        """Give what goes into the JSON file."""
        value = self.series.value if self.series.values else None
        return {
            "row": self.row,
            "name": self.name,
            "unit": self.unit,
            "median": value,
            "values": self.series.values,
            "ratio": self.ratio if value is not None else None,
            "bar": self.bar,
            "met": self.met,
            "note": self.note,
        }


class Bench:
    """A folder with a project and hosts, and the rows measured on them."""

    def __init__(self, root: Path, repeat: int, say: Callable[[str], None]) -> None:
        self.root = root
        self.repeat = repeat
        self.say = say
        self.home = root / "home"
        self.project = Project(root / "project")
        self.folder = self.project.path
        self.hosts = Hosts(root / "hosts", self.home)
        self.lines: list[Line] = []
        self.trues: list[tuple[Cost, Cost]] = []  # of many jobs and of one
        self.old = 0  # folders put aside
        self.folder.mkdir(parents=True)
        link_python(self.home / "bin")
        self.env = {
            "HOME": str(self.home),
            "PATH": f"{self.home}/bin:{os.environ.get('PATH', os.defpath)}",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }

    def prepare(self) -> None:
        """Start the hosts and write the project, once. Raises UnavailableError."""
        if self.hosts.hosts:
            return
        self.hosts.start(HOSTS)
        self.names = [host.name for host in self.hosts.hosts]
        peers.wrap_ssh(self.home / "bin", self.home / ".ssh" / "config")
        self.project.write("tasks.py", "from pisa_fab.tasks import *\n")
        self.project.write("script.py", SCRIPT)
        self.project.cluster({"slots": SLOTS, "hosts": self.names, "nice": 19}, "hosts.yaml")

    # -- the rows -------------------------------------------------------------------------------------------

    def scripts(self) -> None:
        """Short Python scripts on all hosts, the whole command, against the same commands run here."""
        jobs = {"script": "script.py", "output": "run", "sweep": {"-n": {"from": 0, "to": SCRIPTS - 1}}}
        self.project.jobs(jobs, "scripts.yaml")
        floor = self.line("scripts", "xargs -P2, local", "s")
        ours = self.line("scripts", OURS, "s", floor=floor, bar=1.3)
        numbers = [str(number) for number in range(SCRIPTS)]
        for _ in self.rounds("scripts"):
            xargs = ["xargs", "-P2", "-n1", "python3", "script.py", "-n"]
            floor.series.values.append(self.measure(xargs, numbers).wall)
            ours.series.values.append(self.submit("scripts.yaml", SCRIPTS).wall)
        pool = (self.names, SLOTS)

        def measured(command: list[str]) -> float:
            cost = self.measure(command, numbers)
            self.check(self.folder / peers.OUTPUT / "stdout", SCRIPTS)
            return cost.wall

        def pisa_ssh() -> float:
            self.put_aside(self.folder / peers.OUTPUT)
            return measured(peers.pisa_ssh(self.folder, "script.py", SCRIPTS, *pool))

        def gnu_parallel(*options: str) -> float:
            self.put_aside(self.folder / peers.OUTPUT)
            return measured(peers.gnu_parallel(self.folder, "script.py", *pool, options))

        self.peer(floor, "pisa-ssh", pisa_ssh)
        self.peer(floor, "GNU parallel", gnu_parallel)
        # With -M there is one connection a host for all jobs.
        self.peer(floor, "GNU parallel -M", lambda: gnu_parallel("-M"))

    def preload(self) -> None:
        """Short scripts, and such that import NumPy, by templates, against the same commands run here."""
        venv = Path(sys.prefix)
        self.project.write("numpy_script.py", NUMPY_SCRIPT)
        kinds = {
            "scripts": ({"script": "script.py"}, ["python3", "script.py"], SCRIPTS, 0.6),
            "scripts with NumPy": (
                {"script": "numpy_script.py", "venv": str(venv)},
                ["env", "OPENBLAS_NUM_THREADS=1", str(venv / "bin" / "python"), "numpy_script.py"],
                NUMPY_SCRIPTS,
                0.3,
            ),
        }
        for kind, (jobs, command, count, bar) in kinds.items():
            sweep = {"-n": {"from": 0, "to": count - 1}}
            self.project.jobs({**jobs, "preload": True, "output": "run", "sweep": sweep}, "preload.yaml")
            floor = self.line("preload", f"{count} {kind}: xargs -P2, local", "s")
            ours = self.line("preload", f"{count} {kind}: {OURS}", "s", floor=floor, bar=bar)
            numbers = [str(number) for number in range(count)]
            for _ in self.rounds("preload"):
                floor.series.values.append(
                    self.measure(["xargs", "-P2", "-n1", *command, "-n"], numbers).wall
                )
                ours.series.values.append(self.submit("preload.yaml", count).wall)

    def true(self) -> None:
        """Jobs that do nothing: how many a second, the start of the command included."""
        floor = self.line("true", "xargs -P2, local, sh and a file a job", "jobs/s")
        ours = self.line("true", OURS, "jobs/s", bar=1000, more_is_better=True)
        steady = self.line("true", f"{OURS}, without its start", "jobs/s")
        numbers = [str(number) for number in range(TRUES)]
        self.run_trues()
        for many, one in self.trues:
            (self.folder / "true_out").mkdir(exist_ok=True)
            shell = ["xargs", "-P2", "-I{}", "sh", "-c", "/bin/true -n {} > true_out/{}.out"]
            floor.series.values.append(TRUES / self.measure(shell, numbers).wall)
            ours.series.values.append(TRUES / many.wall)
            steady.series.values.append((TRUES - 1) / (many.wall - one.wall))

    def cpu(self) -> None:
        """Processor time of the head for a job: what many jobs take more than one."""
        line = self.line("cpu", f"{OURS}: head, for a job", "ms", bar=0.5)
        self.run_trues()
        for many, one in self.trues:
            line.series.values.append(1000 * (many.processor - one.processor) / (TRUES - 1))

    def dryrun(self) -> None:
        """Start of the smallest command."""
        jobs = {"script": "script.py", "output": "run", "sweep": {"-n": {"from": 1, "to": 10}}}
        self.project.jobs(jobs, "small.yaml")
        invoke = self.line("dryrun", "inv --version", "s")
        ours = self.line("dryrun", "inv dryrun, 10 jobs", "s", bar=0.3)
        inv = self.program("inv")
        for _ in range(3 * self.repeat):
            invoke.series.values.append(self.measure([inv, "--version"]).wall)
            ours.series.values.append(self.measure([inv, "dryrun", "-j", "small.yaml"]).wall)

    def cut(self) -> None:
        """A host whose cable is pulled: all jobs are done soon all the same."""
        floor = self.line("cut", "xargs -P8, after 2 s -P6, local", "s")
        ours = self.line("cut", OURS, "s", floor=floor, bar=13, bar_is_value=True)
        rerun = self.line("cut", f"{OURS}, from the cut to the last rerun", "s")
        try:
            with cut.cut_scene(self.root / "cut", self.program("inv")) as scene:
                self.say(f"cut: {cut.VICTIM} after {cut.CUT_AFTER:g} s, lease {cut.LEASE} s")
                for _ in self.rounds("cut"):
                    floor.series.values.append(scene.floor())
                    cost = scene.ours()
                    ours.series.values.append(cost.whole)
                    rerun.series.values.append(cost.rerun)
                self.peer(floor, "GNU parallel --timeout 5", scene.gnu_parallel)
        except UnavailableError as error:
            floor.note = str(error)

    def foreign(self) -> None:
        """Somebody else's programs, alone and while jobs run on all cores of their PC."""
        env = {**self.env, "PATH": f"{self.env['PATH']}:/usr/sbin"}
        scene = foreign.ForeignScene(self.project, self.names[0], self.program("inv"), env)
        counts = dict.fromkeys((1, scene.cores))
        names = {count: f"{count} foreign program{'s' * (count > 1)}" for count in counts}
        alone = {count: self.line("foreign", f"{names[count]}, alone", "s") for count in counts}
        beside = {
            count: self.line("foreign", f"{names[count]} beside jobs", "s", floor=alone[count], bar=1.03)
            for count in counts
        }
        waits = {
            count: self.line("foreign", f"of which {names[count]} waited for a core", "%", bar=3.0)
            for count in counts
        }
        wakes = [
            self.line("foreign", f"wakes late, {which}, {where}", "ms")
            for where in ("alone", "beside jobs")
            for which in ("median", "99 %")
        ]
        for number in range(max(self.repeat, foreign.ROUNDS)):
            self.say(f"foreign: round {number + 1}")
            for count in counts:
                alone[count].series.values.append(scene.spin(count)[0])
            self._note_wakes(wakes[:2], scene)
            with scene.jobs():
                for count in counts:
                    seconds, waited = scene.spin(count)
                    beside[count].series.values.append(seconds)
                    waits[count].series.values.append(waited)
                self._note_wakes(wakes[2:], scene)

    def _note_wakes(self, lines: list[Line], scene: foreign.ForeignScene) -> None:
        for line, late in zip(lines, scene.wake(), strict=True):
            line.series.values.append(late)

    # -- how ------------------------------------------------------------------------------------------------

    def line(self, row: str, name: str, unit: str, **more: object) -> Line:
        """Add a line to the table."""
        line = Line(row, name, unit, **more)  # type: ignore[arg-type]
        self.lines.append(line)
        return line

    def rounds(self, row: str) -> Iterator[int]:
        """Count the rounds, and say so."""
        for number in range(self.repeat):
            self.say(f"{row}: round {number + 1} of {self.repeat}")
            yield number

    def measure(self, command: list[str], given: list[str] | None = None) -> Cost:
        """Run a command in the project."""
        return measure(command, self.folder, self.env, given or ())

    def program(self, name: str) -> str:
        """Give a program of this interpreter's environment."""
        return str(Path(sys.executable).parent / name)

    def submit(self, jobs: str, expected: int) -> Cost:
        """Submit a batch from the beginning. Raises BrokenRunError unless every job has its output."""
        self.put_aside(self.folder / "run")
        cost = self.measure([self.program("inv"), "submit", "-j", jobs, "-c", "hosts.yaml"])
        self.check(self.folder / "run" / "stdout", expected)
        return cost

    def put_aside(self, folder: Path) -> None:
        """Move an output folder out of the way.

        Not deleted: for seconds afterwards ext4 searches long for an inode that was not just deleted, and the
        next one to create files would pay for it.
        """
        if folder.exists():
            self.old += 1
            folder.rename(self.folder / f"old-{self.old}")

    def check(self, folder: Path, expected: int) -> None:
        """Raise BrokenRunError unless every job has its output."""
        found = len(list(folder.glob("*.out")))
        if found != expected:
            raise BrokenRunError(f"{found} of {expected} outputs are there")

    def run_trues(self) -> None:
        """Submit many jobs that do nothing, and one, for both rows that want to know."""
        if self.trues:
            return
        for jobs, name in ((TRUES, "many.yaml"), (1, "one.yaml")):
            sweep = {"-n": {"from": 1, "to": jobs}}
            self.project.jobs({"command": ["/bin/true"], "output": "run", "sweep": sweep}, name)
        for _ in self.rounds("true"):
            self.trues.append((self.submit("many.yaml", TRUES), self.submit("one.yaml", 1)))

    def peer(self, floor: Line, name: str, run: Callable[[], float]) -> None:
        """Measure another program once, in the floor's row, or note why it cannot be."""
        line = self.line(floor.row, name, "s", floor=floor)
        self.say(f"{floor.row}: {name}, once")
        try:
            line.series.values.append(run())
        except (peers.NoPeerError, BrokenRunError) as error:
            line.note = str(error)


def machine() -> dict[str, object]:
    """Say where this is measured, and how busy it is (load average of the last minute)."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2),
    }


@contextmanager
def scene(repeat: int, say: Callable[[str], None]) -> Iterator[Bench]:
    """Give a bench in a folder that is removed afterwards, when every process of its hosts has ended."""
    with tempfile.TemporaryDirectory(prefix="pisa-fab-bench.") as folder:
        bench = Bench(Path(folder), repeat, say)
        try:
            yield bench
        finally:
            bench.hosts.crash()


def show(bench: Bench, facts: Mapping[str, object], console: Console) -> None:
    """Print the table."""
    pool = f"{HOSTS} hosts x {SLOTS} slots (cut: {cut.HOSTS} x {cut.SLOTS})"
    title = f"medians, {pool}, {facts['cores']} cores, Python {facts['python']}"
    table = Table("row", "what", "value", "x floor", "bar", "runs", "", title=title)
    last = ""
    for line in bench.lines:
        if last and line.row != last:
            table.add_section()
        last = line.row
        table.add_row(*line.cells())
    console.print(table)


def main() -> int:
    """Measure what the command line asks for; exit code 1 where something could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=ROWS, help="one row")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    parser.add_argument("--repeat", type=int, default=3, help="how often; the medians count")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    facts = machine()
    print(f"load before the start: {facts['load']} (numbers of a busy machine say little)", file=sys.stderr)
    code = 0
    try:
        with scene(max(1, options.repeat), lambda text: print(text, file=sys.stderr, flush=True)) as bench:
            for row in [options.only] if options.only else ROWS:
                try:
                    if row != "cut":
                        bench.prepare()
                    getattr(bench, row)()
                except BrokenRunError as error:
                    print(f"{row}: {error}", file=sys.stderr)
                    code = 1
            show(bench, facts, console)
    except (UnavailableError, peers.NoPeerError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        rows = [line.as_json() for line in bench.lines]
        options.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
