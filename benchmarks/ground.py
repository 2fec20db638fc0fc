"""What the rows of the bench stand on: a folder with a project, real hosts on loopback, and how they measure.

Knows no row and no other program; `speed`, `alone`, `cut` and `foreign` have the rows.
"""

from __future__ import annotations

import compileall
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import peers
from lines import Line
from programs import Project
from sshd import Hosts, link_python
from timing import BrokenRunError, Cost, measure

HOSTS, SLOTS = 8, 2


class Ground:
    """A folder with a project and hosts, the lines that were measured on them, and how to measure more."""

    def __init__(
        self, root: Path, repeat: int, say: Callable[[str], None], *, with_peers: bool = True
    ) -> None:
        self.root = root
        self.repeat = repeat
        self.with_peers = with_peers
        self.say = say
        self.home = root / "home"
        self.project = Project(root / "project")
        self.folder = self.project.path
        self.hosts = Hosts(root / "hosts", self.home)
        self.lines: list[Line] = []
        self.trues: list[tuple[Cost, Cost]] = []  # of many jobs and of one, once they have been run
        self.old = 0  # folders put aside
        self.folder.mkdir(parents=True)
        link_python(self.home / "bin")
        self.env = {
            "HOME": str(self.home),
            "PATH": f"{self.home}/bin:{os.environ.get('PATH', os.defpath)}",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }
        # As pip does where it installs a package for good.
        compileall.compile_dir(str(Path(__file__).parents[1] / "pisa_fab"), quiet=2)

    def prepare(self) -> None:
        """Start the hosts and write the project, once. Raises UnavailableError."""
        if self.hosts.hosts:
            return
        self.hosts.start(HOSTS)
        peers.wrap_ssh(self.home / "bin", self.home / ".ssh" / "config")
        self.project.write("tasks.py", "from pisa_fab.tasks import *\n")
        self.project.cluster({"slots": SLOTS, "hosts": self.names, "nice": 19}, "hosts.yaml")

    @property
    def names(self) -> list[str]:
        """The hosts of most rows."""
        return [host.name for host in self.hosts.hosts[:HOSTS]]

    def more_hosts(self, count: int, slots: int) -> str:
        """Have so many hosts in all, and give the cluster file that has them. Raises UnavailableError."""
        self.prepare()
        missing = count - len(self.hosts.hosts)
        if missing > 0:
            self.hosts.start(missing)
        names = [host.name for host in self.hosts.hosts[:count]]
        name = f"hosts-{count}.yaml"
        self.project.cluster({"slots": slots, "hosts": names, "nice": 19}, name)
        return name

    # -- lines ----------------------------------------------------------------------------------------------

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

    def peer(self, floor: Line, name: str, run: Callable[[], float]) -> None:
        """Measure another program once, in the floor's row, or note why it cannot be."""
        if not self.with_peers:
            return
        line = self.line(floor.row, name, floor.unit, floor=floor, more_is_better=floor.more_is_better)
        self.say(f"{floor.row}: {name}, once")
        try:
            line.add(run())
        except (peers.NoPeerError, BrokenRunError) as error:
            line.note = str(error)

    # -- runs -----------------------------------------------------------------------------------------------

    def measure(self, command: Sequence[str], given: Sequence[str] = ()) -> Cost:
        """Run a command in the project."""
        return measure(command, self.folder, self.env, given)

    def program(self, name: str) -> str:
        """Give a program of this interpreter's environment."""
        return str(Path(sys.executable).parent / name)

    def inv(self, words: Sequence[str]) -> Cost:
        """Run `inv` in the project. Raises BrokenRunError unless it ends with 0."""
        return self.measure([self.program("inv"), *words])

    def submit(self, jobs: str, expected: int, cluster: str = "hosts.yaml") -> Cost:
        """Submit a batch from the beginning. Raises BrokenRunError unless every job has its output."""
        self.put_aside(self.folder / "run")
        cost = self.inv(["submit", "-j", jobs, "-c", cluster])
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
        found = len(list(folder.rglob("*.out")))
        if found != expected:
            raise BrokenRunError(f"{found} of {expected} outputs are there")


@contextmanager
def laid(repeat: int, say: Callable[[str], None], *, with_peers: bool) -> Iterator[Ground]:
    """Give a ground in a folder that is removed afterwards, when every process of its hosts has ended."""
    with tempfile.TemporaryDirectory(prefix="pisa-fab-bench.") as folder:
        ground = Ground(Path(folder), repeat, say, with_peers=with_peers)
        try:
            yield ground
        finally:
            ground.hosts.crash()
