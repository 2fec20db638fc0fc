"""The program on the host: it starts jobs, watches them, reports how they ended, and leaves nothing behind.

One file, standard library only, Python 3.8 or newer: the head sends this source over the SSH channel and it
is run from there, so that nothing has to be installed on a host and both ends always have the same version.
It decides nothing about a batch: which job runs where and whose result counts is the head's business. It
knows no file names of the run directory: they come with each message.

Two processes: the worker, and above it a guardian that does nothing but wait for the worker's end, whatever
that is, and then ends everything that it leaves. Both adopt what loses its parent below them (a "subreaper"
of Linux), so a job's grandchild is found although it has left its session.

The conversation is one JSON object a line. From the head:

    setup    the first, once a conversation. workdir, venv, nonce and the file that holds it, nice, threads,
             env, folders: of the attempts' files and of published outputs (out, err); lease, grace and
             lease_grace (seconds: between SIGTERM and SIGKILL of a job, by order and when the lease is over);
             place (a folder on the host's own disk, or null), digest (of this source), epoch (how many heads
             the run directory has had), mark (tells jobs of this run on this host from all others)
    run      job, attempt, argv, env, timeout (seconds or null), the names of two files, out and err: `files`
             while it runs, `published` when it counts
    ack      ids: [[job, attempt, publish], ...]: these results are in the journal
    pong     at: the number of the `ping` that this answers
    stop     end every running job, or with ids: [[job, attempt], ...] these alone
    quit     end every running job and leave

From the worker: `ready` (python, cores, pid, machine, resumed, holds: [[job, attempt], ...]), `unusable`
(reason) or `superseded`, once; `ended` (job, attempt, outcome), again in every new conversation until it is
acknowledged; `published` (ids, with the next message); `ping` (at); `notice` (text for the person); `bye`,
the last one. Nothing here ever blocks on the head: what it does not read is kept.

The lease. The worker says what its clock shows (`ping`), the head sends that number back. What counts is when
the worker sent what was answered, so an answer that was delayed on its way renews nothing. When a lease has
passed since, the worker ends its jobs and leaves; that the head then has none is what the head relies on.

Reattachment. A worker that has a place does not leave when its conversation ends and it has jobs or results
that nobody has acknowledged: it goes on until the lease is over. Its place is a folder that only this user
can enter, locked by worker and guardian for as long as either lives, with a socket that the worker listens
to. The next worker that is started finds the place locked, hands its conversation, as two descriptors, to
the earlier one, and becomes a relay: it holds nothing and waits, to end with the earlier one's exit status.

    guardian   the lock; the write end of a pipe, into which it writes the exit status as its last act
    worker     the lock, the socket, the conversation, the relay's connection, the read end of that pipe
    relay      its connection to the worker, a copy of that read end

Exit status 0 and SWEPT say that no worker of this run lives here any more. Whoever ends without knowing that,
such as a relay whose conversation was dropped, ends with UNKNOWN.
"""

from __future__ import annotations

import _socket  # `socket` itself takes four times as long to import, on every host at every start
import errno
import fcntl
import json
import os
import platform
import select
import shutil
import signal
import stat
import struct
import sys
import time

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    import resource
    from typing import Any, Callable

MARK = "PISA_MARK"  # the variable in the environment of a job's processes that says whose they are
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
SWEPT = 75  # exit status of a guardian whose worker was killed: its jobs have been ended
UNKNOWN = 76  # exit status of a process that cannot say whether the worker has ended
MARKER = "pisa_fab worker"  # the head skips everything before this and the token behind it
SOCKET = "socket"  # its name in the worker's place
TAIL_BYTES = 4096
TAIL_LINES = 8
MESSAGE_BYTES = 1 << 20  # the most that is read at once
FAREWELL_PATIENCE = 5.0  # seconds that a head may take to read the last words
VISIBLE_PATIENCE = 5.0  # seconds for a new file to show on a network home
VISIBLE_INTERVAL = 0.2
KNOCK_PATIENCE = 5.0  # seconds that an earlier worker may take to answer before it counts as frozen
KNOCK_SHARE = 0.25  # of a lease; no longer than that, for its jobs must have ended before they run elsewhere
CLAIM_PATIENCE = 15.0  # seconds, beside the grace of its jobs, that an earlier worker may take to end
CLAIM_INTERVAL = 0.02
STRAY_PATIENCE = 10.0  # seconds for killed processes of an earlier worker to end
PINGS_PER_LEASE = 8
LONGEST_WAIT = 1.0  # seconds; select counts no time asleep, so a suspended machine is noticed this much later
KILL_INTERVAL = 1.0  # seconds between two attempts to kill what does not end
HOLD_PATIENCE = 2.0  # seconds that processes may take to stand still before they are killed
HOLD_INTERVAL = 0.005  # seconds between two looks whether they do
SWEEPS = 3  # further looks at processes that cannot be told whose they are
SWEEP_INTERVAL = 0.3  # seconds between them
CALLERS = 8  # connections to the place that may be silent; then the oldest is dropped
SLICE_NANOSECONDS = 100_000_000  # the longest that Linux grants
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # numbers of a system call that Python does not wrap
# The host, not the job, is why a process was not started.
REFUSALS = {errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE}
REFUSALS |= {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}
# What numeric libraries ask for the size of their thread pools.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def clock() -> float:
    """Give seconds on a monotonic clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def take_long_slices() -> None:
    """Ask for few, long turns of the processor, for this process and all that it starts.

    A scheduler that knows the length of turns (EEVDF, Linux 6.12) lets programs with short ones go first,
    which is what people sit in front of. And jobs that share a core throw each other out of its caches less
    often (docs/performance.md). Where it is not known nothing changes.
    """
    call = SCHED_SETATTR.get(platform.machine())
    release = [int(part) for part in platform.release().split(".")[:2] if part.isdigit()]
    if call is None or release < [6, 12]:
        return
    import ctypes

    nice = os.getpriority(os.PRIO_PROCESS, 0)
    # struct sched_attr of sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period.
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, SLICE_NANOSECONDS, 0, 0)
    ctypes.CDLL(None).syscall(call, 0, attributes, 0)


def adopt_orphans() -> None:
    """Become the parent of every process below this one that loses its own. Does nothing but on Linux."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except AttributeError:
        return


