"""The worker's half of preloading: it starts the template, asks it for jobs, and ends it.

Travels to the host with `worker`, so it needs nothing but the standard library of Python 3.8. What goes on in
a template is in `preload`; what is done with a job once it has a process is `worker`'s business.

Nothing here waits: what a template has to say is heard when it has said it. A job that it makes does nothing
before it is let go, so whatever becomes of a template, the jobs that have not been let go can be started
again, or plainly: none is started twice.
"""

from __future__ import annotations

import _socket
import fcntl
import marshal
import os
import struct
import sys

from pisa_fab.launcher import launch
from pisa_fab.light import signal
from pisa_fab.processes import MARK, clock, send

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from typing import Any

    from pisa_fab.execution import Attempt

PARCEL, CHANNEL = 3, 4  # where `preload` finds its archive, and us
ENTRY = "/proc/self/fd/3"
ELF = b"\x7fELF"
MARK_ROOM = 64  # letters that a job's mark may have
TITLE = "(template of pisa_fab)"
LEAST_ROOM, MOST_ROOM = 512, 1 << 14  # bytes for the arguments of jobs, as others see them
PACKET = 1 << 16  # bytes; a longer message goes through a file
MESSAGE_BYTES = 1 << 18
FORK_PATIENCE = 30.0  # seconds for an answer
DEATHS = 3  # how often one that has died is replaced
CHANGES = 5  # how often one is replaced whose modules have changed
# What the loader, Python and C libraries read by themselves; what modules read is known better.
SENSITIVE: tuple[str, ...] = (
    "PYTHON",
    "LD_",
    "LC_",
    "GLIBC_",
    "MALLOC_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "OPENBLAS_",
    "GOTO_",
    "MKL_",
)
SENSITIVE += ("BLIS_", "VECLIB_", "NUMEXPR_", "NUMBA_", "TF_", "XLA_", "CUDA_", "MPL", "POLARS_", "RAYON_")
LOCAL = ("LANG", "LANGUAGE", "TZ")


class Request:
    """A job that a template is to make.

    Attributes:
        out, err: descriptors of its files.
        gate: the end of a pipe through which it is let go; -1 while the template has not been asked.
        asked_at: when it was.
    """

    def __init__(self, attempt: Attempt, environment: dict[str, str], out: int, err: int) -> None:
        self.attempt = attempt
        self.environment = environment
        self.out, self.err = os.dup(out), os.dup(err)
        self.gate = -1
        self.asked_at = 0.0

    def shut(self) -> None:
        """Have what may wait behind the gate end without having done anything."""
        if self.gate >= 0:
            os.close(self.gate)
        self.gate = -1

    def close(self) -> None:
        """Give up what is held for it, but for its gate."""
        os.close(self.out)
        os.close(self.err)


