"""What somebody else's programs lose while jobs run on all cores of their PC.

Foreign programs run here, each in a session of its own with nothing changed about it, as what a person
starts at the PC does. They are measured beside a batch on a host with as many slots as there are cores, and
alone, which is while the batch's jobs are made to stand still: by turns of about a second, because a virtual
machine may be slower from one minute to the next than what is to be found.

As a program of its own, this file is the foreign program: `spin` does a fixed piece of work and prints the
seconds that took, and how much of that it waited for a core, in percent; `wake` sleeps again and again and
prints by how many milliseconds it was late, the median and the 99th percentile.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

if __name__ != "__main__":  # a foreign program starts with nothing but Python
    from ground import Ground
    from lines import Line
    from processes import wait_for
    from programs import Project
    from timing import BrokenRunError

ROUNDS = 5  # at least
PAIRS = 6  # of turns in a round, alone and beside the jobs
STEPS = 8_000_000  # of a foreign program's work, about half a second
WAKES = 200
WAKE_INTERVAL = 0.01  # seconds
SETTLING = 1.0  # seconds that the jobs run before anything is measured
JOB = """\
import os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()}\\n")
while True:
    pass
"""


class ForeignScene:
    """A project whose batch burns all cores of one host until it is interrupted."""

    def __init__(self, project: Project, host: str, inv: str, env: dict[str, str]) -> None:
        self.folder = project.path
        self.inv = inv
        self.env = env
        self.cores = len(os.sched_getaffinity(0))
        self.runs = 0
        project.write("burn.py", JOB)
        batch = {"script": "burn.py", "output": "burning", "args": "{output}/../mark-{n}"}
        project.jobs(batch | {"sweep": {"n": {"from": 1, "to": self.cores}}}, "burn.yaml")
        project.cluster({"slots": self.cores, "hosts": [host], "nice": 19}, "burn-host.yaml")

    @contextmanager
    def jobs(self) -> Iterator[None]:
        """Have jobs on all cores meanwhile. Raises BrokenRunError if they do not start."""
        self.runs += 1
        for mark in self.folder.glob("mark-*"):
            mark.unlink()
        command = [self.inv, "submit", "-j", "burn.yaml", "-c", "burn-host.yaml"]
        with (self.folder / f"burning-{self.runs}.log").open("w+b") as log:
            head = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                wait_for(lambda: self._all_run(head), "jobs on all cores")
                time.sleep(SETTLING)
                yield
                if head.poll() is not None:
                    raise BrokenRunError(f"the jobs ended while they were needed: see {log.name}")
            finally:
                if head.poll() is None:
                    head.send_signal(signal.SIGINT)
                head.wait()

    def _all_run(self, head: subprocess.Popen[bytes]) -> bool:
        if head.poll() is not None:
            said = (self.folder / f"burning-{self.runs}.log").read_text("utf-8", "replace").splitlines()
            raise BrokenRunError("\n  ".join(["the jobs do not start", *said[-5:]]))
        return len(self._pids()) == self.cores

    def _pids(self) -> list[int]:
        texts = [mark.read_text() for mark in self.folder.glob("mark-*")]
        return [int(text) for text in texts if text.endswith("\n")]

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Have the jobs stand still meanwhile."""
        pids = self._pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def spin(self, programs: int) -> tuple[float, float]:
        """Have so many foreign programs work at once.

        Give the medians of the seconds that takes, and of the share of these that they waited for a core, in
        percent. That share is not moved by a minute in which the machine itself is slow.
        """
        said = [text.split() for text in self._foreign(["spin"], programs)]
        return median(float(seconds) for seconds, _ in said), median(float(waited) for _, waited in said)

    def wake(self) -> tuple[float, float]:
        """Give by how many milliseconds a foreign program wakes late: the median, the 99th percentile."""
        middle, late = self._foreign(["wake"], 1)[0].split()
        return float(middle), float(late)

    def _foreign(self, words: Sequence[str], programs: int) -> list[str]:
        command = [sys.executable, str(Path(__file__).resolve()), *words]
        started = [
            subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, text=True, start_new_session=True)
            for _ in range(programs)
        ]
        said = [process.communicate()[0] for process in started]
        if any(process.returncode != 0 for process in started):
            raise BrokenRunError("a foreign program failed")
        return said


def foreign(ground: Ground) -> None:
    """Somebody else's programs, alone and while jobs run on all cores of their PC."""
    env = {**ground.env, "PATH": f"{ground.env['PATH']}:/usr/sbin"}
    scene = ForeignScene(ground.project, ground.names[0], ground.program("inv"), env)
    counts = dict.fromkeys((1, scene.cores))
    names = {count: f"{count} foreign program{'s' * (count > 1)}" for count in counts}
    alone = {count: ground.line("foreign", f"{names[count]}, alone", "s") for count in counts}
    beside = {
        count: ground.line("foreign", f"{names[count]} beside jobs", "s", floor=alone[count], bar=1.03)
        for count in counts
    }
    waits = {
        count: ground.line("foreign", f"of which {names[count]} waited for a core", "%", bar=3.0)
        for count in counts
    }
    wakes = [
        ground.line("foreign", f"wakes late, {which}, {where}", "ms")
        for where in ("alone", "beside jobs")
        for which in ("median", "99 %")
    ]
    for number in range(max(ground.repeat, ROUNDS)):
        ground.say(f"foreign: round {number + 1}")
        with scene.jobs():
            for count in counts:
                for pair in range(PAIRS):
                    for is_alone in (True, False) if pair % 2 else (False, True):
                        _note_spin(scene, count, alone[count] if is_alone else beside[count], waits[count])
            with scene.standing_still():
                _note_wakes(wakes[:2], scene)
            _note_wakes(wakes[2:], scene)


def _note_spin(scene: ForeignScene, count: int, line: Line, waits: Line) -> None:
    if line.floor is None:
        with scene.standing_still():
            line.add(scene.spin(count)[0])
        return
    seconds, waited = scene.spin(count)
    line.add(seconds)
    waits.add(waited)


def _note_wakes(lines: Sequence[Line], scene: ForeignScene) -> None:
    for line, late in zip(lines, scene.wake(), strict=True):
        line.add(late)


def spin() -> tuple[float, float]:
    """Do the work; give the seconds that took, and the percentage of them in which no core was to be had."""
    began, used = time.perf_counter(), time.process_time()
    total = 0
    for step in range(STEPS):
        total += step * step & 7
    seconds = time.perf_counter() - began
    return seconds, 100 * (1 - (time.process_time() - used) / seconds)


def wake() -> list[float]:
    """Sleep again and again; give by how many milliseconds each sleep was too long, the least first."""
    late = []
    for _ in range(WAKES):
        due = time.perf_counter() + WAKE_INTERVAL
        time.sleep(WAKE_INTERVAL)
        late.append(1000 * (time.perf_counter() - due))
    return sorted(late)


if __name__ == "__main__":
    if sys.argv[1] == "spin":
        print(*spin())
    else:
        moments = wake()
        print(median(moments), moments[len(moments) * 99 // 100])