# -- other processes -----------------------------------------------------------------------------------------


def listed(folder: str) -> list[int]:
    """Give the numbers among the names in a folder of /proc, none if it is not there."""
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except OSError:
        return []


def processes() -> list[int]:
    """Give all processes that can be seen, none where there is no /proc."""
    return listed("/proc")


def children(parent: int) -> list[int]:
    """Give the processes whose parent this one is, those that have ended and not been waited for included."""
    found: list[int] = []
    for task in listed(f"/proc/{parent}/task"):
        try:
            with open(f"/proc/{parent}/task/{task}/children", "rb") as file:
                found += [int(pid) for pid in file.read().split()]
        except OSError:
            if not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
                return children_by_parent(parent)  # a kernel without that file
    return found


def children_by_parent(parent: int) -> list[int]:
    """Give the same, from what every process says of itself."""
    return [pid for pid in processes() if parent_of(pid) == parent]


def descendants(*roots: int) -> list[int]:
    """Give the children of these processes, their children, and so on."""
    found: dict[int, None] = {}
    pending = list(roots)
    while pending:
        for pid in children(pending.pop()):
            if pid not in found:
                found[pid] = None
                pending.append(pid)
    return list(found)


def parent_of(pid: int) -> int:
    """Give a process's parent, 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def mark_of(pid: int) -> str:
    """Give the mark in a process's environment, "" if it has none or has ended."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return ""
    sign = MARK.encode("ascii") + b"="
    return next(
        (text[len(sign) :].decode("ascii", "replace") for text in variables if text.startswith(sign)), ""
    )


def send(pid: int, number: int) -> None:
    """Send a process a signal, or the group of -pid, if it is still there and we may."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # gone already, or a set-user-id program


def kill_all(find: Callable[[], list[int]]) -> bool:
    """Kill what `find` gives, and say whether it gave anything.

    All are stopped before the first is killed, and looked for until nothing new is found: so what they start
    meanwhile is found below them, and a fork bomb cannot outrun this. A process that was in the middle of a
    fork when it was told to stop still makes that child: so the last look comes when all stand still.
    """
    held: set[int] = set()
    patience = clock() + HOLD_PATIENCE
    while True:
        are_still = all(map(is_still, held))
        new = set(find()) - held
        if not new and (are_still or clock() >= patience):
            break
        for pid in new:
            send(pid, signal.SIGSTOP)
        held |= new
        if not new:
            time.sleep(HOLD_INTERVAL)
        elif clock() >= patience:
            break
    for pid in held:
        send(pid, signal.SIGKILL)
    return bool(held)


def is_still(pid: int) -> bool:
    """Say whether a process runs no more: it is stopped, has ended, or waits for a device."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("R", "S")
    except OSError:
        return True


def end_descendants() -> None:
    """Kill everything below this process, and wait until it has ended."""
    while True:
        kill_all(lambda: descendants(os.getpid()))  # what these leave becomes ours, and is next
        try:
            os.wait()
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def end_strays(mark: str) -> None:
    """Kill every process of this run that an earlier worker has left. Raises UnusableError."""

    def strays() -> list[int]:
        marked = [pid for pid in processes() if mark_of(pid).startswith(mark + "/")]
        return marked + descendants(*marked)

    patience = clock() + STRAY_PATIENCE
    while kill_all(strays):
        if clock() >= patience:
            pids = " ".join(str(pid) for pid in strays())
            raise UnusableError(f"jobs of an earlier worker of this run do not end (processes {pids})")
        time.sleep(CLAIM_INTERVAL)


class UnusableError(Exception):
    """The host cannot do the work; the message says why."""


class NotVisibleError(UnusableError):
    """Something is not there that a network home may show in a moment."""


# -- the lease -----------------------------------------------------------------------------------------------


class Lease:
    """Until when the worker may go on without the head. Pure: the times are given, of the worker's own clock.

    Attributes:
        seconds: how long an answer is good for, counted from when that was sent which it answers.
        ends_at: when it is over.
        next_ping: when to ask the head again.
    """

    def __init__(self, began: float, seconds: float) -> None:
        self.seconds = seconds
        self.ends_at = began + seconds
        self.next_ping = began

    def resize(self, now: float, seconds: float) -> None:
        """Go on with another length. It never ends later than it would have, until the head has answered."""
        self.ends_at = min(self.ends_at, now + seconds)
        self.seconds = seconds
        self.next_ping = now

    def answered(self, at: float) -> None:
        """Take note that the head has answered what was sent at that time."""
        self.ends_at = max(self.ends_at, at + self.seconds)

    def is_over(self, now: float) -> bool:
        """Say whether the jobs have to be ended."""
        return now >= self.ends_at

    def ping_due(self, now: float) -> bool:
        """Say whether to ask the head again."""
        return now >= self.next_ping

    def pinged(self, now: float) -> None:
        """Take note that the head is asked now."""
        self.next_ping = now + self.seconds / PINGS_PER_LEASE


