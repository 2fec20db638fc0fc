"""What people at a PC can see and say: the note on whose jobs run there, the order to stop, process names.

It travels to the host with the worker: standard library only, Python 3.8 or newer. How notes are read and
orders are given is in `here`.

A note is a file that every user of the PC can read, `key: value` a line, for people as it is. The worker
holds a lock on it for as long as it lives: a note that nobody has locked tells of what is gone. An order to
stop is a file `pisa_fab-<uid>.stop` of that user or of root; it need hold nothing, so `touch` gives one where
there is no pisa_fab. An order of root's own, `pisa_fab-0.stop`, holds for everybody.

The folder is /tmp, where others may have put anything under any name: nothing of theirs is followed, written
to or believed. Who takes a name only makes us use another one.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

from pisa_fab.light import call_libc, move_text

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from typing import Iterator

FOLDER = "/tmp"
PREFIX = "pisa_fab-"
NOTE = ".note"
NEW = ".new"  # a note that is being written
STOP = ".stop"
ROOT = 0
NOTE_INTERVAL = 1.0  # seconds between two versions of a note
LOOK_INTERVAL = 60.0  # seconds after which a worker looks whether its note is still there
MOST_LETTERS = 200  # of a fact
PR_SET_NAME = 15  # prctl(2)
SHORT_NAME = "pisa_fab"
ARGUMENTS_BEGIN, ARGUMENTS_END = 48, 49  # fields of /proc/PID/stat, see proc(5)
STARTED = 22
FIRST_FIELD = 3  # the first one behind the name, which may hold anything


# -- the note ------------------------------------------------------------------------------------------------


class Note:
    """The note of a worker. It is made known by the first `say`, and nothing here ever raises.

    Attributes:
        path: where it is, "" while it is nowhere. Not the path that was asked for if that is somebody else's.
        trouble: why it is not there, or does not say what is so now; or "".
    """

    def __init__(self, path: str, facts: dict[str, str]) -> None:
        """Prepare the note of this process.

        `facts` may have `batch`, `head` (the PC it was started from) and `contact`.
        """
        self.wanted = path
        self.path = ""
        self.trouble = ""
        self.facts = dict(facts)
        self.user, self.full_name = names_of(os.geteuid())
        self.process = {
            "uid": str(os.geteuid()),
            "process": str(os.getpid()),
            "tick": str(started_at(os.getpid())),
            "namespace": namespace(),
        }
        self.descriptor = -1  # of the file, locked
        self.since = 0.0
        self.content = ""  # what the file says, but for when that was
        self.looked_at = 0.0

    def update(self, facts: dict[str, str]) -> None:
        """Take over other facts: another head has taken up the worker. The next `say` writes them."""
        self.facts = dict(facts)

    def say(self, running: int, paused: int, slots: int, why: str, now: float) -> None:
        """Have the file say what is so; `now` is Unix time. To be called about once a second.

        Only a change is written, and no more than one a second; the next call makes up for it.
        """
        self.since = self.since or now
        state = {"running": str(running), "paused": str(paused), "slots": str(slots), "why": why}
        content = self.describe(state)
        waited = abs(now - self.looked_at)  # the clock may have been put back
        if waited < (NOTE_INTERVAL if content != self.content else LOOK_INTERVAL):
            return
        self.looked_at = now
        try:
            if content != self.content or not self.is_there():
                self.write(content + line("changed", moment(now)))
        except OSError as error:
            self.trouble = f"cannot write the note {self.wanted}: {error.strerror}"
        else:
            self.content = content
            self.trouble = ""

    def describe(self, state: dict[str, str]) -> str:
        """Give the text."""
        stop = order_path(os.geteuid(), os.path.dirname(self.wanted))
        facts = {
            "user": self.user,
            "name": self.full_name,
            "batch": self.facts.get("batch", ""),
            "started from": self.facts.get("head", ""),
            "since": moment(self.since),
            **state,
            "to ask": self.facts.get("contact") or self.full_name or self.user,
            "to stop": f"pisa-fab here --stop ({self.user}), or touch {stop}",
            "to stop as root": f"touch {stop}, or kill {os.getpid()} for now",
            **self.process,
        }
        text = "".join(line(key, value) for key, value in facts.items())
        return f"pisa_fab runs jobs of {self.user} on this PC, in the background.\n\n{text}"

    def write(self, text: str) -> None:
        """Put the text there as a whole. Raises OSError."""
        new = f"{stem_of(self.wanted)}.{os.urandom(8).hex()}{NEW}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(new, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before anybody else can open it
            data = text.encode("utf-8", "replace")
            while data:
                data = data[os.write(descriptor, data) :]
            os.fchmod(descriptor, 0o644)
            self.publish(new)
        except OSError:
            os.close(descriptor)
            unlink(new)
            raise
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = descriptor

    def publish(self, new: str) -> None:
        """Give a file the name of the note. Raises OSError.

        What is replaced is our own, and nobody else can change that in a folder like /tmp. A name that is
        taken for the first time is taken by `link`, which replaces nothing.
        """
        if self.is_there():
            os.rename(new, self.path)
            return
        another = f"{stem_of(self.wanted)}.{os.urandom(4).hex()}{NOTE}"
        discard(self.wanted)
        try:
            os.link(new, self.wanted)
            self.path = self.wanted
        except FileExistsError:
            os.link(new, another)
            self.path = another
        unlink(new)

    def is_there(self) -> bool:
        """Say whether the file is where it was put."""
        try:
            return self.path != "" and os.path.samestat(os.lstat(self.path), os.fstat(self.descriptor))
        except OSError:
            return False

    def remove(self) -> None:
        """Take the note away: the worker leaves."""
        if self.is_there():
            unlink(self.path)
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor, self.path, self.content = -1, "", ""


def remove_notes(path: str) -> None:
    """Take away what a worker that has died has left of its note; `path` is that which it was given."""
    folder, begin = os.path.dirname(path), os.path.basename(stem_of(path)) + "."
    for name in entries(folder):
        if name.startswith(begin) and name.endswith((NOTE, NEW)):
            discard(os.path.join(folder, name))


def discard(path: str) -> None:
    """Remove a file if it is a note of ours that no living worker holds; else leave it."""
    if not is_file_of(look(path), os.geteuid()):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not is_locked(descriptor):
            unlink(path)
    finally:
        os.close(descriptor)


def line(key: str, value: str) -> str:
    """Write a fact as one line that steers neither a reader nor a terminal."""
    return f"{key}: {harmless(value)[:MOST_LETTERS]}".rstrip() + "\n"


def harmless(text: str) -> str:
    """Replace every letter that is not printed as itself."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def stem_of(path: str) -> str:
    """Give the path of a note without its ending."""
    return path[: -len(NOTE)] if path.endswith(NOTE) else path


