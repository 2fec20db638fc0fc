"""Who uses this PC: terminals, keyboard and mouse, desktops, as far as an unprivileged process can see them.

It travels to the host with the worker: standard library only, Python 3.8 or newer. What follows from what is
seen is `presence`'s business.

What the kernel and the system tell, without asking any service:

    /dev/pts/N, /dev/ttyN      the time of last access changes when a program reads what somebody typed there
    /proc/interrupts           i8042, the controller of built-in and PS/2 keyboards and mice, counts bytes
    /sys/bus/usb/devices       `urbnum` of a keyboard or a mouse counts its reports: it has none to make when
                               nobody touches it
    utmp, /run/systemd         who is logged in where: names for what is seen, no activity of their own

A desktop that is used from afar (xrdp, VNC), or on a PC whose keyboard cannot be seen, shows none of these.
There alone `loginctl` is asked whether the desktop calls itself idle; nothing ever waits for the answer.
"""

from __future__ import annotations

import os
import stat
import struct

from pisa_fab.light import signal

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from collections.abc import Iterator

UTMP = struct.Struct("=h2xi32s4s32s256s")  # type, pid, line, id, user, host; what follows is not needed
UTMP_SIZES = (384, 400)  # bytes of a record: x86-64, aarch64
UTMP_TYPES = range(10)
USER_PROCESS = 7  # the type of somebody who is logged in
CONSOLES = range(1, 13)  # virtual terminals that Ctrl-Alt-F1 to F12 reach
NO_PERSONS = {"greeter", "lock-screen", "background", "background-light", "manager", "manager-early"}
DESKTOPS = {"x11", "wayland", "mir"}
KEYBOARD_OR_MOUSE = {"01", "02"}  # bInterfaceProtocol of USB HID's boot interfaces
FILE_BYTES = 1 << 18
RESCAN_INTERVAL = 10.0  # seconds between two looks for keyboards and mice that were plugged in
HINT_INTERVAL = 10.0  # seconds between two questions to loginctl
HINT_PATIENCE = 8.0  # seconds that it may take
# Nobody works this long without a break that shows: such a desktop never calls itself idle.
HINT_TRUST = 12 * 3600.0


def read(path: str) -> str:
    """Give a file's text, "" if it is not there or is not a plain file."""
    return content(path).decode("utf-8", "replace")


def content(path: str) -> bytes:
    """Give what is in a file, nothing if it is not there or is not a plain file. Does not block on a FIFO."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return b""
        data = b""
        while len(data) < FILE_BYTES:
            piece = os.read(file, FILE_BYTES)
            data += piece
            if not piece:
                break
        return data
    except OSError:
        return b""
    finally:
        os.close(file)


def listed(path: str) -> list[str]:
    """Give the names in a folder, none if it is not there."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def logged_in(data: bytes) -> dict[str, tuple[str, str]]:
    """Give the name and the remote host ("" if local) of whoever utmp says is logged in at each line."""
    found: dict[str, tuple[str, str]] = {}
    for size in UTMP_SIZES:
        if len(data) % size:
            continue
        records = [UTMP.unpack_from(data, offset) for offset in range(0, len(data), size)]
        if all(record[0] in UTMP_TYPES for record in records):
            for kind, _, line, _, user, host in records:
                if kind == USER_PROCESS:
                    found[text_of(line)] = (text_of(user), text_of(host))
            break
    return found


def text_of(field: bytes) -> str:
    """Give the text of a field that is filled up with zeros, without what would upset a terminal."""
    text = field.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(letter for letter in text if letter.isprintable())