# -- the ends of a conversation ------------------------------------------------------------------------------


class Wire:
    """One conversation with a head: its two descriptors, and what has not been acted on or written yet.

    Attributes:
        relay: the connection to the process that brought it, None if the guardian is the one.
        is_set_up: `ready` has been said.
    """

    def __init__(self, source: int, sink: int, data: bytes, relay: _socket.socket | None = None) -> None:
        self.source = source
        self.sink = sink
        self.incoming = data
        self.outgoing = bytearray()
        self.relay = relay
        self.is_set_up = False
        os.set_blocking(source, False)
        os.set_blocking(sink, False)

    def read(self) -> bool:
        """Read what has come; False at the end."""
        try:
            data = os.read(self.source, MESSAGE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.incoming += data
        return bool(data)

    def messages(self) -> list[dict[str, Any]]:
        """Take the messages that have come as a whole."""
        *lines, self.incoming = self.incoming.split(b"\n")
        return [json.loads(line) for line in lines]

    def put(self, message: dict[str, Any]) -> None:
        """Have a message written."""
        self.outgoing += line_of(message)

    def flush(self) -> bool:
        """Write as much as the pipe takes; False if nobody listens any more."""
        if self.outgoing:
            try:
                del self.outgoing[: os.write(self.sink, self.outgoing)]
            except BlockingIOError:
                pass
            except OSError:
                return False
        return True

    def drop(self) -> None:
        """Close it, and tell the relay that this worker has nothing to do with it any more."""
        os.close(self.source)
        os.close(self.sink)
        if self.relay is not None:
            tell(self.relay, "dropped")
            self.relay.close()


def line_of(message: dict[str, Any]) -> bytes:
    """Give a message as a line of the conversation."""
    return json.dumps(message).encode("ascii") + b"\n"


def tell(connection: _socket.socket, text: str, *descriptors: int) -> bool:
    """Send a text, and descriptors, over the socket of a place; False if nobody takes it now."""
    packed = struct.pack(f"{len(descriptors)}i", *descriptors)
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if descriptors else []
    try:
        connection.sendmsg([text.encode("ascii")], rights)
    except (BlockingIOError, ConnectionError):
        return False
    return True


def hear(connection: _socket.socket) -> tuple[str, list[int]]:
    """Receive what `tell` sent; "" when the other end has gone."""
    room = _socket.CMSG_SPACE(2 * struct.calcsize("i"))
    data, ancillary, _, _ = connection.recvmsg(MESSAGE_BYTES, room, _socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, packed in ancillary:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            count = len(packed) // struct.calcsize("i")
            descriptors += struct.unpack(f"{count}i", packed[: count * struct.calcsize("i")])
    return data.decode("ascii", "replace"), descriptors


def peer_of(connection: _socket.socket) -> tuple[int, int]:
    """Give process and user at the other end; that of a listening socket is who made it listen."""
    packed = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, user, _ = struct.unpack("3i", packed)
    return pid, user


# -- where a worker is found again ---------------------------------------------------------------------------


class Place:
    """A folder on the host's own disk that is locked by the worker it belongs to, with a socket in it.

    The folder itself is what is locked. So nobody can take a lock in a folder that its owner is removing, and
    systemd-tmpfiles, which spares locked folders, leaves it alone.
    """

    def __init__(self, path: str) -> None:
        """Make the folder if it is not there, and open it.

        Raises UnusableError, and FileNotFoundError if its owner removes it at this moment.
        """
        self.path = path
        self.listener: _socket.socket | None = None
        self.callers: list[_socket.socket] = []
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise UnusableError(f"cannot make {path}: {error.strerror}") from error
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise UnusableError(f"{path} is there, and not a folder of this user that no other can enter")
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def lock(self) -> bool:
        """Try to become its owner."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self.is_there()

    def is_there(self) -> bool:
        """Say whether its path still leads to it."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False

    def owner(self) -> int:
        """Give the process that has locked it, 0 if that is not known."""
        inode = str(os.fstat(self.descriptor).st_ino)
        try:
            with open("/proc/locks") as file:
                fields = [line.split() for line in file]
        except OSError:
            return 0
        return next((int(f[4]) for f in fields if f[1] == "FLOCK" and f[5].split(":")[-1] == inode), 0)

    def listen(self) -> None:
        """Let others find this process. Raises OSError."""
        self.unlink()
        self.listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        path = os.path.join(self.path, SOCKET)
        self.listener.bind(path)
        os.chmod(path, 0o600)
        self.listener.listen(CALLERS)
        self.listener.setblocking(False)

    def accept(self) -> None:
        """Let a caller in; what it has to say may take its time."""
        assert self.listener is not None
        try:
            descriptor, _ = self.listener._accept()  # type: ignore[attr-defined]  # not in the stubs
        except (BlockingIOError, ConnectionError):
            return
        caller = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)
        caller.setblocking(False)
        if peer_of(caller)[1] != os.geteuid():
            caller.close()
            return
        self.callers.append(caller)
        if len(self.callers) > CALLERS:
            self.callers.pop(0).close()

    def close(self) -> None:
        """Take nobody in any more."""
        if self.listener is not None:
            self.unlink()
            for connection in [self.listener, *self.callers]:
                connection.close()
        self.listener, self.callers = None, []

    def unlink(self) -> None:
        """Remove the socket."""
        try:
            os.unlink(SOCKET, dir_fd=self.descriptor)
        except FileNotFoundError:
            pass

    def remove(self) -> None:
        """Leave nothing of it: the last act of its owner."""
        try:
            self.unlink()
            if self.is_there():
                os.rmdir(self.path)
        except OSError:
            pass  # the next owner finds it empty, or not locked


class Visit:
    """A newcomer in front of a place that is locked: hands its conversation over, and relays how it ends."""

    def __init__(self, setup: dict[str, Any], data: bytes, source: int, sink: int) -> None:
        hello = {"digest": setup["digest"], "epoch": setup["epoch"], "data": data.decode("ascii")}
        self.hello = json.dumps(hello)
        self.descriptors = (source, sink)
        self.path = os.path.join(setup["place"], SOCKET)
        self.patience = min(KNOCK_PATIENCE, KNOCK_SHARE * setup["lease"])
        self.connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.status: list[int] = []

    def knock(self) -> str:
        """Offer the conversation to whoever listens; give the answer, "" if nobody does.

        One that does not answer is frozen. It is killed, for it would go on where it was; its guardian then
        ends its jobs, and is woken in case it is frozen as well.
        """
        self.connection.close()
        self.connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 2 * MESSAGE_BYTES)
        self.connection.settimeout(self.patience)
        try:
            self.connection.connect(self.path)
            pid, user = peer_of(self.connection)
            if user != os.geteuid():
                raise UnusableError(f"{self.path} belongs to another user")
            if not tell(self.connection, self.hello, *self.descriptors):
                return ""
            answer, self.status = hear(self.connection)
        except _socket.timeout:
            send(pid, signal.SIGKILL)
            return "frozen"
        except (FileNotFoundError, ConnectionError, BlockingIOError):
            return ""  # it is just starting, or just leaving
        return answer

    def relay(self) -> int:
        """Wait until the worker that has taken the conversation drops it or ends; give the exit status.

        A connection that says "dropped" goes before a status: that belongs to a later conversation.
        """
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.connection.settimeout(None)
        waiting: list[Any] = [self.connection, *self.status]
        while waiting:
            readable, _, _ = select.select(waiting, [], [])
            if self.connection in readable:
                if hear_last(self.connection) == "dropped":
                    return UNKNOWN
                waiting.remove(self.connection)
            elif readable:
                status = os.read(readable[0], 1)
                if status:
                    return status[0]
                waiting.remove(readable[0])  # the guardian is gone; the worker is still there
        return UNKNOWN


