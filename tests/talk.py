"""A conversation with a worker that runs by itself, as the head has one, for tests of the worker.

`Talk` starts it and speaks over its pipes; `Host` is for several conversations one after the other.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pisa_fab import link, processes
from pisa_fab.parcel import template_parcel

DEADLINE = 60.0  # seconds
FOREVER = 1000.0  # seconds
GRACE = 0.3
BOUNDS = {
    "phases": [[0, 1000, 19]],
    "at_edge": "finish",
    "owner": {
        "policy": "ignore",
        "idle": 0.0,
        "quiet": 1.0,
        "give_back": 60.0,
        "load": 1.0,
        "min_free_memory": 0,
    },
}


def preload(modules: object = True, *, patience: float = FOREVER, idle: float = FOREVER) -> dict[str, Any]:
    """Give what a worker is told of its template; `patience` with its imports, and `idle`, are in seconds."""
    return {"modules": modules, "parcel": template_parcel(), "patience": patience, "idle": idle}


class Talk:
    """A worker and the conversation with it.

    `prefix` stands before its command, to bring it elsewhere. `pong` says whether pings are answered while
    something else is waited for.
    """

    def __init__(
        self,
        folder: Path,
        python: str = sys.executable,
        *,
        place: Path | None = None,
        mark: str = "a0b1",
        epoch: int = 1,
        digest: str = "one",
        prefix: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.folder = folder
        self.python = python
        self.seat = {
            "place": None if place is None else str(place),
            "mark": mark,
            "epoch": epoch,
            "digest": digest,
        }
        self.pong = True
        self.pings: list[float] = []
        self.buffer = b""
        command = link.worker_command(python, "token")
        self.process = subprocess.Popen(
            [*prefix, "sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            **options,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(link.worker_source())
        assert self.readline() == b"pisa_fab worker token"

    def readline(self) -> bytes:
        """Give the next line, b"" at the end of the conversation."""
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            assert select.select([output], [], [], DEADLINE)[0], "the worker says nothing"
            piece = os.read(output, 1 << 16)
            if not piece:
                return b""
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def say(self, **message: Any) -> None:
        assert self.process.stdin is not None
        rest = memoryview(json.dumps(message).encode() + b"\n")
        while rest:
            rest = rest[self.process.stdin.write(rest) or 0 :]

    def messages(self) -> Iterator[dict[str, Any]]:
        """Give what the worker says, until the conversation ends."""
        assert self.process.stdin is not None
        deadline = time.monotonic() + DEADLINE
        while line := self.readline():
            assert time.monotonic() < deadline, "the worker does not come to an end"
            message: dict[str, Any] = json.loads(line)
            if message["op"] == "ping":
                self.pings.append(message["at"])
                if self.pong and not self.process.stdin.closed:
                    with suppress(BrokenPipeError):  # said before the conversation was over
                        self.say(op="pong", at=message["at"])
            yield message

    def hear(self, op: str) -> dict[str, Any]:
        for message in self.messages():
            if message["op"] == op:
                return message
        raise AssertionError(f"the conversation ended without {op}")

    def set_up(self, **changes: Any) -> None:
        (self.folder / ".pisa").mkdir(exist_ok=True)
        (self.folder / "attempts").mkdir(exist_ok=True)
        (self.folder / ".pisa" / "nonce").write_text("n0nce")
        message = {
            "op": "setup",
            "workdir": str(self.folder),
            "venv": None,
            "nonce_file": str(self.folder / ".pisa" / "nonce"),
            "nonce": "n0nce",
            "nice": 19,
            "env": {"PISA_HOST": "pc01"},
            "folders": {
                "attempts": str(self.folder / "attempts"),
                "out": str(self.folder),
                "err": str(self.folder),
            },
            "threads": 1,
            "lease": 60.0,
            "lease_grace": GRACE,
            "grace": GRACE,
            "memory": None,
            "preload": None,
            "note": None,
            "facts": {},
            "title": "pisa_fab: jobs for a test",
            "bounds": BOUNDS,
            **self.seat,
        }
        self.say(**{**message, **changes})

    def ready(self, **changes: Any) -> dict[str, Any]:
        self.set_up(**changes)
        return self.hear("ready")

    def run(
        self, *argv: str, job: int = 0, env: dict[str, str] | None = None, timeout: float | None = None
    ) -> None:
        files = [f"{job}.out", f"{job}.err"]
        self.say(
            op="run",
            job=job,
            attempt=1,
            argv=argv,
            env=env or {},
            timeout=timeout,
            files=files,
            published=files,
        )

    def path(self, job: int, stream: str) -> Path:
        return self.folder / "attempts" / f"{job}.{stream}"

    def final(self, job: int, stream: str) -> Path:
        return self.folder / f"{job}.{stream}"

    def outcome(self) -> dict[str, Any]:
        outcome: dict[str, Any] = self.hear("ended")["outcome"]
        return outcome

    def python_job(self, code: str, *arguments: str, **options: Any) -> None:
        self.run(self.python, "-c", code, *arguments, **options)

    def sleeper(self, job: int = 0) -> int:
        """Start a job that does nothing for long, and give its process once it runs."""
        self.run("sh", "-c", "echo $$; exec sleep 1000", job=job)
        return int(wait_for_text(self.path(job, "out")))

    def acknowledge(self, job: int, *, publish: bool = True) -> None:
        self.say(op="ack", ids=[[job, 1, publish]])

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def status(self) -> int:
        """Wait for the end of the process that was started for this conversation."""
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        self.hang_up()
        self.status()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Host:
    """Everything that is started on one host for one run; nothing of it may be left."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder = folder
        self.place = place
        self.talks: list[Talk] = []
        self.mark = os.urandom(8).hex()

    def talk(self, **options: Any) -> Talk:
        options = {"place": self.place, "mark": self.mark, **options}
        self.talks.append(Talk(self.folder, **options))
        return self.talks[-1]

    def marked(self) -> list[int]:
        return [pid for pid in processes.processes() if processes.mark_of(pid).startswith(self.mark + "/")]

    def close(self) -> None:
        """End what the test has left, through a worker that is told to quit."""
        last = self.talk(epoch=1000)
        last.ready()
        last.say(op="quit")
        last.status()
        for conversation in self.talks:
            conversation.close()
        assert self.marked() == []
        assert not self.place.exists()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def wait_until_gone(pid: int) -> None:
    wait_until(lambda: not is_alive(pid), f"process {pid} was left behind")


def wait_for_text(path: Path) -> str:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), f"nothing was written to {path}")
    return path.read_text()
