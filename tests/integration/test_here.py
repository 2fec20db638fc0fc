"""Several real users at one PC: notes, orders to stop and what a hostile user puts into /tmp.

Every process runs in a mount namespace of its own, in which one folder of the test is /tmp for all of them.
So nothing here meets what other tests, or people, have in the /tmp of this machine.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from processes import wait_for

import pisa_fab
from pisa_fab import notes

# Users that exist nowhere else; different in tests that run at the same time.
ANNA, BOB, MALLORY = (200_000 + 3 * (os.getpid() % 100_000) + number for number in range(3))
OLDEST = (3, 11)  # that `here` runs with
AS_USER = 'mount --bind "$0" /tmp && cd / && user=$1 && shift && exec setpriv --reuid $user --regid $user '
AS_USER += '--clear-groups "$@"'

# What the worker does with its note and orders, with jobs that are but numbers.
WORKER = """
import os, sys, time
from pisa_fab.notes import Note, name_process, stop_order
path, batch, stubborn, title = sys.argv[1:]
if title:
    name_process(title)
note = Note(path, {"batch": batch, "head": "pc01", "contact": "room 1.23"})
while True:
    order = stop_order(os.geteuid())
    if order and not stubborn:
        note.remove()  # it leaves, and is called again
    else:
        note.say(3, 0, 3, order, time.time())
    print(note.path, order, sep="\\t", flush=True)
    time.sleep(0.02)
