"""The conversations with one worker: starting it, framing, and two threads that never wait for the head.

`Link` is what the head sees of a host, whatever carries the bytes: `serve` runs in a thread of the pool and
puts what it learns into the inbox, `send` gives the worker messages and never blocks. A conversation that is
over leaves the link there: `call` begins another, with the same worker if it still lives. When to do that is
`contact`'s business. `LocalLink` uses pipes to a worker on this machine; the one over SSH is in `pool`. What
the messages mean is not known here.
"""

from __future__ import annotations

import hashlib
import marshal
import secrets
import shlex
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER, find_spec
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from pisa_fab.contact import Trouble
from pisa_fab.light import dumps, loads
from pisa_fab.place import MARKER, SWEPT, UNKNOWN

Message = dict[str, Any]

STDERR_BYTES = 2000  # how much of a worker's own complaint is kept
SIGN = MARKER.encode("ascii") + b" "

LOCAL_EXIT_TIMEOUT = 2.0  # seconds for the end of a worker's process after that of its output

# What an exit status says of the worker, where nothing else is said.
ENDINGS = {
    None: "connection lost",
    0: "the worker left",
    SWEPT: "the worker was killed",
    UNKNOWN: "connection lost",
}


@dataclass(frozen=True, slots=True)
class Said:
    """A worker sent these messages."""

    host: str
    messages: list[Message]


@dataclass(frozen=True, slots=True)
class Closed:
    """A conversation is over.

    Attributes:
        host, reason: which, and why in one line.
        ended: whether the worker was seen to end, so that no job of it runs any more.
        trouble: what helps against it.
        final: whether this link cannot be used again.
    """

    host: str
    reason: str
    ended: bool = False
    trouble: Trouble = Trouble.BROKEN
    final: bool = False


@dataclass(frozen=True, slots=True)
class Wake:
    """Nothing happened, but the head should look around: a signal came."""


Inbox = SimpleQueue[Said | Closed | Wake]


class LinkError(Exception):
    """A link could not be made; the message is the reason in one line, `trouble` what helps against it."""

    def __init__(self, reason: str, trouble: Trouble) -> None:
        super().__init__(reason)
        self.trouble = trouble


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
    server_key: str = ""  # the kind of key the host has shown, as in known_hosts; "" while it has not
    accepted: str = ""  # what to tell the person of a key that was accepted and saved by this link, or ""
    stopped_because: str = ""
    outbox: SimpleQueue[bytes | None] = SimpleQueue()  # each instance makes its own, for each conversation
    orders: SimpleQueue[bool] = SimpleQueue()  # each instance makes its own; whether to hold another one

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

    def call(self, messages: list[Message]) -> None:
        """Begin a conversation with these messages, when there is none. Never blocks."""
        self.stopped_because = ""
        self.outbox = SimpleQueue()
        self.send(messages)
        self.orders.put(True)

    def send(self, messages: list[Message]) -> None:
        """Give the worker messages. Never blocks; what is said while there is no conversation is lost."""
        if messages:
            self.outbox.put(b"".join([dumps(message) + b"\n" for message in messages]))

    def abort(self, reason: str) -> None:
        """Give the conversation up: it ends with this reason."""
        self.stopped_because = self.stopped_because or reason
        self.disconnect()

    def retire(self) -> None:
        """Let `serve` return, as soon as the conversation is over. Never blocks."""
        self.orders.put(False)

    # -- the thread of the pool -------------------------------------------------------------------------

    def visit(self, visitor: Callable[[Link], None]) -> None:
        """Let somebody else hold a conversation, who uses `connect` and `disconnect`."""
        visitor(self)

    def serve(self, inbox: Inbox) -> None:
        """Hold conversations when told to, pass on what workers say, end each with `Closed`."""
        while self.orders.get():
            closed = Closed(
                self.name,
                "a mistake in pisa_fab, whose traceback is shown",
                trouble=Trouble.PERSON,
                final=True,
            )
            try:
                closed = self.converse(inbox)
            except LinkError as error:
                closed = Closed(self.name, str(error), trouble=error.trouble)
            except (OSError, EOFError) as error:
                closed = Closed(self.name, str(error) or type(error).__name__)
            finally:
                self.outbox.put(None)
                self.disconnect()
                if self.stopped_because:
                    closed = replace(closed, reason=self.stopped_because)
                inbox.put(closed)

    def converse(self, inbox: Inbox) -> Closed:
        """Hold one conversation, and say how it ended."""
        token = secrets.token_hex(8)
        outbox = self.outbox
        stream = self.connect(worker_command(self.python(), token))
        data = start_program(stream, worker_source(), SIGN + token.encode("ascii") + b"\n", self.python())
        writer = Thread(target=write, args=(stream, outbox), name=f"pisa_fab-{self.name}-writer", daemon=True)
        writer.start()
        rest = b""
        while True:
            *lines, rest = (rest + data).split(b"\n")
            if lines:
                inbox.put(Said(self.name, [loads(line) for line in lines]))
            data = stream.receive()
            if not data:
                break
        status = stream.exit_status()
        complaint = stream.complaint()
        ending = ENDINGS.get(status, f"the worker ended with status {status}")
        reason = complaint.splitlines()[-1] if complaint else ending
        return Closed(self.name, reason, ended=status in (0, SWEPT))