def is_locked(descriptor: int) -> bool:
    """Say whether a process holds the lock of an open file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False  # our own lock goes when it is closed


# -- orders to stop ------------------------------------------------------------------------------------------


def stop_order(uid: int, folder: str = FOLDER) -> str:
    """Say who has ordered that no jobs of this user run on this PC, and when; "" if nobody has.

    Cheap enough to be asked every second.
    """
    status = next(orders_about(uid, folder), None)
    if status is None:
        return ""
    when = moment(status.st_mtime)
    today = moment(time.time())[:10]
    when = f"at {when[11:]}" if when.startswith(today) else f"on {when.replace(' ', ' at ')}"
    who = names_of(status.st_uid)[0]
    return f"stopped at this PC by {who} {when} (pisa-fab here --start lets it work again)"


def orders_about(uid: int, folder: str) -> Iterator[os.stat_result]:
    """Give the state of each file that is an order about this user, by root or by them.

    One with two names is none: it is a link to any file of theirs, which another user may have made.
    """
    own, general = f"{PREFIX}{uid}.", f"{PREFIX}{ROOT}."
    for name in entries(folder):
        if name.startswith((own, general)) and name.endswith(STOP):
            status = look(os.path.join(folder, name))
            owners = (uid, ROOT) if name.startswith(own) else (ROOT,)
            if status is not None and is_file_of(status, *owners) and status.st_nlink == 1:
                yield status


def order_path(uid: int, folder: str = FOLDER) -> str:
    """Give the file whose presence is an order to stop what this user runs.

    Where somebody else has made one of that name, `pisa_fab-<uid>.<anything>.stop` is one, too.
    """
    return os.path.join(folder, f"{PREFIX}{uid}{STOP}")


# -- files and processes -------------------------------------------------------------------------------------


def look(path: str) -> os.stat_result | None:
    """Give the state of what is there, not of what it links to; None for nothing that can be seen."""
    try:
        return os.lstat(path)
    except OSError:
        return None


def is_file_of(status: os.stat_result | None, *users: int) -> bool:
    """Say whether this is the state of a regular file of one of these users."""
    return status is not None and stat.S_ISREG(status.st_mode) and status.st_uid in users


def entries(folder: str) -> list[str]:
    """Give the names in a folder, none if it cannot be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def unlink(path: str) -> None:
    """Remove a file, if that can be."""
    try:
        os.unlink(path)
    except OSError:
        pass


def moment(seconds: float) -> str:
    """Write Unix time as people here do, to the minute: `2026-11-22 14:05`."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def names_of(uid: int) -> tuple[str, str]:
    """Give the name of a user, and their full name or ""; the number where this PC knows no name."""
    if uid not in _names:
        import pwd

        try:
            entry = pwd.getpwuid(uid)
            _names[uid] = harmless(entry.pw_name), harmless(entry.pw_gecos.split(",")[0].strip())
        except KeyError:
            _names[uid] = str(uid), ""
    return _names[uid]


_names: dict[int, tuple[str, str]] = {}  # asked for once: a directory service may be slow


def namespace() -> str:
    """Say in which the numbers of processes are meant, "" where there are no such things."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def field_of(pid: int | str, number: int) -> int:
    """Give a number from /proc/PID/stat, -1 if that cannot be read."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[number - FIRST_FIELD])
    except (OSError, IndexError):
        return -1


def started_at(pid: int) -> int:
    """Give when a process was started, in clock ticks since the boot; -1 if it cannot be seen."""
    return field_of(pid, STARTED)


def name_process(title: str) -> None:
    """Have `ps` and `top` show this process by a telling name. Does nothing where that cannot be done.

    The title takes the place of the command line in memory, and is cut where that ended.
    """
    begin, end = field_of("self", ARGUMENTS_BEGIN), field_of("self", ARGUMENTS_END)
    if not 0 < begin < end:
        return
    call_libc("prctl", PR_SET_NAME, SHORT_NAME.encode("ascii"), 0, 0, 0)
    room = end - begin
    # It has to end in a zero: otherwise the kernel takes it for longer and shows the environment as well.
    data = harmless(title).encode("ascii", "replace")[: room - 1]
    move_text(begin, data.ljust(room, b"\0"))
