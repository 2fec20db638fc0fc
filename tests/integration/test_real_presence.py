"""Whether somebody needs the PC: real load and real terminals.

What else can be seen to run on this machine while the load is looked at counts as ours. What cannot be seen
(outside of a container, in processes that nobody waits for) may look like somebody for a moment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for

import pisa_fab
from pisa_fab.presence import WINDOW, Presence

RULES: dict[str, Any] = {
    "policy": "pause",
    "idle": 900.0,
    "quiet": 1.0,
    "give_back": 600.0,
    "load": 0.25,
    "min_free_memory": 0,
    "nice": 19,
}
BUSY = "while True: pass"
# So that it gets its share of a machine that others use, too; the kernel counts it like nice 0.
HASTE = -10 if os.geteuid() == 0 else 0
HOUR = 3600.0
Start = Callable[[str, int], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python program with another nice value; they are ended after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(source: str, nice: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", f"import os; os.nice({nice}); print(flush=True)\n{source}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"  # from here on it is as nice as it is to be
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Watch:
    """Looks at the load of this machine, where everything but a few processes is ours.

    Neither people nor pressure can be seen below its root: whoever else runs tests here makes both.
    """

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.proc.mkdir()
        (self.proc / "stat").symlink_to("/proc/stat")
        self.presence = Presence(RULES, str(root))
        self.others: set[int] = set()

    def look(self) -> str:
        time.sleep(0.2)  # the pace of looking; nothing is waited for
        pids = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}
        for pid in pids:
            with suppress(FileExistsError):
                (self.proc / str(pid)).symlink_to(f"/proc/{pid}")
        self.presence.look(clock(), sorted(pids - self.others))
        return self.presence.busy


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """Give the processor time of a process, or that of the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    first = 13 if children else 11
    return (int(fields[first]) + int(fields[first + 1])) / os.sysconf("SC_CLK_TCK")


def wait_until_they_worked_unnoticed(watch: Watch, worked: Callable[[], float], least: float) -> None:
    """Wait until nobody is seen, though our jobs have used the processor for longer than is looked back.

    If they were counted, somebody would be seen at every look. What this machine does out of sight is seen
    now and then.
    """
    began = clock()
    wait_for(
        lambda: not watch.look() and clock() - began > WINDOW + 1 and worked() > least,
        "our own jobs to work unnoticed",
    )


def test_somebody_elses_program_is_noticed_within_five_seconds_and_missed_after_quiet(
    tmp_path: Path, start: Start
) -> None:
    watch = Watch(tmp_path)
    watch.look()
    program = start(BUSY, HASTE)
    watch.others.add(program.pid)
    wait_for(watch.look, "the load of somebody else")
    # Its own seconds: on a machine that is so busy that it hardly runs, they pass more slowly.
    assert cpu_seconds(program.pid) < 5
    assert watch.presence.busy.startswith("others use ")
    assert watch.presence.free_in is None
    program.kill()
    program.wait()
    ended = clock()
    wait_for(lambda: not watch.look(), "the end of that load")
    assert clock() - ended >= RULES["quiet"]


def test_our_own_polite_jobs_are_not_counted_and_hide_nobody(tmp_path: Path, start: Start) -> None:
    watch = Watch(tmp_path)
    jobs = [start(BUSY, 19) for _ in range(2)]
    wait_until_they_worked_unnoticed(watch, lambda: sum(cpu_seconds(job.pid) for job in jobs), 0.1)
    program = start(BUSY, HASTE)
    watch.others.add(program.pid)
    wait_for(watch.look, "the load of somebody else")


def test_our_own_jobs_that_are_not_nice_are_not_counted_either(tmp_path: Path, start: Start) -> None:
    """Each uses its processor in children that live for a moment."""
    short = "import subprocess, sys\nwhile True: subprocess.run([sys.executable, '-Sc', 'sum(range(10**6))'])"
    watch = Watch(tmp_path)
    job = start(short, 0)
    wait_until_they_worked_unnoticed(watch, lambda: cpu_seconds(job.pid, children=True), 0.5)


