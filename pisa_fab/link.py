"""The conversation with one worker: starting it, framing, and two threads that never wait for the head.

`Link` is what the head sees of a host, whatever carries the bytes: `serve` runs in a thread of the pool and
puts what it learns into the inbox, `send` gives the worker messages and never blocks. `LocalLink` uses pipes
to a worker on this machine; the one over SSH is in `pool`. What the messages mean is not known here.
"""

from __future__ import annotations

import json
import secrets
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import resources
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from pisa_fab import worker

Message = dict[str, Any]

STDERR_BYTES = 2000  # how much of a worker's own complaint is kept
ENCODE = json.JSONEncoder(separators=(",", ":")).encode
MARKER = worker.MARKER.encode("ascii") + b" "

# What an exit status says of the worker, where nothing else is said.
ENDINGS = {None: "connection lost", 0: "the worker left", worker.SWEPT: "the worker was killed"}


@dataclass(frozen=True, slots=True)
class Said:
    """A worker sent these messages."""

    host: str
    messages: list[Message]


@dataclass(frozen=True, slots=True)
class Closed:
    """A link is over; `orderly` when the worker was seen to leave by itself, with no job running."""

    host: str
    reason: str
    orderly: bool = False


@dataclass(frozen=True, slots=True)
class Wake:
    """Nothing happened, but the head should look around: a signal came."""


Inbox = SimpleQueue[Said | Closed | Wake]


class LinkError(Exception):
    """A link could not be made; the message is the reason in one line."""


class Stream(Protocol):
    """What carries the bytes of one conversation."""

    def receive(self) -> bytes:
        """Wait for bytes; b"" at the end."""

    def send(self, data: bytes) -> None:
        """Send all of it; may block. Raises OSError."""

    def exit_status(self) -> int | None:
        """Give the worker's exit status after the end, None if it is not known."""

    def complaint(self) -> str:
        """Give what the worker, or the shell in its place, wrote to standard error."""


class Link:
    """One host, as the head sees it."""

    # Every attribute has a value in the class, because the SSH link is also a Fabric Connection, which takes
    # any name that the class does not have for a key of its configuration.
    name: str = ""
    stopped_because: str = ""
    outbox: SimpleQueue[bytes | None] = SimpleQueue()  # each instance makes its own

    def connect(self, command: str) -> Stream:
        """Run the command on the host. Raises LinkError."""
        raise NotImplementedError

    def disconnect(self) -> None:
        """Close whatever carries the bytes; wakes every thread that waits for it. Never blocks."""
        raise NotImplementedError

    def python(self) -> str:
        """Give the interpreter that runs the worker."""
        raise NotImplementedError

    # -- called by the head -----------------------------------------------------------------------------

    def send(self, messages: list[Message]) -> None:
        """Give the worker messages. Never blocks."""
        if messages:
            self.outbox.put("".join(ENCODE(message) + "\n" for message in messages).encode("ascii"))

    def abort(self, reason: str) -> None:
        """Give the host up: `serve` ends with this reason."""
        self.stopped_because = self.stopped_because or reason
        self.disconnect()

    # -- the thread of the pool -------------------------------------------------------------------------

    def serve(self, inbox: Inbox) -> None:
        """Start the worker, pass on what it says, and end with `Closed`, whatever happens."""
        orderly, reason = False, "a mistake in pisa_fab, whose traceback is shown"
        try:
            orderly, reason = self.converse(inbox)
        except (LinkError, OSError, EOFError) as error:
            reason = str(error) or type(error).__name__
        finally:
            self.outbox.put(None)
            self.disconnect()
            inbox.put(Closed(self.name, self.stopped_because or reason, orderly))

    def converse(self, inbox: Inbox) -> tuple[bool, str]:
        """Hold the conversation; say whether the worker left in an orderly way, and why it is over."""
        token = secrets.token_hex(8)
        source = worker_source()
        stream = self.connect(bootstrap(self.python(), len(source), token))
        stream.send(source)
        data = skip_greeting(stream, MARKER + token.encode("ascii") + b"\n")
        if data is None:
            return False, explain_no_worker(stream, self.python())
        writer = Thread(target=self.write, args=(stream,), name=f"pisa_fab-{self.name}-writer", daemon=True)
        writer.start()
        rest = b""
        while True:
            *lines, rest = (rest + data).split(b"\n")
            if lines:
                inbox.put(Said(self.name, [json.loads(line) for line in lines]))
            data = stream.receive()
            if not data:
                break
        status = stream.exit_status()
        complaint = stream.complaint()
        ending = ENDINGS.get(status, f"the worker ended with status {status}")
        return status in (0, worker.SWEPT), complaint.splitlines()[-1] if complaint else ending

    def write(self, stream: Stream) -> None:
        """Send what the head has put into the outbox, in as few pieces as it comes."""
        while (data := self.outbox.get()) is not None:
            try:
                stream.send(data)
            except (OSError, EOFError):
                return  # the reading thread sees the end of the same stream and reports it