def settings(text: str) -> dict[str, str]:
    """Give the KEY=VALUE lines of one of logind's files."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")


class Desk:
    """The people at this machine. All that it keeps is what the last look showed.

    Attributes:
        who: in a few words, who was active last.
    """

    def __init__(self, root: str, uid: int) -> None:
        self.root = root
        self.uid = uid
        self.who = ""
        self.touched: dict[str, int] = {}  # when each terminal was last read from, in nanoseconds
        self.inputs = Inputs(root)
        self.hints = Hints(os.path.join(root, "usr/bin/loginctl"))
        self.heard: dict[str, tuple[bool, float]] = {}

    def look(self, now: float, wall: float, woken: bool) -> float | None:
        """Give how many seconds ago somebody was active, None if nothing new was seen of anybody.

        Args:
            now: on a monotonic clock.
            wall: the same moment as time of day. Only what is seen for the first time is compared with it, so
                it does not matter when that clock is set.
            woken: the machine has slept since the last look; that alone makes keyboards report something.
        """
        people = logged_in(content(self.path("run/utmp")) or content(self.path("var/run/utmp")))
        sessions = self.sessions()
        found = list(self.at_terminals(people, sessions, wall))
        if self.inputs.moved(now) and not woken:
            found.append((0.0, f"{self.at_seat(sessions)} is at the keyboard or mouse"))
        found += self.at_desktops(sessions, now, wall)
        if not found:
            return None
        age, self.who = min(found)
        return age

    def path(self, name: str) -> str:
        """Give the path of one of the system's files."""
        return os.path.join(self.root, name)

    def sessions(self) -> dict[str, dict[str, str]]:
        """Give what logind writes about each session of a person."""
        folder = self.path("run/systemd/sessions")
        found = {}
        for name in listed(folder):
            if name.endswith(".ref"):
                continue  # a FIFO
            session = settings(read(os.path.join(folder, name)))
            if (
                session
                and session.get("CLASS", "user") not in NO_PERSONS
                and session.get("STATE") != "closing"
            ):
                found[name] = session
        return found

    # -- terminals --------------------------------------------------------------------------------------

    def at_terminals(
        self, people: dict[str, tuple[str, str]], sessions: dict[str, dict[str, str]], wall: float
    ) -> Iterator[tuple[float, str]]:
        """Give how long ago who typed something, for every terminal where that is news."""
        known = dict(people)
        for session in sessions.values():
            if session.get("TTY") and session["TTY"] not in known:
                known[session["TTY"]] = (session.get("USER", ""), session.get("REMOTE_HOST", ""))
        lines = {f"pts/{name}" for name in listed(self.path("dev/pts")) if name.isdigit()}
        lines |= {f"tty{number}" for number in CONSOLES}
        lines |= {line for line in known if is_line(line)}
        touched: dict[str, int] = {}
        for line in lines:
            try:
                status = os.stat(self.path("dev/" + line))
            except OSError:
                continue
            if line.startswith("pts/") and status.st_uid == self.uid:
                continue  # our own: jobs are submitted from there; at the seat, the keyboard is seen
            touched[line] = status.st_atime_ns
            before = self.touched.get(line)
            if before is not None and before != status.st_atime_ns:
                yield 0.0, words(line, known)
            elif before is None and (line.startswith("pts/") or line in known):
                # A login prompt has been there since the PC was switched on: that alone is nobody.
                yield max(0.0, wall - status.st_atime_ns / 1e9), words(line, known)
        self.touched = touched

    # -- keyboard, mouse and desktops ---------------------------------------------------------------------

    @staticmethod
    def at_seat(sessions: dict[str, dict[str, str]]) -> str:
        """Give the name of whoever has the screen, "somebody" if that is not known."""
        for session in sessions.values():
            if session.get("SEAT") and session.get("ACTIVE") == "1" and session.get("USER"):
                return session["USER"]
        return "somebody"

    def at_desktops(
        self, sessions: dict[str, dict[str, str]], now: float, wall: float
    ) -> Iterator[tuple[float, str]]:
        """Give who has a desktop open that does not call itself idle, where nothing else shows its use."""
        hidden = {}
        for name, session in sessions.items():
            at_seat = bool(session.get("SEAT")) and session.get("REMOTE") != "1"
            ours = session.get("UID") == str(self.uid) and not at_seat
            if session.get("TYPE") in DESKTOPS and not ours and not (at_seat and self.inputs.counters):
                hidden[name] = session
        self.hints.ask(sorted(hidden), now)
        heard, self.heard = self.heard, self.hints.answers
        for name, session in hidden.items():
            if name not in self.heard:
                continue  # not yet, or there is no such program
            who = f"{session.get('USER') or 'somebody'} has a desktop open"
            idle, changed = self.heard[name]
            since = wall - max(changed, number(session.get("REALTIME")) / 1e6)
            if not idle and since < HINT_TRUST:
                yield 0.0, who
            elif idle and heard.get(name) != self.heard[name]:
                yield max(0.0, since), who


def is_line(line: str) -> bool:
    """Say whether utmp's line can be the name of a device in /dev; that of a display, `:0`, is none."""
    return bool(line) and ":" not in line and ".." not in line.split("/")


def words(line: str, known: dict[str, tuple[str, str]]) -> str:
    """Say who is active at a terminal."""
    user, host = known.get(line, ("", ""))
    user = user or "somebody"
    if not line.startswith("pts/"):
        return f"{user} is active at {line}"
    if host and host[0] != ":" and not host.startswith(("tmux(", "screen")):
        return f"{user} is logged in over SSH and active ({line})"
    return f"{user} is active in a terminal ({line})"


