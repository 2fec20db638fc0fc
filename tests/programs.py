"""What a user does, for tests: a project of their own, and the real programs run in it."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from processes import wait_for

TIMEOUT = 300.0  # seconds; for a program that hangs, far from what a busy machine needs
Content = str | Mapping[str, object]
# The hosts of the tests are all this one machine: it is busy, people are logged in, some homes are tiny, and
# jobs that stand back behind all the other tests would be late for whatever is waited for.
AT_HOME: Mapping[str, object] = {"owner": "ignore", "min_free_memory": 0, "min_free_space": 0, "nice": 0}


@dataclass(frozen=True)
class Home:
    """A home folder and the environment of whoever lives there."""

    path: Path
    env: dict[str, str]


@dataclass(frozen=True)
class Project:
    """A stranger's project: a folder with a tasks.py that has nothing but our tasks."""

    path: Path

    def write(self, name: str, content: Content) -> Path:
        """Write a file: text as it is, anything else as YAML."""
        text = content if isinstance(content, str) else yaml.safe_dump(dict(content), sort_keys=False)
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def jobs(self, content: Content, name: str = "jobs.yaml") -> Path:
        """Write a jobs file."""
        return self.write(name, content)

    def cluster(self, content: Content, name: str = "cluster.yaml") -> Path:
        """Write a cluster file; beside jobs.yaml this one is taken without being named.

        Where a mapping does not say otherwise, its hosts stand back for nobody and keep nothing free.
        """
        if isinstance(content, Mapping):
            content = {**content, **{key: value for key, value in AT_HOME.items() if key not in content}}
        return self.write(name, content)

    def pool(self, hosts: Sequence[object], slots: int = 2, **settings: object) -> Path:
        """Write a cluster file with these hosts (anything with a `name`)."""
        names = [getattr(host, "name", host) for host in hosts]
        return self.cluster({"slots": slots, "hosts": names, **settings})

    def table(self, name: str) -> list[dict[str, str]]:
        """Read a CSV file of the project."""
        with (self.path / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@dataclass(frozen=True)
class Completed:
    """A program that has ended: `returncode` is negative where a signal ended it, as in subprocess."""

    args: Sequence[str]
    returncode: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """All that it printed, for messages of failed assertions and for what may stand on either stream."""
        return f"$ {' '.join(self.args)} -> {self.returncode}\n{self.stdout}{self.stderr}"


@dataclass
class Program:
    """A program that runs in the background, in a session of its own, its output in files."""

    args: Sequence[str]
    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self.out.read_text("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """What it has printed to standard error so far."""
        return self.err.read_text("utf-8", "replace")

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def wait_for_output(self, text: str, times: int = 1) -> None:
        """Wait until it has printed a text on either stream, so often; fail at once if it ends without."""

        def printed() -> bool:
            ended = not self.running()  # asked first: what it printed last is there by then
            if self.stdout.count(text) + self.stderr.count(text) >= times:
                return True
            assert not ended, f"it ended without printing {text!r}: {self.stdout}{self.stderr}"
            return False

        wait_for(printed, f"{text!r} from {' '.join(self.args)}")

    def interrupt(self) -> None:
        """Press Ctrl-C: SIGINT to everything in its session."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL to it, and to nothing else."""
        self.process.kill()
        self.process.wait()

    def wait(self, timeout: float = TIMEOUT) -> Completed:
        """Wait for its end and give what became of it."""
        code = self.process.wait(timeout)
        return Completed(self.args, code, self.stdout, self.stderr)


@dataclass
class Programs:
    """Runs `inv`, `fab` and `pisa-fab` of this interpreter's environment, and whatever else is in PATH."""

    home: Home
    folder: Path  # where programs start, unless told otherwise
    logs: Path
    started: list[Program] = field(default_factory=list)
    prefix: Sequence[str] = ()  # what stands before each command, as one that brings it to another PC

    def run(
        self,
        name: str,
        *args: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = TIMEOUT,
    ) -> Completed:
        """Run a program to its end; `env` is added to the home's. Raises subprocess.TimeoutExpired."""
        argv = self._argv(name, args)
        done = subprocess.run(
            argv,
            cwd=cwd or self.folder,
            env={**self.home.env, **(env or {})},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )
        return Completed(argv, done.returncode, done.stdout, done.stderr)

    def start(
        self, name: str, *args: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Program:
        """Start a program in the background; it is ended with the test at the latest."""
        argv = self._argv(name, args)
        self.logs.mkdir(exist_ok=True)
        out, err = (self.logs / f"{len(self.started)}.{kind}" for kind in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                argv,
                cwd=cwd or self.folder,
                env={**self.home.env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        program = Program(argv, process, out, err)
        self.started.append(program)
        return program

    def close(self) -> None:
        """End what still runs: asked first, made to after ten seconds."""
        running = [program for program in self.started if program.running()]
        for program in running:
            program.process.terminate()
        for program in running:
            try:
                program.process.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()

    def _argv(self, name: str, args: Sequence[str | Path]) -> list[str]:
        own = Path(sys.executable).parent / name  # not resolved: a venv's python is a link out of it
        return [*self.prefix, str(own) if own.exists() else name, *map(str, args)]