class Terminal:
    """A real terminal, and the files that say that somebody is logged in there."""

    def __init__(self, folder: Path) -> None:
        self.master, self.slave = os.openpty()
        self.device = os.ttyname(self.slave)
        self.line = self.device[len("/dev/") :]
        link = folder / "dev" / self.line
        link.parent.mkdir(parents=True)
        link.symlink_to(self.device)
        record = b"".join(
            [
                (7).to_bytes(2, sys.byteorder) + bytes(2),
                os.getpid().to_bytes(4, sys.byteorder),
                self.line.encode().ljust(32, b"\0") + bytes(4),
                b"anna".ljust(32, b"\0"),
                b"192.0.2.7".ljust(256, b"\0"),
                bytes(52),
            ]
        )
        assert len(record) == 384
        (folder / "run").mkdir()
        (folder / "run" / "utmp").write_bytes(record)

    def rest(self, seconds: float) -> None:
        """Let it have been left alone for that long."""
        os.utime(self.device, (time.time() - seconds, time.time()))

    def type(self, text: bytes) -> None:
        """Type something, which a program there reads."""
        os.write(self.master, text + b"\n")
        assert os.read(self.slave, 100) == text + b"\n"

    def print(self, text: bytes) -> None:
        """Let a program there say something."""
        os.write(self.slave, text)
        os.read(self.master, 1000)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    os.close(terminal.master)
    os.close(terminal.slave)


def test_typing_at_a_terminal_is_noticed_at_once_and_forgotten_after_quiet(
    tmp_path: Path, terminal: Terminal
) -> None:
    terminal.rest(2 * HOUR)
    presence = Presence(RULES, str(tmp_path), os.getuid() + 1)
    presence.look(clock(), [])
    assert presence.busy == ""
    terminal.print(b"a clock that ticks")
    presence.look(clock(), [])
    assert presence.busy == ""
    terminal.type(b"ls")
    typed = clock()
    presence.look(clock(), [])
    assert presence.busy == f"anna is logged in over SSH and active ({terminal.line})"

    def left() -> bool:
        presence.look(clock(), [])
        return not presence.busy

    wait_for(left, "quiet")
    assert clock() - typed >= RULES["quiet"]


def test_who_typed_a_minute_ago_keeps_the_pc_for_a_while(tmp_path: Path, terminal: Terminal) -> None:
    terminal.rest(60)
    presence = Presence(RULES, str(tmp_path), os.getuid() + 1)
    presence.look(clock(), [])
    assert presence.free_in == pytest.approx(840, abs=30)


def test_our_own_terminal_is_nobody(tmp_path: Path, terminal: Terminal) -> None:
    presence = Presence(RULES, str(tmp_path))
    presence.look(clock(), [])
    terminal.type(b"inv submit")
    presence.look(clock(), [])
    assert presence.busy == ""


def test_this_machine_can_be_looked_at(start: Start) -> None:
    presence = Presence({**RULES, "min_free_memory": 1 << 60})
    pids = [start("input()", 19).pid for _ in range(3)]
    for _ in range(5):
        began = time.thread_time()
        presence.look(clock(), [os.getpid(), *pids])
        assert time.thread_time() - began < 0.1
    assert presence.full.endswith(f"MB of memory are free (at least {1 << 40} MB)")


def pythons() -> list[str]:
    """Give every Python on PATH that a host may have and that runs."""
    found = [path for minor in range(8, 15) if (path := shutil.which(f"python3.{minor}"))]
    return [path for path in found if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0]


@pytest.mark.parametrize("python", pythons())
def test_it_needs_nothing_but_a_python(tmp_path: Path, python: str) -> None:
    package = tmp_path / "pisa_fab"
    package.mkdir()
    for name in ("presence.py", "desk.py", "light.py"):
        shutil.copy(Path(pisa_fab.__file__).parent / name, package)
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from pisa_fab.presence import Presence
presence = Presence({RULES!r})
for now in range(5):
    presence.look(now, [1])
print(presence.free_in is None or presence.free_in >= 0)
"""
    done = subprocess.run([python, "-ISc", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