class Template:
    """The template of a host, started when there is a job for it.

    Attributes:
        hopeless: why no job is made by it any more, or "".
        waiting: jobs that are to be made by it, by id.
        news: what the person has not been told yet.
    """

    def __init__(self, order: dict[str, Any], mark: str) -> None:
        import binascii
        import zlib

        self.wanted: bool | list[str] = order["modules"]
        self.parcel = zlib.decompress(binascii.a2b_base64(order["parcel"]))
        self.patience: float = order["patience"]
        self.idle: float = order["idle"]
        self.own_mark = (mark + "/template").ljust(MARK_ROOM, "-")
        self.hopeless = "" if sys.platform == "linux" else "this is not Linux"
        self.waiting: dict[tuple[int, int], Request] = {}
        self.news: list[str] = []
        self.told: set[str] = set()
        self.gates: dict[tuple[int, int], int] = {}  # of jobs that have a process and were not let go
        self.plain: set[tuple[int, int]] = set()  # jobs that are not to be made by it
        self.settled: list[tuple[Attempt, int]] = []
        self.command: list[str] = []  # the words that all jobs begin with
        self.folder = -1
        self.pid = 0
        self.channel: _socket.socket | None = None
        self.is_ready = False
        self.began = self.used_at = 0.0
        self.environment: dict[str, str] = {}
        self.names: set[str] = set()  # variables that were read while it imported
        self.deaths = self.changes = 0
        self.early: set[int] = set()  # children that had ended before they were known

    # -- what the worker asks -------------------------------------------------------------------------------

    def takes(self, attempt: Attempt, program: str, environment: dict[str, str], out: int, err: int) -> bool:
        """Say whether a job will be made by it: `attend` gives its process later, or gives it back.

        `program` is the file of its interpreter; `out` and `err` are its files, which remain the caller's.
        """
        if attempt.id in self.plain:
            self.plain.remove(attempt.id)
            return False
        command = [program, *attempt.argv[:2]]
        self.command = self.command or command
        if not self.hopeless and not is_elf(program):
            self.give_up(f"{program} is a script and not Python itself")
        if self.hopeless or command != self.command or len(attempt.argv) < 2:
            return False
        self.waiting[attempt.id] = Request(attempt, environment, out, err)
        return True

    def readers(self) -> list[Any]:
        """Give what is worth reading."""
        return [] if self.channel is None else [self.channel]

    def deadline(self) -> float | None:
        """Give when something has to be done about it, None for never."""
        if self.settled or self.news or (self.waiting and (self.channel is None or self.hopeless)):
            return 0.0
        if self.channel is None:
            return None
        if not self.is_ready:
            return self.began + self.patience
        asked = [request.asked_at for request in self.waiting.values() if request.gate >= 0]
        if len(asked) < len(self.waiting) and not asked:
            return 0.0
        return min(asked) + FORK_PATIENCE if asked else self.used_at + self.idle

    def attend(self, readable: list[Any]) -> list[tuple[Attempt, int]]:
        """Do what is due; give the jobs that have a process now, and with 0 those to be started plainly."""
        if self.channel is not None and self.channel in readable:
            self.hear()
        now = clock()
        if not self.waiting:
            self.early.clear()
        deadline = self.deadline()
        if self.channel is not None and deadline and now >= deadline:
            if not self.is_ready:
                self.give_up(f"its imports take longer than {self.patience:g} s")
            elif self.waiting:
                self.lose(f"the template has not answered for {FORK_PATIENCE:.0f} s")
            else:
                self.end()
        if self.waiting and not self.hopeless:
            self.ask(now)
        if self.hopeless:
            for request in list(self.waiting.values()):
                self.give_back(request)
        settled, self.settled = self.settled, []
        return settled

    def let_go(self, attempt: Attempt) -> None:
        """Let a job begin."""
        gate = self.gates.pop(attempt.id)
        try:
            os.write(gate, b"!")
        except BrokenPipeError:
            pass  # it has been killed
        os.close(gate)

    def drop(self, attempt: Attempt) -> None:
        """Have a job that was not let go end without having done anything."""
        os.close(self.gates.pop(attempt.id))

    def withdraw(self, ids: list[list[int]] | None = None) -> list[Attempt]:
        """Make these jobs, or all, no more; give those that would have been made."""
        found = [r for r in self.waiting.values() if ids is None or list(r.attempt.id) in ids]
        for request in found:
            del self.waiting[request.attempt.id]
            request.shut()
            request.close()
        return [request.attempt for request in found]

    def marks(self) -> set[str]:
        """Give the marks of processes that are there for it."""
        return {self.own_mark, *(request.attempt.mark for request in self.waiting.values())}

    def ended(self, pid: int) -> None:
        """Note that a child of the worker has ended that was no job it knows: the pid is nobody's now."""
        if pid == self.pid:
            self.pid = 0
        elif any(request.gate >= 0 for request in self.waiting.values()):
            self.early.add(pid)

    def end(self) -> None:
        """End the template; what it was asked for can be asked again."""
        if self.pid:
            send(self.pid, signal.SIGKILL)  # waited for by the worker, as everything that ends
        if self.channel is not None:
            self.channel.close()
        self.channel = None
        self.is_ready = False
        for request in self.waiting.values():
            request.shut()

    # -- the template's process -----------------------------------------------------------------------------

    def start(self, request: Request, folder: int) -> None:
        """Start it, in the place of a job. Raises OSError."""
        import tempfile  # much, and only workers with a template have a use for it

        program, *words = self.command
        self.environment = dict(request.environment)
        self.environment[MARK] = self.own_mark
        path = self.environment.get("PYTHONPATH")
        environment = dict(self.environment, PYTHONPATH=f"{ENTRY}:{path}" if path else ENTRY)
        size = sum(len(os.fsencode(word)) + 1 for word in request.attempt.argv[2:])
        room = min(MOST_ROOM, LEAST_ROOM + 2 * size)
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        held = [theirs.detach()]
        try:
            with tempfile.TemporaryFile() as parcel:
                parcel.write(self.parcel)
                parcel.flush()
                # Above all that is given to it, so that none of this overwrites what is still to be given.
                moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (parcel.fileno(), held[0])]
            held += moved
            for name in (request.attempt.out, request.attempt.err):
                held.append(scratch(name, folder))
            given = [(os.POSIX_SPAWN_DUP2, moved[0], PARCEL), (os.POSIX_SPAWN_DUP2, moved[1], CHANNEL)]
            argv = [*words, TITLE.ljust(room)]
            self.pid = launch(program, argv, environment, held[-2], held[-1], given)
        except OSError:
            ours.close()
            raise
        finally:
            for descriptor in held:
                os.close(descriptor)
        ours.setblocking(False)
        self.channel = ours
        self.is_ready = False
        self.began = clock()
        ours.send(marshal.dumps((self.wanted, path), 2))

    def hear(self) -> None:
        """Take in what the template says."""
        while self.channel is not None:
            try:
                data = self.channel.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.lose("the template has ended")
                return
            kind, *rest = marshal.loads(data)
            if kind == "ready":
                self.is_ready, self.names = True, set(rest[0])
                self.used_at = clock()
            elif kind == "failed":
                self.give_up(rest[0])
            elif kind == "stale":
                self.renew(rest[1])
            else:
                self.settle(kind, *rest)

    def settle(self, kind: str, number: tuple[int, int], value: int) -> None:
        """Take in what became of a job: ("forked", its pid) or ("refused", errno)."""
        self.used_at = clock()
        request = self.waiting.get(number)
        if request is None:
            return  # withdrawn, and its gate is shut
        if kind == "refused" or value in self.early:
            self.give_back(request)  # of its process nothing is left, or nothing was made
            return
        del self.waiting[number]
        self.gates[number] = request.gate
        request.close()
        self.settled.append((request.attempt, value))

    def lose(self, why: str) -> None:
        """Do without a template that is gone: start another, or none if that makes no sense."""
        was_ready = self.is_ready
        self.end()
        self.deaths += 1
        if not was_ready:
            self.give_up("Python ends while it imports")
        elif self.deaths > DEATHS:
            self.give_up(f"{why}, again and again")

    def renew(self, what: str) -> None:
        """Do without a template whose modules are no longer what they were."""
        self.end()
        self.changes += 1
        if self.changes > CHANGES:
            self.give_up(f"{what} changes again and again")

    def give_up(self, why: str) -> None:
        """Make no more jobs."""
        self.end()
        self.hopeless = why
        self.complain(why)

    def complain(self, why: str) -> None:
        """Have the person told why jobs are started plainly, once."""
        if why not in self.told:
            self.told.add(why)
            script = self.command[2] if len(self.command) > 2 else "preload"
            self.news.append(f"{script} is started without preload: {why}")

    def give_back(self, request: Request) -> None:
        """Have a job started plainly."""
        del self.waiting[request.attempt.id]
        request.shut()
        request.close()
        self.plain.add(request.attempt.id)
        self.settled.append((request.attempt, 0))

    # -- asking ---------------------------------------------------------------------------------------------

    def ask(self, now: float) -> None:
        """Ask for the jobs that wait; start a template first if there is none."""
        if self.channel is None:
            request = next(iter(self.waiting.values()))
            try:
                self.start(request, self.folder)
            except OSError as error:
                self.complain(f"its template cannot be started: {error.strerror}")
                for request in list(self.waiting.values()):
                    self.give_back(request)
        for request in list(self.waiting.values()) if self.is_ready else []:
            if request.gate < 0 and not self.order(request, now):
                return

    def order(self, request: Request, now: float) -> bool:
        """Ask for one job; False if that has to wait."""
        import tempfile  # as in `start`

        changes = self.changes_for(request)
        if changes is None:
            self.give_back(request)
            return True
        attempt = request.attempt
        arguments = [os.fsencode(word) for word in attempt.argv[2:]]
        data = marshal.dumps((attempt.id, arguments, changes, attempt.mark.encode("ascii")), 2)
        reader, request.gate = os.pipe()
        request.asked_at = now
        descriptors = [request.out, request.err, reader]
        try:
            if len(data) > PACKET:
                with tempfile.TemporaryFile() as file:
                    file.write(data)
                    file.flush()
                    return self.transmit(b"-", [file.fileno(), *descriptors])
            return self.transmit(data, descriptors)
        except OSError:
            request.shut()
            return False  # it is busy, or gone, which its end of the channel will say
        finally:
            os.close(reader)

    def transmit(self, data: bytes, descriptors: list[int]) -> bool:
        """Send a message with descriptors. Raises OSError."""
        assert self.channel is not None
        packed = struct.pack(f"{len(descriptors)}i", *descriptors)
        self.channel.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
        return True

    def changes_for(self, request: Request) -> dict[bytes, bytes | None] | None:
        """Give what is to be changed in the template's environment; None if that comes too late for a job."""
        before, after = self.environment, request.environment
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        for name in names:
            is_read = name in self.names and name != MARK
            if is_read or name.startswith(SENSITIVE) or name in LOCAL:
                self.complain(f"{name} differs from job to job, and is read before the script begins")
                return None
        return {os.fsencode(name): os.fsencode(after[name]) if name in after else None for name in names}


def is_elf(path: str) -> bool:
    """Say whether a file is a program by itself: a script might not pass on what a template needs."""
    try:
        with open(path, "rb") as file:
            return file.read(len(ELF)) == ELF
    except OSError:
        return True  # starting it will say what is wrong


def scratch(name: str, folder: int) -> int:
    """Make a file without a name on the disk of the outputs: Python looks how that likes to be written."""
    name += ".template"
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600, dir_fd=folder)
    os.unlink(name, dir_fd=folder)
    return descriptor