"""


@cache
def unavailable() -> str | None:
    """Say why this machine cannot have several users in this test, None if it can."""
    if os.geteuid() != 0:
        return "needs root, to be other users"
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        return "there is no Python that every user may run"
    version = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", AS_USER, "/tmp", str(ANNA)]
    tried = subprocess.run([*command, python, "-c", version], capture_output=True, text=True, check=False)
    return f"no users here: {tried.stderr}" if tried.returncode else None


class Desk:
    """A PC at which several users work; `tmp` is its /tmp."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.workers: list[subprocess.Popen[str]] = []
        tmp.chmod(0o1777)
        sources = tmp / "sources" / "pisa_fab"
        shutil.copytree(Path(pisa_fab.__file__).parent, sources, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (sources.parent, *sources.parent.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self.python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or ""

    def command(self, uid: int, program: str, *arguments: str) -> list[str]:
        """Give the command that runs a Python program as a user, with our modules."""
        begin = "import sys; sys.dont_write_bytecode = True; sys.path.insert(0, '/tmp/sources')\n"
        seat = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            AS_USER,
            str(self.tmp),
            str(uid),
        ]
        return [*seat, self.python, "-I", "-S", "-c", begin + program, *arguments]

    def run(self, uid: int, program: str, *arguments: str) -> str:
        """Run a program as a user and give what it prints."""
        command = self.command(uid, program, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout

    def describe(self, uid: int = 0) -> list[str]:
        """Give what `here` shows a user."""
        program = "from pisa_fab import here; print('\\n'.join(here.describe()))"
        return self.run(uid, program).splitlines()

    def shown(self, uid: int = 0) -> list[str]:
        """Give the users and batches of which `here` tells a user."""
        return [text.split(",")[0] for text in self.describe(uid) if "here since" in text]

    def order(self, uid: int, call: str) -> str:
        """Have a user call a function of `here`; give what it says, or the error."""
        program = (
            "from pisa_fab import here\nfrom pisa_fab.errors import PisaError\n"
            f"try: print(here.{call})\nexcept PisaError as error: print('ERROR', error)"
        )
        return self.run(uid, program).rstrip("\n")

    def worker(
        self, uid: int, name: str = "a0b1", batch: str = "fib_run", *, stubborn: bool = False, title: str = ""
    ) -> Path:
        """Start a worker and give the file of its note, as it is seen outside."""
        arguments = (f"/tmp/pisa_fab-{name}.note", batch, "yes" if stubborn else "", title)
        command = self.command(uid, WORKER, *arguments)
        log = self.tmp / "sources" / f"worker-{len(self.workers)}"
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, text=True)
        self.workers.append(process)

        def path() -> str:
            assert process.poll() is None, log.read_text()
            return log.read_text().partition("\t")[0]

        return self.tmp / Path(wait_for(path, "the worker's note")).name

    def orders(self, number: int = 0) -> str:
        """Give the order that a worker has seen when it looked last."""
        lines = (self.tmp / "sources" / f"worker-{number}").read_text().split("\n")
        return lines[-2].split("\t")[1]

    def make(self, uid: int, name: str, text: str = "") -> Path:
        """Put a file of a user into /tmp."""
        path = self.tmp / name
        path.write_text(text)
        path.chmod(0o644)
        os.chown(path, uid, uid)
        return path

    def close(self) -> None:
        """End all that runs there."""
        for process in self.workers:
            process.kill()
            process.wait()


@pytest.fixture
def desk() -> Iterator[Desk]:
    if reason := unavailable():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        tmp = Path(folder, "tmp")
        tmp.mkdir()
        desk = Desk(tmp)
        yield desk
        desk.close()


# -- what is there to see --------------------------------------------------------------------------------


def test_anybody_sees_whose_jobs_run_and_how_to_stop_them(desk: Desk) -> None:
    assert desk.describe(BOB) == ["nobody's pisa_fab jobs run here"]
    assert desk.worker(ANNA) == desk.tmp / "pisa_fab-a0b1.note"
    desk.worker(BOB, "c2d3", "bobs_run")
    lines = desk.describe(MALLORY)
    assert len(lines) == 11
    assert lines[0].startswith(f"{ANNA}: fib_run, started from pc01, here since 20")
    assert lines[1:5] == [
        "  3 jobs run",
        "  to ask:  room 1.23",
        f"  to stop: pisa-fab here --stop ({ANNA}), or touch /tmp/pisa_fab-{ANNA}.stop",
        f"  as root: touch /tmp/pisa_fab-{ANNA}.stop, or kill {desk.workers[0].pid} for now",
    ]
    assert lines[5] == ""
    assert lines[6].startswith(f"{BOB}: bobs_run, started from pc01")
    assert max(map(len, lines)) <= 80
    assert (desk.tmp / "pisa_fab-a0b1.note").stat().st_uid == ANNA
    everybody = Path("/proc/mounts").read_text().find("hidepid") < 0
    assert not everybody or desk.describe(0) == lines


def test_ps_and_top_show_the_name(desk: Desk) -> None:
    title = "pisa_fab: jobs of anna for fib_run; pisa-fab here"
    desk.worker(ANNA, title=title)
    pid = str(desk.workers[0].pid)
    for program in (["ps", "-o", "args=", "-p", pid], ["ps", "-o", "comm=", "-p", pid]):
        shown = subprocess.run(program, capture_output=True, text=True, check=True).stdout.rstrip()
        assert shown == (title if "args=" in program else "pisa_fab")
    top = subprocess.run(["top", "-b", "-n1", "-p", pid], capture_output=True, text=True, check=True).stdout
    assert top.rstrip().endswith("pisa_fab")


def test_a_worker_that_was_killed_is_not_shown_and_the_next_takes_its_name(desk: Desk) -> None:
    path = desk.worker(ANNA)
    desk.workers[0].kill()
    desk.workers[0].wait()
    assert path.exists()
    assert desk.shown(BOB) == []
    assert desk.worker(ANNA) == path
    assert desk.shown(BOB) == [f"{ANNA}: fib_run"]
    desk.workers[1].kill()
    desk.workers[1].wait()
    remove = "from pisa_fab.notes import remove_notes; remove_notes('/tmp/pisa_fab-a0b1.note')"
    desk.run(BOB, remove)
    assert path.exists()
    desk.run(ANNA, remove)
    assert not path.exists()


# -- orders ----------------------------------------------------------------------------------------------


def test_an_owner_stops_their_own_jobs_and_starts_them_again(desk: Desk) -> None:
    desk.worker(ANNA)
    desk.worker(ANNA, "e4f5", "second_run")
    desk.worker(BOB, "c2d3", "bobs_run")
    assert (
        desk.order(ANNA, "stop()") == "6 jobs ended; none will start on this PC before: pisa-fab here --start"
    )
    assert desk.shown() == [f"{BOB}: bobs_run"]
    assert f"stopped at this PC by {ANNA} at " in desk.orders(0)
    assert desk.orders(2) == ""
    assert desk.order(BOB, "start()") == f"nothing was stopped: jobs of {BOB} may run on this PC"
    assert desk.orders(1) != ""
    assert desk.order(ANNA, "start()") == f"jobs of {ANNA} may run on this PC again"
    wait_for(lambda: not desk.orders(0) and not desk.orders(1), "the workers to see that")
    wait_for(lambda: desk.describe().count("  3 jobs run") == 3, "the notes to say that")


def test_root_stops_everybody_and_alone_takes_that_back(desk: Desk) -> None:
    desk.worker(ANNA)
    desk.worker(BOB, "c2d3")
    assert desk.order(0, "stop()").startswith("6 jobs ended")
    assert "by root" in desk.orders(0)
    assert "by root" in desk.orders(1)
    assert desk.order(ANNA, "start()") == (
        "ERROR root has stopped pisa_fab on this PC\n  tip: only root can let it work again"
    )
    assert desk.describe(ANNA)[-2].startswith("your own jobs: stopped at this PC by root")
    assert desk.order(0, "start()") == "jobs of any user may run on this PC again"
    wait_for(lambda: not desk.orders(0) and not desk.orders(1), "the workers to see that")


def test_root_needs_only_touch_to_stop_one_user(desk: Desk) -> None:
    desk.worker(ANNA)
    desk.worker(BOB, "c2d3")
    desk.make(0, f"pisa_fab-{ANNA}.stop")
    wait_for(lambda: "by root" in desk.orders(0), "the order")
    assert desk.orders(1) == ""
    assert desk.order(0, "start()").endswith("again")
    assert not (desk.tmp / f"pisa_fab-{ANNA}.stop").exists()


def test_jobs_that_do_not_end_are_said(desk: Desk) -> None:
    desk.worker(ANNA, stubborn=True)
    assert desk.order(ANNA, "stop(patience=0.5)") == (
        f"ERROR 3 jobs of {ANNA} on this PC did not end within 0 s\n"
        "  tip: the order stands; look again with pisa-fab here"
    )
    assert (desk.tmp / f"pisa_fab-{ANNA}.stop").exists()


# -- a hostile user --------------------------------------------------------------------------------------


def test_a_note_never_follows_or_replaces_what_is_there(desk: Desk) -> None:
    treasure = desk.make(ANNA, "treasure", "precious")
    name = desk.tmp / "pisa_fab-a0b1.note"
    name.symlink_to("/tmp/treasure")
    os.chown(name, MALLORY, MALLORY, follow_symlinks=False)
    assert desk.worker(ANNA) != name
    assert name.is_symlink()
    # Root may replace anything, so a worker of root's has to take care.
    theirs = desk.make(BOB, "pisa_fab-c2d3.note", "of bob")
    assert desk.worker(0, "c2d3") != theirs
    assert theirs.read_text() == "of bob"
    assert theirs.stat().st_uid == BOB
    assert treasure.read_text() == "precious"
    assert desk.shown(BOB) == ["root: fib_run", f"{ANNA}: fib_run"]


def test_a_name_that_is_taken_prevents_no_order_and_lifts_none(desk: Desk) -> None:
    desk.worker(ANNA)
    squatted = desk.make(MALLORY, f"pisa_fab-{ANNA}.stop")
    desk.make(MALLORY, "pisa_fab-0.stop")
    desk.make(ANNA, "pisa_fab-0.anna.stop")  # root's order, by somebody else: none even for themselves
    desk.make(MALLORY, f"pisa_fab-{ANNA}.0000.stop")
    assert desk.orders() == ""
    desk.order(ANNA, "give_order('/tmp')")
    wait_for(lambda: f"by {ANNA}" in desk.orders(), "the order")
    squatted.unlink()
    assert f"by {ANNA}" in notes.stop_order(ANNA, str(desk.tmp))
    desk.order(ANNA, "give_order('/tmp')")
    assert len(list(desk.tmp.glob("*.stop"))) == 4
    assert desk.order(ANNA, "start()").endswith("again")
    wait_for(lambda: desk.orders() == "", "the worker to see that")


def forged(**changes: object) -> str:
    """Give the text of a note that a user writes by hand."""
    facts = {"uid": MALLORY, "batch": "forged", "running": 3, "process": 1, "tick": 0}
    facts |= {"namespace": notes.namespace(), **changes}
    return "".join(f"{key}: {value}\n" for key, value in facts.items())


FORGERIES = {
    "of another user": lambda: forged(uid=ANNA, namespace="another"),
    "of root": lambda: forged(uid=0, namespace="another"),
    "root's process": lambda: forged(tick=notes.started_at(1)),
    "somebody's process": lambda: forged(process=os.getpid(), tick=notes.started_at(os.getpid())),
    "no process": lambda: forged(process=999_999_999, tick=5),
    "no number": lambda: forged(process="\u0661", namespace="another"),
    "too long": lambda: forged(namespace="another") + "x" * 10_000,
    "no text": lambda: "\0\n:\n::\n\xff",
    "nothing": lambda: "",
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_note_that_is_not_true_is_not_shown_even_if_it_is_locked(desk: Desk, what: str) -> None:
    path = desk.make(MALLORY, "pisa_fab-ffff.note", FORGERIES[what]())
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert desk.describe(BOB) == ["nobody's pisa_fab jobs run here"]


def test_a_living_process_makes_no_claim_true_to_be_somebody_else_or_an_earlier_one(desk: Desk) -> None:
    desk.worker(MALLORY, "c2d3", "own_run")
    pid = desk.workers[0].pid
    tick = notes.started_at(pid)
    for uid, since, known in ((MALLORY, tick, 2), (ANNA, tick, 1), (MALLORY, tick - 1, 1)):
        path = desk.make(MALLORY, "pisa_fab-ffff.note", forged(uid=uid, process=pid, tick=since))
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert len(desk.shown(BOB)) == known


def test_where_the_process_cannot_be_seen_the_lock_decides(desk: Desk) -> None:
    path = desk.make(MALLORY, "pisa_fab-ffff.note", forged(namespace="another"))
    with path.open() as file:
        assert desk.shown(BOB) == []
        fcntl.flock(file, fcntl.LOCK_EX)
        assert desk.shown(BOB) == [f"{MALLORY}: forged"]


def test_a_note_that_others_may_write_is_not_shown(desk: Desk) -> None:
    desk.worker(ANNA).chmod(0o666)
    assert desk.shown(BOB) == []


def test_the_old_note_of_a_dead_worker_is_not_shown_because_somebody_locks_it(desk: Desk) -> None:
    path = desk.worker(ANNA)
    desk.workers[0].kill()
    desk.workers[0].wait()
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert desk.shown() == []
        again = desk.worker(ANNA)
        assert desk.shown() == [f"{ANNA}: fib_run"]
    assert again.exists()


def test_what_is_no_file_holds_up_nobody(desk: Desk) -> None:
    os.mkfifo(desk.tmp / "pisa_fab-1111.note")
    (desk.tmp / "pisa_fab-2222.note").mkdir()
    (desk.tmp / "pisa_fab-3333.note").symlink_to("/dev/zero")
    (desk.tmp / "pisa_fab-4444.note").symlink_to("/tmp/pisa_fab-4444.note")
    (desk.tmp / "pisa_fab-5555.note").symlink_to(desk.worker(ANNA).name)
    os.mkfifo(desk.tmp / f"pisa_fab-{ANNA}.stop")
    os.chown(desk.tmp / f"pisa_fab-{ANNA}.stop", ANNA, ANNA)
    assert desk.shown(BOB) == [f"{ANNA}: fib_run"]
    assert desk.orders() == ""


def test_a_true_note_of_a_hostile_user_cannot_steer_a_terminal_or_name_a_process(desk: Desk) -> None:
    text = forged(batch="\x1b[2Jroot", namespace="another", **{"to ask": "\x07\u202e" * 20})
    path = desk.make(MALLORY, "pisa_fab-ffff.note", text + f"user: root\nto stop: kill 1\n{text}")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = desk.describe(BOB)
    assert lines[0].startswith(f"{MALLORY}: ?[2Jroot")
    assert all(line.isprintable() for line in lines)
    assert not any("kill" in line for line in lines)