def number(text: str | None) -> float:
    """Give the number that a text is, 0 if it is none."""
    return float(text) if text and text.isdigit() else 0.0


class Inputs:
    """Counters that rise when somebody touches a keyboard or a mouse.

    Attributes:
        counters: what each counter showed last; empty where no keyboard and no mouse can be seen.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.counters: dict[str, int] = {}
        self.devices: list[str] = []
        self.has_controller = True
        self.rescan_at = float("-inf")

    def moved(self, now: float) -> bool:
        """Say whether any counter has risen since the last look; one that is new or starts anew has not."""
        if now >= self.rescan_at:
            self.rescan_at = now + RESCAN_INTERVAL
            self.devices = self.scan()
            self.has_controller = True
        before, self.counters = self.counters, self.count()
        return any(name in before and count > before[name] for name, count in self.counters.items())

    def scan(self) -> list[str]:
        """Give the folders of the USB devices that are keyboards or mice."""
        folder = os.path.join(self.root, "sys/bus/usb/devices")
        found = set()
        for name in listed(folder):
            device, colon, _ = name.partition(":")
            interface = os.path.join(folder, name)
            if (
                colon
                and read(interface + "/bInterfaceClass").strip() == "03"
                and read(interface + "/bInterfaceSubClass").strip() == "01"
                and read(interface + "/bInterfaceProtocol").strip() in KEYBOARD_OR_MOUSE
            ):
                found.add(os.path.join(folder, device))
        return sorted(found)

    def count(self) -> dict[str, int]:
        """Give what all counters show."""
        found = {}
        for device in self.devices:
            reports = read(device + "/urbnum").strip()
            if reports.isdigit():
                found[device] = int(reports)
        if self.has_controller:
            interrupts = 0
            self.has_controller = False
            for line in read(os.path.join(self.root, "proc/interrupts")).splitlines():
                if "i8042" in line:
                    self.has_controller = True
                    interrupts += sum(int(field) for field in line.split(":")[1].split() if field.isdigit())
            if self.has_controller:
                found["i8042"] = interrupts
        return found


class Hints:
    """What desktops say of themselves, through `loginctl`.

    It is a child of the worker like any other: somebody else may wait for it or end it. So only the end of
    its output counts.

    Attributes:
        answers: of each session, whether it calls itself idle, and since when it says so (time of day).
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.answers: dict[str, tuple[bool, float]] = {}
        self.pid = 0
        self.started = ""
        self.reader = -1
        self.output = b""
        self.asked_at = float("-inf")

    def ask(self, names: list[str], now: float) -> None:
        """Take up what was answered, and ask again when it is time."""
        if self.pid:
            self.listen(now)
        if not self.pid and names and now >= self.asked_at + HINT_INTERVAL:
            self.asked_at = now
            self.start(names)

    def start(self, names: list[str]) -> None:
        """Start the program."""
        argv = [
            self.program,
            "show-session",
            "-p",
            "Id",
            "-p",
            "IdleHint",
            "-p",
            "IdleSinceHint",
            "--",
            *names,
        ]
        self.output = b""
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, writer, 1),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        try:
            self.pid = os.posix_spawn(self.program, argv, dict(os.environ), file_actions=actions)
            self.started = started(self.pid)
        except OSError:
            os.close(self.reader)  # there is no such program: nothing is known of desktops
        finally:
            os.close(writer)

    def listen(self, now: float) -> None:
        """Read what there is; at its end, or when that takes too long, be done with the program."""
        try:
            while True:
                piece = os.read(self.reader, FILE_BYTES)
                if not piece:
                    break
                self.output += piece
        except BlockingIOError:
            if now < self.asked_at + HINT_PATIENCE:
                return
            self.output = b""
        os.close(self.reader)
        pid, self.pid = self.pid, 0
        # Its number is somebody else's as soon as the worker has waited for it.
        if started(pid) == self.started:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)  # what this leaves the worker takes
            except (ProcessLookupError, ChildProcessError):
                pass
        if self.output:
            self.answers = dict(answers(self.output.decode("utf-8", "replace")))


def started(pid: int) -> str:
    """Give when a child of ours was started, in clock ticks since boot; "" if it is not there any more."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[1] == str(os.getpid()) else ""


def answers(text: str) -> Iterator[tuple[str, tuple[bool, float]]]:
    """Give each session's name, whether it calls itself idle, and since when, of what loginctl says."""
    for block in text.split("\n\n"):
        said = settings(block)
        if said.get("Id") and "IdleHint" in said:
            yield said["Id"], (said["IdleHint"] == "yes", number(said.get("IdleSinceHint")) / 1e6)
