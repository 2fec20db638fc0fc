"""The heads of a soak: `inv submit` on one PC or another, one after the other, killed and stopped from here.

The timeline says when there surely was none.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from namespaces import NamespacePool
from pcs import Pc, status_of
from processes import look
from programs import Home, Program, Programs
from soak_job import clock
from verdict import Timeline

REFUSED = 2  # exit code of a head that is not to work
# It is a child of ours that no pool takes with it, so the kernel is to.
SUBMIT = ("setpriv", "--pdeathsig", "KILL", str(Path(sys.executable).parent / "inv"), "submit", "--log")


class Heads:
    """At most one head at work, and now and then a second one that must be refused."""

    def __init__(self, pool: NamespacePool, folder: Path, logs: Path) -> None:
        self.pool = pool
        self.folder = folder
        self.logs = logs
        self.timeline = Timeline()
        self.started = 0
        self.pc: Pc = pool.heads[0]
        self.program: Program | None = None
        self._gone_at = clock()  # since when there is none
        logs.mkdir()

    @property
    def running(self) -> bool:
        """Whether a head lives."""
        return self.program is not None and self.program.running()

    @property
    def at_work(self) -> bool:
        """Whether a head lives that has met a host."""
        if self.program is None or not self.running:
            return False
        said = self.program.stdout
        return ": ready, " in said or ": back, " in said

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.pc.name}, the {self.started}. one"

    def start(self, name: str) -> None:
        """Submit on a PC."""
        assert not self.running
        self.pc = next(pc for pc in self.pool.heads if pc.name == name)
        self.timeline.headless.append((self._gone_at, clock()))
        self.program = self._submit(name)

    def _submit(self, name: str) -> Program:
        self.started += 1
        home = Home(self.pool.home, self.pool.environment)
        logs = self.logs / f"{self.started:03d}-{name}"
        return Programs(home, self.folder, logs, prefix=self.pool.prefix(name)).start(*SUBMIT)

    def gone(self) -> None:
        """Take note that there is no head any more."""
        assert self.program is not None
        self.program.process.wait()
        self._gone_at = clock()

    def kill(self) -> None:
        """End the head as a power cut would."""
        if self.program is not None and self.running:
            self.program.kill()
            self._gone_at = clock()

    def freeze(self) -> Callable[[], None]:
        """Stop the head, and give what lets it go on."""
        assert self.program is not None
        process = look(self.program.process.pid)
        assert process is not None
        process.send(signal.SIGSTOP)
        began = clock()

        def wake() -> None:
            self.timeline.headless.append((began, clock()))
            process.send(signal.SIGCONT)

        return wake

    def hang_up(self) -> None:
        """Send SIGHUP to a head that is far enough to catch it; before, it ends any program."""
        process = look(self.program.process.pid) if self.program is not None else None
        if process is None:
            return
        caught = status_of(process, "SigCgt")
        if caught and int(caught[0], 16) >> (signal.SIGHUP - 1) & 1:
            process.send(signal.SIGHUP)

    def start_second(self, name: str) -> Callable[[], None]:
        """Submit beside the head that is at work, and give what waits for the refusal."""
        program = self._submit(name)

        def wait() -> None:
            done = program.wait()
            refused = done.returncode == REFUSED and "is being run by" in done.stderr
            # The other head may have come to its end meanwhile.
            assert refused or (done.returncode == 0 and "nothing left to run" in done.stdout), (
                f"a second submit was not refused: {done.said}"
            )

        return wait

    def close(self) -> None:
        """End the head, if there is one."""
        self.kill()