def write(stream: Stream, outbox: SimpleQueue[bytes | None]) -> None:
    """Send what the head puts into the outbox of a conversation, in as few pieces as it comes."""
    while (data := outbox.get()) is not None:
        try:
            stream.send(data)
        except (OSError, EOFError):
            return  # the reading thread sees the end of the same stream and reports it


class LocalLink(Link):
    """A worker on this machine, over pipes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outbox = SimpleQueue()
        self.orders = SimpleQueue()
        self.stream: PipeStream | None = None

    def python(self) -> str:
        """Give this interpreter."""
        return sys.executable

    def connect(self, command: str) -> Stream:
        """Start the worker in a session of its own, so that Ctrl-C reaches the head alone."""
        self.stream = PipeStream(shlex.split(command.removeprefix("exec ")))
        return self.stream

    def disconnect(self) -> None:
        """Close the worker's input, which ends the conversation."""
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
        """Give the worker's exit status; None if it goes on after the end of the conversation."""
        self.stdout.close()
        try:
            return self.process.wait(LOCAL_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            return None

    def complaint(self) -> str:
        """Give the end of what it wrote to standard error."""
        self.stderr.seek(0)
        return self.stderr.read()[-STDERR_BYTES:].decode("utf-8", "replace").strip()


class Dialogue:
    """A conversation in which one side speaks and waits for the answer: for programs that are no workers."""

    def __init__(self, stream: Stream, data: bytes) -> None:
        """Go on where `start_program` has left the stream; `data` is what it gave."""
        self.stream = stream
        *self.lines, self.rest = data.split(b"\n")

    def say(self, message: Message) -> None:
        """Send a message; may block. Raises OSError."""
        self.stream.send(dumps(message) + b"\n")

    def hear(self) -> Message:
        """Wait for the next message. Raises EOFError and OSError."""
        while not self.lines:
            data = self.stream.receive()
            if not data:
                raise EOFError("connection lost")
            *self.lines, self.rest = (self.rest + data).split(b"\n")
        message: Message = loads(self.lines.pop(0))
        return message


# What the worker imports of this package, each after what it imports itself.
BAGGAGE = (
    "light",
    "processes",
    "lease",
    "place",
    "premises",
    "execution",
    "launcher",
    "template",
    "bounds",
    "desk",
    "presence",
    "restraint",
    "notes",
    "leftovers",
    "workload",
    "caretaker",
)
# Reads a parcel of so many bytes from standard input, makes modules of what is in it, and becomes the last.
# Compiled code spares every host some 50 ms, where its Python is that of the head; what is not needed of both
# is not even unpacked, and garbage is not looked for meanwhile.
UNPACK = """
import gc, marshal, sys, zlib
gc.disable()
magic, codes, texts = marshal.loads(sys.stdin.buffer.read(%d))
is_mine = magic == sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
package = sys.modules["pisa_fab"] = type(sys)("pisa_fab")
package.__path__ = []
for name, code in marshal.loads(zlib.decompress(codes if is_mine else texts)):
    code = marshal.loads(code) if is_mine else compile(code, "pisa_fab/" + name + ".py", "exec")
    if name == "worker":
        gc.enable()
        exec(code, {"__name__": "__main__"})
    module = sys.modules["pisa_fab." + name] = type(sys)("pisa_fab." + name)
    setattr(package, name, module)
    exec(code, module.__dict__)
"""
MARSHAL_VERSION = 2  # which every Python can read


def worker_loaders() -> Iterator[tuple[str, SourceFileLoader]]:
    """Give the worker and what it imports, the worker last: names, and what has texts and code of each."""
    for name in (*BAGGAGE, "worker"):
        spec = find_spec(f"pisa_fab.{name}")
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            raise ImportError(f"pisa_fab.{name} is not there as a file of Python")
        yield name, spec.loader


@cache
def worker_texts() -> list[tuple[str, bytes]]:
    """Give the sources of the worker and of what it imports: names and texts, the worker last."""
    return [(name, loader.get_data(loader.path)) for name, loader in worker_loaders()]


@cache
def worker_parts() -> tuple[bytes, bytes]:
    """Give the program that every host gets: what unpacks, and the parcel with the worker in it."""
    codes = [(name, marshal.dumps(loader.get_code(loader.name))) for name, loader in worker_loaders()]
    packed = [zlib.compress(marshal.dumps(parts, MARSHAL_VERSION)) for parts in (codes, worker_texts())]
    data = marshal.dumps((MAGIC_NUMBER, *packed), MARSHAL_VERSION)
    return (UNPACK % len(data)).encode("ascii"), data


def worker_source() -> bytes:
    """Give all that a worker reads from standard input before it speaks."""
    return b"".join(worker_parts())


@cache
def worker_digest() -> str:
    """Give what tells this worker from those of other versions."""
    return hashlib.sha256(repr(worker_texts()).encode("ascii")).hexdigest()


def worker_command(python: str, token: str) -> str:
    """Give the command line of a worker, which then reads `worker_source`."""
    return bootstrap(python, len(worker_parts()[0]), token)


def bootstrap(python: str, size: int, token: str, program: str = "worker") -> str:
    """Give the command line that reads a program of `size` bytes from standard input and becomes it.

    One line, single-quoted, with nothing in it that bash, dash, csh or fish read in different ways. Isolated
    and without `site`, so that no module of the host's user is imported in the worker's place.
    """
    source = (
        f"import sys;s=sys.stdin.buffer.read({size});"
        f'exec(compile(s,"pisa_fab/{program}.py","exec"),{{"__name__":"__main__"}})'
    )
    return f"exec {shlex.quote(python)} -I -S -c '{source}' {token}"


def start_program(stream: Stream, source: bytes, marker: bytes, python: str) -> bytes:
    """Send what a program reads, and give what follows its first line. Raises LinkError and OSError."""
    with suppress(OSError, EOFError):  # whoever has ended already has said why
        stream.send(source)
    data = skip_greeting(stream, marker)
    if data is None:
        raise explain_no_worker(stream, python)
    return data


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


def explain_no_worker(stream: Stream, python: str) -> LinkError:
    """Say why no worker answered, from what came instead."""
    complaint = stream.complaint()
    status = stream.exit_status()
    if status is None:
        return LinkError("connection lost before the worker had started", Trouble.AWAY)
    if status == 127:
        reason = f"no {python} on this host; name one with python: in the cluster file"
        return LinkError(reason, Trouble.PERSON)
    last = complaint.splitlines()[-1] if complaint else "nothing was said"
    return LinkError(f"the worker did not start ({last})", Trouble.PERSON)
