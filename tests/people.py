"""Other people at a PC, for tests: terminals at which somebody types, where nobody else is to be seen.

Needs root. The terminals are real ones, of a devpts of their own, so they meet neither people at this machine
nor other tests. What the worker makes of them is in `pisa_fab.desk`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

# Terminals of its own, and neither keyboards nor mice of this machine.
ALONE = """
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts /dev/pts
mount --bind /dev/null /proc/interrupts
test ! -d /sys/bus/usb/devices || mount -t tmpfs none /sys/bus/usb/devices
"""
READY = "this seat is there"
UNLOCK = 0x40045431  # TIOCSPTLCK of ioctl_tty(2)
NUMBER = 0x80045430  # TIOCGPTN
HOUR = 3600.0
# A user who owns nothing else; different in tests that run at the same time.
STRANGER = 100_000 + os.getpid() % 100_000


UNSHARE = ["unshare", "--mount", "--propagation", "private"]


@cache
def unavailable() -> str | None:
    """Say why there can be no such seats here, None if there can."""
    if os.geteuid() != 0:
        return "needs root, for terminals of its own"
    command = [*UNSHARE, "sh", "-ec", f"mount -t tmpfs none /run\n{ALONE}"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"no terminals of its own here: {tried.stderr.strip()}" if tried.returncode else None


class Seat:
    """A PC that is like this one but for its people: nobody is logged in. Ends with `close`.

    Attributes:
        prefix: what to put before a command to run it there.
        desk: its people.
    """

    def __init__(self) -> None:
        script = f"mount -t tmpfs none /run\n{ALONE}\necho {READY}\nexec sleep infinity"
        sh = shutil.which("sh") or "/bin/sh"
        self.process = subprocess.Popen([*UNSHARE, sh, "-ec", script], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == READY + "\n"
        self.prefix = ["nsenter", f"--target={self.process.pid}", "--mount"]
        self.desk = Desk(Path(f"/proc/{self.process.pid}/root"))

    def close(self) -> None:
        self.desk.close()
        self.process.kill()
        self.process.communicate()


class Desk:
    """The people at a PC, all of them known to utmp; `root` is the root of what that PC sees."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.terminals: list[Terminal] = []

    def log_in(self, user: str) -> Terminal:
        """Let somebody be logged in at a terminal, who has done nothing there for hours."""
        self.terminals.append(Terminal(self.root, user))
        (self.root / "run/utmp").write_bytes(b"".join(terminal.record() for terminal in self.terminals))
        return self.terminals[-1]

    def close(self) -> None:
        for terminal in self.terminals:
            terminal.close()


class Terminal:
    """A terminal of another user."""

    def __init__(self, root: Path, user: str) -> None:
        self.user = user
        self.master = os.open(root / "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(self.master, UNLOCK, struct.pack("i", 0))
        (number,) = struct.unpack("i", fcntl.ioctl(self.master, NUMBER, bytes(4)))
        self.line = f"pts/{number}"
        self.device = root / "dev" / self.line
        # Left alone for hours.
        os.utime(self.device, (time.time() - 2 * HOUR, time.time()))
        os.chown(self.device, STRANGER, STRANGER)
        self.slave = os.open(self.device, os.O_RDWR | os.O_NOCTTY)

    def record(self) -> bytes:
        """Give the record of utmp that says who is logged in here."""
        kind = (7).to_bytes(2, sys.byteorder) + bytes(2)
        pid = os.getpid().to_bytes(4, sys.byteorder)
        names = [text.encode().ljust(size, b"\0") for text, size in ((self.user, 32), ("192.0.2.7", 256))]
        return kind + pid + self.line.encode().ljust(32, b"\0") + bytes(4) + b"".join(names) + bytes(52)

    def type(self) -> float:
        """Let somebody type a line, which a program there reads; give the time of day before.

        Once: the kernel notes when that was to eight seconds only, so that the next line may not show.
        """
        before = time.time()
        os.write(self.master, b"ls\n")
        assert os.read(self.slave, 100) == b"ls\n"
        return before

    def close(self) -> None:
        os.close(self.slave)
        os.close(self.master)