class LocalLink(Link):
    """A worker on this machine, over pipes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outbox = SimpleQueue()
        self.stream: PipeStream | None = None

    def python(self) -> str:
        """Give this interpreter."""
        return sys.executable

    def connect(self, command: str) -> Stream:
        """Start the worker in a session of its own, so that Ctrl-C reaches the head alone."""
        self.stream = PipeStream(shlex.split(command.removeprefix("exec ")))
        return self.stream

    def disconnect(self) -> None:
        """Close the worker's input; it ends its jobs and leaves, which ends its output."""
        if self.stream is not None:
            self.stream.stdin.close()


class PipeStream:
    """The pipes to a worker on this machine."""

    def __init__(self, argv: list[str]) -> None:
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the stream
        self.process = subprocess.Popen(
            argv,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin = self.process.stdin
        self.stdout = self.process.stdout

    def receive(self) -> bytes:
        """Wait for bytes; b"" at the end."""
        return self.stdout.read(1 << 16)

    def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError."""
        rest = memoryview(data)
        while rest:
            if self.stdin.closed:
                raise BrokenPipeError("the link was closed")
            rest = rest[self.stdin.write(rest) :]

    def exit_status(self) -> int | None:
        """Wait for the worker's end, which the end of its output announced."""
        status = self.process.wait()
        self.stdout.close()
        return status

    def complaint(self) -> str:
        """Give the end of what it wrote to standard error."""
        self.stderr.seek(0)
        return self.stderr.read()[-STDERR_BYTES:].decode("utf-8", "replace").strip()


def worker_source() -> bytes:
    """Give the source of the worker, which every host gets."""
    return resources.files("pisa_fab").joinpath("worker.py").read_bytes()


def bootstrap(python: str, size: int, token: str) -> str:
    """Give the command line that reads a worker of `size` bytes from standard input and becomes it.

    One line, single-quoted, with nothing in it that bash, dash, csh or fish read in different ways. Isolated
    and without `site`, so that no module of the host's user is imported in the worker's place.
    """
    program = (
        f"import sys;s=sys.stdin.buffer.read({size});"
        'exec(compile(s,"pisa_fab/worker.py","exec"),{"__name__":"__main__"})'
    )
    return f"exec {shlex.quote(python)} -I -S -c '{program}' {token}"


def skip_greeting(stream: Stream, marker: bytes) -> bytes | None:
    """Drop everything a login shell prints before the worker's first line; None if that line never comes."""
    data = b""
    while True:
        piece = stream.receive()
        if not piece:
            return None
        data += piece
        place = data.find(marker)
        if place >= 0:
            return data[place + len(marker) :]
        data = data[-len(marker) :]


def explain_no_worker(stream: Stream, python: str) -> str:
    """Say why no worker answered, from what came instead."""
    complaint = stream.complaint()
    status = stream.exit_status()
    if status == 127:
        return f"no {python} on this host; name one with python: in the cluster file"
    last = complaint.splitlines()[-1] if complaint else "nothing was said"
    return f"the worker did not start ({last})"