def hear_last(connection: _socket.socket) -> str:
    """Receive a text, or "" where the other end is gone in any way."""
    try:
        return hear(connection)[0]
    except ConnectionError:
        return ""


def claim(path: str, grace: float, visit: Visit) -> Place | None:
    """Become the owner of a place, or have its owner take the visit's conversation: then give None.

    Raises UnusableError, and SupersededError if the owner has met a later head.
    """
    deadline = clock() + grace + CLAIM_PATIENCE
    while True:
        try:
            place = Place(path)
        except FileNotFoundError:
            continue
        if place.lock():
            return place
        answer = visit.knock()
        owner = place.owner()
        os.close(place.descriptor)
        if answer == "taken":
            return None
        if answer == "superseded":
            raise SupersededError
        if answer == "frozen":
            send(owner, signal.SIGCONT)
        if clock() >= deadline:
            raise UnusableError(f"an earlier worker of this run does not end (process {owner})")
        time.sleep(CLAIM_INTERVAL)


class SupersededError(Exception):
    """The worker on this host has met a later head than the one that speaks here."""


# -- jobs ----------------------------------------------------------------------------------------------------


class RefusedError(Exception):
    """The host cannot start anything at the moment; the message says why."""


class Attempt:
    """One execution of a job: its process, its files, and how it is being ended, if it is.

    Attributes:
        out, err: names of its files in the attempts' folder.
        mark: what the environment of all its processes holds, by which they are told from other jobs'.
        ended: what the head was told of its end, until it has acknowledged it.
    """

    def __init__(self, message: dict[str, Any], mark: str) -> None:
        self.job: int = message["job"]
        self.number: int = message["attempt"]
        self.argv: list[str] = message["argv"]
        self.env: dict[str, str] = message["env"]
        self.timeout: float | None = message["timeout"]
        self.out, self.err = message["files"]
        self.published_out, self.published_err = message["published"]
        self.mark = f"{mark}/{self.job}.{self.number}"
        self.pid = 0
        self.began = clock()
        self.ending = ""  # "timeout" or "stopped" once it is being ended
        self.kill_at = 0.0  # when SIGTERM has had its time, or SIGKILL is to be sent again
        self.is_killed = False
        self.ended: dict[str, Any] = {}

    @property
    def id(self) -> tuple[int, int]:
        """Job and attempt number, by which the head knows it."""
        return (self.job, self.number)

    def deadline(self) -> float | None:
        """Give the time at which something has to be done about it, None for never."""
        if self.ending:
            return self.kill_at
        return None if self.timeout is None else self.began + self.timeout

    def processes(self) -> list[int]:
        """Give all that it has started, as far as that can be told.

        What lost its parent is a child of ours, and has the mark. What has cleared its environment as well
        is swept up when no job runs that it may belong to.
        """
        own = [pid for pid in children(os.getpid()) if pid == self.pid or mark_of(pid) == self.mark]
        return own + descendants(*own)

    def signal(self, *numbers: int) -> None:
        """Send signals to all that it has started: each process gets each of them once."""
        outside = [pid for pid in self.processes() if group_of(pid) not in (self.pid, None)]
        for number in numbers:
            send(-self.pid, number)
            for pid in outside:
                send(pid, number)

    def end(self, why: str, kill_at: float) -> None:
        """Ask it to end, and note when to stop asking; the earliest such time holds."""
        if self.is_killed:
            return
        if self.ending:
            self.kill_at = min(self.kill_at, kill_at)
            return
        self.ending = why
        self.kill_at = kill_at
        if clock() < kill_at:
            self.signal(signal.SIGTERM, signal.SIGCONT)

    def kill(self) -> None:
        """Kill all that it has started; once more after a moment if it is still there."""
        self.is_killed = True
        kill_all(self.processes)
        send(-self.pid, signal.SIGKILL)
        self.kill_at = clock() + KILL_INTERVAL

    def tail(self, folder: int) -> str:
        """Give the last lines of its standard error, a file in that folder."""
        try:
            with open(os.open(self.err, os.O_RDONLY, dir_fd=folder), "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError as error:
            return f"(its standard error cannot be read: {error.strerror})"
        return "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])


def group_of(pid: int) -> int | None:
    """Give a process's group, None if it has ended."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


class Worker:
    """The loop: messages in, processes started and reaped, reports out."""

    def __init__(self, setup: dict[str, Any], wire: Wire, place: Place | None, status: int) -> None:
        self.wire: Wire | None = wire
        self.place = place
        self.status = status  # where relays can read the exit status that the guardian writes
        self.lease = Lease(clock(), setup["lease"])
        self.grace: float = setup["grace"]
        self.lease_grace: float = setup["lease_grace"]
        self.digest: str = setup["digest"]
        self.epoch: int = setup["epoch"]
        self.mark: str = setup["mark"]
        self.running: dict[int, Attempt] = {}  # by pid
        self.reported: dict[tuple[int, int], Attempt] = {}  # by id, until the head has acknowledged it
        self.published: list[tuple[int, int]] = []  # not worth a message of its own
        self.unconfirmed: list[tuple[float, tuple[int, int]]] = []  # published, and when that was said
        self.environment: dict[str, str] = {}
        self.folders: dict[str, int] = {}
        self.programs: dict[tuple[str, str], str] = {}  # (name, PATH) -> file
        self.setup: dict[str, Any] | None = None  # while it is being carried out
        self.set_up_at = 0.0  # when to try again
        self.set_up_until = 0.0  # when to give up
        self.has_unmarked = False  # whether there are processes that cannot be told whose they are
        self.sweeps = 0  # how often to look at them again
        self.sweep_at = 0.0
        self.told_to_leave = False  # by a signal
        self.leaving = False

    # -- the loop -------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Work until the head says `quit`, the lease is over, or the conversation is and nothing is held."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self.note_order)
        self.obey()
        while not self.leaving or self.running:
            readable = self.wait(wake_read)
            if wake_read in readable:
                os.read(wake_read, 4096)
                self.reap()
            self.converse(readable)
            self.attend_door(readable)
            self.attend_set_up()
            self.enforce()
            if self.wire is not None and not self.wire.flush():
                self.detach()
        self.say_farewell()

    def note_order(self, *_: object) -> None:
        """Have the loop leave: what a signal interrupts may be in the middle of anything."""
        self.told_to_leave = True

    def wait(self, wake: int) -> list[Any]:
        """Wait until there is something to do; give what can be read."""
        readers: list[Any] = [wake]
        writers = [self.wire.sink] if self.wire is not None and self.wire.outgoing else []
        if not self.leaving:
            if self.wire is not None:
                readers.append(self.wire.source)
                readers += [self.wire.relay] if self.wire.relay is not None else []
            if self.place is not None:
                readers += [self.place.listener, *self.place.callers]
        return select.select(readers, writers, [], self.patience())[0]

    def patience(self) -> float | None:
        """Give the seconds until something is due by time alone, None for never."""
        due = [attempt.deadline() for attempt in self.running.values()]
        due.append(self.sweep_at if self.sweeps else None)
        if not self.leaving:
            due.append(self.lease.ends_at)
            due.append(self.lease.next_ping if self.wire is not None and self.wire.is_set_up else None)
            due.append(self.set_up_at if self.setup is not None else None)
        known = [moment - clock() for moment in due if moment is not None]
        if self.running:
            known.append(LONGEST_WAIT)
        return max(0.0, min(known)) if known else None

    def enforce(self) -> None:
        """Do what is due: leave, ask the head for a sign of life, end what has run for too long."""
        now = clock()
        if self.lease.is_over(now):
            self.leave(self.lease.ends_at + self.lease_grace)
        if self.told_to_leave:
            self.leave(now + self.grace)
        if self.wire is not None and self.wire.is_set_up and not self.leaving and self.lease.ping_due(now):
            self.say({"op": "ping", "at": now})
            self.lease.pinged(now)
        if self.sweeps and now >= self.sweep_at:
            self.sweep(self.sweeps - 1)
        for attempt in self.running.values():
            deadline = attempt.deadline()
            if deadline is None or now < deadline:
                continue
            if attempt.ending:
                attempt.kill()
            else:
                attempt.end("timeout", now + self.grace)

    def leave(self, kill_at: float) -> None:
        """Take nothing and nobody more, end every job; the loop goes on until the last one has ended."""
        self.leaving = True
        self.setup = None
        if self.place is not None:
            self.place.close()
        for attempt in self.running.values():
            attempt.end("stopped", kill_at)

    # -- the conversation -----------------------------------------------------------------------------------

    def converse(self, readable: list[Any]) -> None:
        """Read what the head sent and act on every whole line of it."""
        if self.wire is None:
            return
        if self.wire.source in readable:
            goes_on = self.wire.read()
            self.obey()
            if not goes_on:
                self.detach()
        elif self.wire.relay in readable:
            self.detach()  # the relay never says anything: it is gone, and the head will think we are

    def obey(self) -> None:
        """Act on the messages that have come."""
        for message in self.wire.messages() if self.wire is not None else []:
            self.handle(message)

    def detach(self) -> None:
        """End the conversation; go on without one while there is something to tell the next head."""
        if self.wire is not None:
            self.wire.drop()
            hush()
        self.wire = None
        self.setup = None
        if self.place is None or not (self.running or self.reported):
            self.leave(clock() + self.grace)

    def handle(self, message: dict[str, Any]) -> None:
        """Carry out one message."""
        op = message["op"]
        if op == "run":
            self.start(Attempt(message, self.mark))
        elif op == "ack":
            self.acknowledge(message["ids"])
        elif op == "pong":
            self.lease.answered(message["at"])
            self.unconfirmed = [entry for entry in self.unconfirmed if entry[0] >= message["at"]]
        elif op == "stop":
            self.stop(message.get("ids"))
        elif op == "quit":
            self.leave(clock() + self.grace)
        elif op == "setup":
            self.setup = message
            self.set_up_at = clock()
            self.set_up_until = self.set_up_at + VISIBLE_PATIENCE
        else:
            raise ValueError(f"the head said {op!r}, which this worker does not know")

    def say(self, message: dict[str, Any]) -> None:
        """Tell the head, if there is one, and before it what could wait for a message."""
        if self.wire is None:
            return
        if self.published and self.wire.is_set_up:
            done, self.published = self.published, []
            self.unconfirmed += [(clock(), id) for id in done]
            self.wire.put({"op": "published", "ids": done})
        self.wire.put(message)

    def say_farewell(self) -> None:
        """Write what is left, as long as the head reads it."""
        self.say({"op": "bye"})
        while self.wire is not None and self.wire.outgoing:
            if not select.select([], [self.wire.sink], [], FAREWELL_PATIENCE)[1] or not self.wire.flush():
                return

    # -- being taken up again -------------------------------------------------------------------------------

    def attend_door(self, readable: list[Any]) -> None:
        """Let newcomers in and hear what they have to say; none of them is waited for."""
        if self.place is None or self.leaving:
            return
        for caller in [caller for caller in self.place.callers if caller in readable]:
            self.place.callers.remove(caller)
            self.answer(caller)
        if self.place.listener is not None and self.place.listener in readable:
            self.place.accept()

    def answer(self, caller: _socket.socket) -> None:
        """Take the conversation that a newcomer brings, or say why not."""
        descriptors: list[int] = []
        try:
            text, descriptors = hear(caller)
            message = json.loads(text)
            data = message["data"].encode("ascii")
            answer = self.judge(message["digest"], message["epoch"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            answer = ""  # not one of ours, or gone in the middle of it
        if answer == "taken" and len(descriptors) == 2 and tell(caller, answer, self.status):
            self.take_up(message["epoch"], Wire(descriptors[0], descriptors[1], data, caller))
            return
        if answer in ("other", "superseded"):
            tell(caller, answer)
        for descriptor in descriptors:
            os.close(descriptor)
        caller.close()

    def judge(self, digest: str, epoch: int) -> str:
        """Say what to answer a newcomer; leave if its head needs another version of this program."""
        if epoch < self.epoch:
            return "superseded"
        if digest == self.digest:
            return "taken"
        self.leave(clock() + self.grace)
        return "other"

    def take_up(self, epoch: int, wire: Wire) -> None:
        """Go on with another conversation; its first message is `setup`."""
        if self.wire is not None:
            self.wire.drop()
            hush()
        self.wire = wire
        self.epoch = epoch
        self.published = [id for _, id in self.unconfirmed] + self.published
        self.unconfirmed = []
        self.obey()

    # -- set-up ---------------------------------------------------------------------------------------------

    def attend_set_up(self) -> None:
        """Look whether this host can do the work, as often as a network home may need, and say so."""
        now = clock()
        if self.setup is None or now < self.set_up_at:
            return
        setup = self.setup
        try:
            self.inspect(setup)
        except UnusableError as error:
            self.set_up_at = now + VISIBLE_INTERVAL
            is_late = now >= self.set_up_until or self.lease.is_over(now)
            if is_late or not isinstance(error, NotVisibleError):
                self.say({"op": "unusable", "reason": str(error)})
                self.leave(now + self.grace)
            return
        self.setup = None
        self.adjust(setup)
        self.announce()

    def inspect(self, setup: dict[str, Any]) -> None:
        """Raise UnusableError unless workdir, run directory and venv are what the head sees."""
        folder = setup["workdir"]
        try:
            os.chdir(folder)
        except OSError as error:
            raise UnusableError(f"no such folder here: {folder} ({error.strerror})") from error
        check_nonce(setup["nonce_file"], setup["nonce"])
        self.open_folders(setup["folders"])
        if setup["venv"] is not None:
            python = os.path.join(setup["venv"], "bin", "python")
            if not os.access(python, os.X_OK):
                raise UnusableError("no such venv here: " + setup["venv"])

    def open_folders(self, paths: dict[str, str]) -> None:
        """Open the folders of outputs, once: whatever is mounted over them later, these are the ones."""
        folders: dict[str, int] = {}
        try:
            for name, path in paths.items():
                os.listdir(os.path.dirname(path))  # asks the server again
                folders[name] = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            for descriptor in folders.values():
                os.close(descriptor)
            raise NotVisibleError(f"does not see the folder {path} ({error.strerror})") from error
        folders, self.folders = self.folders, folders
        for descriptor in folders.values():
            os.close(descriptor)

    def adjust(self, setup: dict[str, Any]) -> None:
        """Take over what the head wants."""
        if self.running or self.reported:
            self.lease.resize(clock(), setup["lease"])
        else:
            self.lease = Lease(clock(), setup["lease"])  # no head relies on the end of what has not begun
        self.grace = setup["grace"]
        self.lease_grace = setup["lease_grace"]
        current = os.getpriority(os.PRIO_PROCESS, 0)
        if setup["nice"] > current:
            os.setpriority(os.PRIO_PROCESS, 0, setup["nice"])
        if setup["nice"] > 0:
            take_long_slices()
        self.environment = environment_of_jobs(setup)
        self.programs = {}

    def announce(self) -> None:
        """Tell the head what there is, and again what it has not acknowledged."""
        if self.wire is None:
            return
        held = [*self.running.values(), *self.reported.values()]
        self.say(
            {
                "op": "ready",
                "python": platform.python_version(),
                "cores": os.cpu_count() or 1,
                "pid": os.getpid(),
                "machine": machine(),
                "resumed": self.wire.relay is not None,
                "holds": [attempt.id for attempt in held],
            }
        )
        self.wire.is_set_up = True
        for attempt in self.reported.values():
            self.say(attempt.ended)

    # -- jobs -----------------------------------------------------------------------------------------------

    def start(self, attempt: Attempt) -> None:
        """Start an attempt, or report at once that it could not be started."""
        if attempt.id in self.reported or attempt.id in [other.id for other in self.running.values()]:
            return  # said twice
        if self.leaving or self.lease.is_over(clock()):
            self.report(attempt, "refused", tail="not started: the worker is leaving")
            return
        complaint = f"cannot start {attempt.argv[0]}: "
        try:
            attempt.pid = self.execute(attempt)
        except RefusedError as error:
            self.report(attempt, "refused", tail=complaint + str(error))
        except OSError as error:
            ending = "refused" if error.errno in REFUSALS else "not started"
            self.report(attempt, ending, tail=complaint + str(error.strerror))
        except ValueError as error:
            self.report(attempt, "not started", tail=complaint + str(error))
        else:
            self.running[attempt.pid] = attempt

    def execute(self, attempt: Attempt) -> int:
        """Give the pid of its process, started with its files. Raises RefusedError, OSError, ValueError."""
        files: list[int] = []
        try:
            try:
                for name in (attempt.out, attempt.err):
                    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
                    files.append(os.open(name, flags, 0o666, dir_fd=self.folders["attempts"]))
            except OSError as error:
                raise RefusedError(f"its output files cannot be made: {error.strerror}") from error
            return self.spawn(attempt, *files)
        finally:
            for file in files:
                os.close(file)

    def spawn(self, attempt: Attempt, out: int, err: int) -> int:
        """Start the process in a session of its own and give its pid."""
        environment = dict(self.environment)
        environment.update(attempt.env)
        environment[MARK] = attempt.mark
        return os.posix_spawn(
            self.find(attempt.argv[0], environment.get("PATH", os.defpath)),
            attempt.argv,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, err, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )

    def find(self, program: str, search: str) -> str:
        """Give the file of a program; one without a slash is looked up in PATH."""
        if os.sep in program:
            return program
        key = (program, search)
        if key not in self.programs:
            found = shutil.which(program, path=search)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "no such program in PATH")
            self.programs[key] = found
        return self.programs[key]

    def stop(self, ids: list[list[int]] | None) -> None:
        """End these attempts, or all."""
        for attempt in self.running.values():
            if ids is None or list(attempt.id) in ids:
                attempt.end("stopped", clock() + self.grace)

    def reap(self) -> None:
        """Report every job that has ended, and sweep up what it left behind."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return  # nothing runs, and nothing was left
            if ended is None:
                self.sweep(SWEEPS)
                return
            attempt = self.running.pop(ended.si_pid, None)
            if attempt is not None:
                # Before the pid is given back: afterwards the group's number could be somebody else's.
                send(-attempt.pid, signal.SIGKILL)
            _, status, usage = os.wait4(ended.si_pid, 0)
            if attempt is not None:
                self.conclude(attempt, status, usage)

    def sweep(self, again: int) -> None:
        """Kill what was left behind, and look again if something is there that cannot be told whose it is.

        A process that is just executing another program shows no environment for a moment.
        """
        kill_all(self.strays)
        self.sweeps = again if self.has_unmarked else 0
        self.sweep_at = clock() + SWEEP_INTERVAL

    def strays(self) -> list[int]:
        """Give what jobs that have ended left outside their process groups.

        It has become a child of ours when its parent ended. What cannot be told whose it is, because it has
        cleared its environment, is left alone as long as a job runs that may need it.
        """
        others = [pid for pid in children(os.getpid()) if pid not in self.running]
        if not others:
            self.has_unmarked = False
            return []
        wanted = {attempt.mark for attempt in self.running.values()}
        marks = {pid: mark_of(pid) for pid in others}
        self.has_unmarked = not all(marks.values())
        left = [pid for pid in others if marks[pid] not in wanted and (marks[pid] or not self.running)]
        return left + descendants(*left)

    def conclude(self, attempt: Attempt, status: int, usage: resource.struct_rusage) -> None:
        """Report how a process ended."""
        exited = os.WIFEXITED(status)
        code = os.WEXITSTATUS(status) if exited else None
        number = None if exited else os.WTERMSIG(status)
        self.report(
            attempt,
            attempt.ending or ("exited" if exited else "signalled"),
            tail="" if code == 0 and not attempt.ending else self.last_words(attempt),
            exit_code=code,
            signal=number,
            user=round(usage.ru_utime, 4),
            system=round(usage.ru_stime, 4),
            memory=usage.ru_maxrss * 1024,
        )

    def last_words(self, attempt: Attempt) -> str:
        """Give the end of its standard error; what it could not write because the disk is full, we say."""
        folder = self.folders["attempts"]
        tail = attempt.tail(folder)
        room = os.fstatvfs(folder)
        if not tail and (room.f_bavail == 0 or (room.f_files and room.f_favail == 0)):
            return "(nothing on its standard error, and there is no room left for its output)"
        return tail

    def report(self, attempt: Attempt, ending: str, **details: object) -> None:
        """Tell the head that an attempt has ended, and keep that until it is acknowledged."""
        outcome: dict[str, object] = {"ending": ending, "seconds": round(clock() - attempt.began, 4)}
        outcome.update(details)
        attempt.ended = {"op": "ended", "job": attempt.job, "attempt": attempt.number, "outcome": outcome}
        self.reported[attempt.id] = attempt
        if self.wire is not None and self.wire.is_set_up:
            self.say(attempt.ended)  # otherwise it follows `ready`

    def acknowledge(self, ids: list[tuple[int, int, bool]]) -> None:
        """Forget results that the head has, and give the files of those that count the job's own names."""
        for job, number, publish in ids:
            attempt = self.reported.pop((job, number), None)
            if attempt is None or not publish:
                continue
            folders = self.folders
            attempts = folders["attempts"]
            try:
                os.replace(attempt.out, attempt.published_out, src_dir_fd=attempts, dst_dir_fd=folders["out"])
                os.replace(attempt.err, attempt.published_err, src_dir_fd=attempts, dst_dir_fd=folders["err"])
            except OSError as error:
                self.say({"op": "notice", "text": f"job {job}: cannot publish its output: {error}"})
            else:
                self.published.append((job, number))


def check_nonce(path: str, nonce: str) -> None:
    """Raise NotVisibleError unless the file is there that proves that this host sees the run directory.

    A network file system may show a new file only after seconds, and `open` may say that it is not there when
    a listing of its folder, which asks the server again, already has it.
    """
    problem = "another folder of that name"
    try:
        os.listdir(os.path.dirname(path))
        with open(path, encoding="ascii", errors="replace") as file:
            if file.read() == nonce:
                return
    except OSError as error:
        problem = str(error.strerror)
    folder = os.path.dirname(os.path.dirname(path))
    raise NotVisibleError(f"does not see the run directory {folder} ({problem})")


def environment_of_jobs(setup: dict[str, Any]) -> dict[str, str]:
    """Give what every job's environment has before its own variables are added."""
    environment = dict(os.environ)
    if setup["venv"] is not None:
        environment["VIRTUAL_ENV"] = setup["venv"]
        search = environment.get("PATH", os.defpath)
        environment["PATH"] = os.path.join(setup["venv"], "bin") + os.pathsep + search
        environment.pop("PYTHONHOME", None)
    for name in THREAD_VARIABLES:
        environment[name] = str(setup["threads"])
    environment.update(setup["env"])
    return environment


def hush() -> None:
    """Give up standard error: sshd keeps a connection open for as long as anybody has it."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)


def machine() -> str:
    """Give what tells this machine from all others, "" if it has no such thing."""
    try:
        with open("/etc/machine-id", encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


# -- the processes -------------------------------------------------------------------------------------------


def main(token: str) -> int:
    """Say where the conversation begins, and be guardian, worker or relay; give the exit status."""
    # Taken off the standard streams, so that nothing else can write into it.
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.write(sink, f"{MARKER} {token}\n".encode("ascii"))
    data = b""
    while b"\n" not in data:
        piece = os.read(source, MESSAGE_BYTES)
        if not piece:
            return UNKNOWN
        data += piece
    setup = json.loads(data[: data.index(b"\n")])
    place = None
    if setup["place"] is not None and sys.platform == "linux":
        visit = Visit(setup, data, source, sink)
        try:
            place = claim(setup["place"], setup["grace"], visit)
            if place is None:
                return visit.relay()
            end_strays(setup["mark"])
        except (UnusableError, OSError) as error:
            os.write(sink, line_of({"op": "unusable", "reason": str(error)}))
            return UNKNOWN
        except SupersededError:
            os.write(sink, line_of({"op": "superseded"}))
            return UNKNOWN
    return split(setup, Wire(source, sink, data), place)


def split(setup: dict[str, Any], wire: Wire, place: Place | None) -> int:
    """Become guardian and worker, and give the exit status of either."""
    adopt_orphans()
    reader, writer = os.pipe()
    guardian = os.getpid()
    pid = os.fork()
    if pid:
        wire.drop()  # the worker alone holds the conversation: its end is the end of that
        return guard(pid, place, writer)
    os.close(writer)
    adopt_orphans()
    worker = Worker(setup, wire, place, reader)
    if place is not None:
        try:
            place.listen()  # not before the fork: a newcomer is told who called this
        except OSError as error:
            os.write(wire.sink, line_of({"op": "unusable", "reason": f"cannot listen: {error}"}))
            return 0
    worker.serve()
    end_descendants()
    if place is not None and os.getppid() != guardian:
        place.remove()
    return 0


def guard(worker: int, place: Place | None, writer: int) -> int:
    """Wait for the worker's end, end what it left, and give the exit status: 0 if it left in order."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, frame: send(worker, number))
    pid = 0
    while pid != worker:
        pid, ending = os.wait()
    end_descendants()
    status = 0 if ending == 0 else SWEPT
    if place is not None:
        place.remove()
    os.write(writer, bytes([status]))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
