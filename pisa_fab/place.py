"""Where a worker is found again: its place on the host's own disk, and who brings it a conversation there.

Travels to the host with `worker`, so it needs nothing but the standard library of Python 3.8. What is said in
a conversation is `worker`'s business.
"""

from __future__ import annotations

import _socket  # `socket` itself takes four times as long to import, on every host at every start
import fcntl
import os
import select
import stat
import struct
import time

from pisa_fab.light import dumps, loads, signal
from pisa_fab.processes import clock, descendants, kill_all, mark_of, processes, send

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from typing import Any

MARKER = "pisa_fab worker"  # the head skips everything before this and the token behind it
SOCKET = "socket"  # its name in the worker's place
MESSAGE_BYTES = 1 << 20  # the most that is read at once
KNOCK_PATIENCE = 5.0  # seconds that an earlier worker may take to answer before it counts as frozen
KNOCK_SHARE = 0.25  # of a lease; no longer than that, for its jobs must have ended before they run elsewhere
CLAIM_PATIENCE = 15.0  # seconds, beside the grace of its jobs, that an earlier worker may take to end
CLAIM_INTERVAL = 0.02
STRAY_PATIENCE = 10.0  # seconds for killed processes of an earlier worker to end
CALLERS = 8  # connections to the place that may be silent; then the oldest is dropped
SWEPT = 75  # exit status of a guardian whose worker was killed: its jobs have been ended
UNKNOWN = 76  # exit status of a process that cannot say whether the worker has ended


class UnusableError(Exception):
    """The host cannot do the work; the message says why."""


class NotVisibleError(UnusableError):
    """Something is not there that a network home may show in a moment."""


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
        return [loads(line) for line in lines]

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


def machine() -> str:
    """Give what tells this machine from all others, "" if it has no such thing."""
    try:
        with open("/etc/machine-id", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def line_of(message: dict[str, Any]) -> bytes:
    """Give a message as a line of the conversation."""
    return dumps(message) + b"\n"


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
        self.hello = dumps(hello).decode("ascii")
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
