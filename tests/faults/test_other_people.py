"""Other people at the PCs of a pool, and what the cluster file promises them, under a real run.

Each PC has terminals of its own, at which somebody may type (see people.py), and where load matters a view
of the machine in which other tests do not show.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import people
import pytest
from marks import hosts
from namespaces import NamespacePool
from pcs import SHARE, Host
from people import Desk
from processes import wait_for
from programs import Completed, Program, Programs, Project
from witness import Batch, begin, succeed

pytestmark = pytest.mark.root
Run = Callable[..., Completed]
Start = Callable[..., Program]

REACTION = 5.0  # seconds that jobs may go on when somebody else needs the PC
QUIET = 2.0  # seconds
TICK = 0.05  # seconds, in TICKS
# Notes all the time that it is not standing still.
TICKS = """
import threading
def tick():
    with open("ticks/" + job + "." + attempt, "a", buffering=1) as file:
        while True:
            print(time.time(), file=file)
            time.sleep(0.05)
threading.Thread(target=tick, daemon=True).start()
"""
# It gets its share of a machine that others use, too; the kernel counts it like nice 0.
BUSY = "import os\nos.setpriority(os.PRIO_PROCESS, 0, -15)\nprint(flush=True)\nwhile True: pass"
READ_AGAIN = "the cluster file was read again"


@pytest.fixture
def desk_of(pool: NamespacePool) -> Iterator[Callable[[str], Desk]]:
    """Give the people at a host; from then on no keyboard and no terminal of this machine is seen there."""
    desks: list[Desk] = []

    def make(name: str) -> Desk:
        host = pool[name]
        host.run("sh", "-ec", people.ALONE)
        assert host.init is not None
        desks.append(Desk(Path(f"/proc/{host.init.pid}/root")))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


def owner(**rules: object) -> dict[str, object]:
    """Give rules for somebody else that a test can wait for; load does not count unless they say so."""
    return {"policy": "pause", "idle": "0s", "quiet": "2s", "give_back": "1h", "load": 1000, **rules}


def ticking(project: Project, jobs: int) -> Batch:
    """Write a batch whose jobs note when they do not stand still."""
    (project.path / "ticks").mkdir()
    return Batch(project, jobs, TICKS)


def ticks(batch: Batch, job: str, attempt: int = 1) -> list[float]:
    """Give when an attempt did something, in Unix time."""
    return [float(line) for line in (batch.project.path / f"ticks/{job}.{attempt}").read_text().split()]


def events(batch: Batch, kind: str) -> list[tuple[float, dict[str, Any]]]:
    """Give the events of one kind in the journal, with their Unix times."""
    lines = (batch.run / ".pisa/journal.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [(event["t"], event) for event in found if event["e"] == kind]


def wait_for_slots(program: Program, batch: Batch, slots: int, why: str, host: str = "pc01") -> None:
    """Wait until a host may run so many jobs and the last reason that was given begins like this."""

    def is_so() -> bool:
        assert program.running(), program.stdout + program.stderr
        said = [event for _, event in events(batch, "slots") if event["host"] == host]
        return bool(said) and said[-1]["slots"] == slots and said[-1]["reason"].startswith(why)

    wait_for(is_so, f"{host} to have {slots} slots: {why}")


def numbered(ranges: str) -> list[str]:
    """Give the names of jobs that the journal writes as `0,4-6`."""
    pairs = [part.split("-") for part in ranges.split(",") if part]
    return [f"{job:04d}" for pair in pairs for job in range(int(pair[0]), int(pair[-1]) + 1)]


def wait_for_turn(program: Program) -> None:
    """Wait until a head has looked at everything again: told to read the cluster file, it says so.

    It does so in the middle of a turn, which is over when it says so once more.
    """
    for _ in range(2):
        said = program.stdout.count(READ_AGAIN)
        hang_up(program)
        program.wait_for_output(READ_AGAIN, said + 1)


def hang_up(program: Program) -> None:
    """Have the head read the cluster file again now."""
    program.process.send_signal(signal.SIGHUP)


# -- somebody at the PC ------------------------------------------------------------------------------------


@hosts(2)
def test_jobs_stand_still_while_somebody_types_and_go_on_after_quiet(
    pool: NamespacePool,
    project: Project,
    desk_of: Callable[[str], Desk],
    run_program: Run,
    start_program: Start,
) -> None:
    desks = [desk_of(name) for name in pool.names]
    anna = desks[0].log_in("anna")
    batch = ticking(project, 4)
    project.pool(pool.hosts, owner=owner())
    program = begin(start_program, batch, 4)
    typed = anna.type()
    wait_for_slots(program, batch, 0, f"anna is logged in over SSH and active ({anna.line})")
    wait_for_slots(program, batch, 2, "")
    resumed = time.time()
    on_pc01, on_pc02 = ({attempt.job for attempt in batch.begun(name)} for name in pool.names)
    wait_for(
        lambda: all(ticks(batch, job)[-1] > resumed for job in (*on_pc01, *on_pc02)),
        "jobs to go on",
    )
    (paused_at, paused), (_, went_on) = events(batch, "paused")
    assert set(numbered(paused["jobs"])) == on_pc01
    assert numbered(went_on["jobs"]) == []
    for job in on_pc01:
        said = ticks(batch, job)
        last = max(tick for tick in said if tick <= paused_at)
        # Ticks and no seconds: on a machine that stands still for a while, the jobs do so, too.
        assert sum(typed < tick <= last for tick in said) <= REACTION / TICK
        assert min(tick for tick in said if tick > last) - last >= QUIET - 0.1
    succeed(program, batch)
    batch.check(run_program, again=set())


class Load:
    """A PC on which nobody else uses the processors, until somebody's program does.

    It sees a real program's real use of this machine, and none of other tests'.
    """

    def __init__(self, host: Host) -> None:
        self.file = host.folder / "stat"
        self.rest = Path("/proc/stat").read_text().partition("\n")[2]
        self.process: subprocess.Popen[bytes] | None = None
        self.used = 0  # ticks
        self.seen: list[tuple[float, float]] = []  # Unix times, and how long the program had computed then
        self.ended = threading.Event()
        self.note()
        host.run("mount", "--bind", SHARE / "stat", "/proc/stat")
        self.thread = threading.Thread(target=self.keep)
        self.thread.start()

    def note(self) -> None:
        """Write what the PC sees; always of the same length, for it may be read meanwhile."""
        text = f"cpu  {self.used:015d}" + f" {0:015d}" * 9 + "\n" + self.rest
        with self.file.open("r+b" if self.file.exists() else "wb", buffering=0) as file:
            file.write(text.encode())

    def keep(self) -> None:
        """Keep that up to date."""
        while not self.ended.wait(0.1):
            process = self.process
            if process is not None:
                self.seen.append((time.time(), self.seconds(process)))
                self.used = round(self.seen[-1][1] * os.sysconf("SC_CLK_TCK"))
                self.note()

    def start(self) -> None:
        """Let somebody's program compute."""
        process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        self.process = process

    @staticmethod
    def seconds(process: subprocess.Popen[bytes]) -> float:
        """Give how long a program has computed, in seconds of a processor."""
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def seconds_at(self, moment: float) -> float:
        """Give how long that program had computed at a time, in seconds of a processor."""
        return max(seconds for when, seconds in self.seen if when <= moment)

    def stop(self) -> None:
        """End that program."""
        self.ended.set()
        self.thread.join()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def load_on() -> Iterator[Callable[[Host], Load]]:
    """Give the load of a host; it is ended after the test."""
    loads: list[Load] = []

    def make(host: Host) -> Load:
        loads.append(Load(host))
        return loads[-1]

    yield make
    for load in loads:
        load.stop()


@hosts(2)
def test_a_host_that_others_use_stands_still_says_so_and_gives_its_jobs_back(
    pool: NamespacePool,
    project: Project,
    desk_of: Callable[[str], Desk],
    load_on: Callable[[Host], Load],
    run_program: Run,
    start_program: Start,
) -> None:
    loads = [load_on(host) for host in pool.hosts]
    for name in pool.names:
        desk_of(name)
    batch = ticking(project, 6)
    project.pool(pool.hosts, owner=owner(load=0.4))
    program = begin(start_program, batch, 4)
    loads[0].start()
    wait_for_slots(program, batch, 0, "others use ")
    wait_for(lambda: events(batch, "paused"), "the journal to say that jobs stand still")
    # Its own seconds: on a machine that is so busy that it hardly runs, they pass more slowly.
    assert loads[0].seconds_at(events(batch, "paused")[0][0]) < REACTION
    mine = [attempt.job for attempt in batch.begun("pc01")]
    status = run_program("inv", "status").stdout
    assert "pc01: held: others use " in status
    why = run_program("inv", "status", "--job", mine[0]).stdout
    assert "it stands still on pc01, begun since " in why
    assert ": others use " in why
    shown = json.loads(run_program("inv", "hosts", "--json").stdout)
    first, second = shown["hosts"]
    assert (first["slots"], first["running"], first["paused"]) == (0, 0, 2)
    assert first["why"].startswith("others use ")
    assert (second["slots"], second["running"], second["paused"]) == (2, 2, 0)
    assert (shown["running"], shown["paused"]) == (2, 2)

    # An edited file holds at once when the head is told: they have stood still for longer than that.
    project.pool(pool.hosts, owner=owner(load=0.4, give_back="0s"))
    hang_up(program)
    given_back = wait_for(
        lambda: [event for _, event in events(batch, "ended") if event["host"] == "pc01"][1:],
        "pc01 to give its jobs back",
    )
    assert {event["ending"] for event in given_back} == {"stopped"}
    batch.let_go(*(attempt.job for attempt in batch.begun("pc02")))
    wait_for(lambda: set(mine) <= {attempt.job for attempt in batch.begun("pc02")}, "pc02 to run them")
    assert len(batch.begun("pc01")) == 2  # nothing new, though two jobs wait and nothing runs there
    loads[0].stop()
    batch.wait_for_begun(4, "pc01")
    succeed(program, batch)
    batch.check(run_program, again=set(mine))


# -- windows -----------------------------------------------------------------------------------------------


# What Python runs first: everything that asks for the time of day is told a later one. Other clocks are as
# they are. (libfaketime would make each sleep of Python's fail: it ends at a time of the monotonic clock.)
LATER = """
import time
_now = time.time
def later():
    with open({file!r}) as file:
        return _now() + float(file.read())
time.time = later
"""


class Clock:
    """The time of day of programs on the head, that can be set.

    Attributes:
        start: what it showed at first, without the seconds.
        inv: what runs `inv` by this clock.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.file = folder / "ahead"
        self.start = datetime.now(UTC).replace(second=0, microsecond=0)
        (folder / "sitecustomize.py").write_text(LATER.format(file=str(self.file)))
        self.inv = ["env", f"PYTHONPATH={folder}", str(Path(sys.executable).parent / "inv")]

    def advance(self, minutes: float, seconds: float = 0) -> None:
        """Make it so much later than `start` now."""
        moment = self.start + timedelta(minutes=minutes, seconds=seconds)
        new = self.file.with_suffix(".new")
        new.write_text(f"{moment.timestamp() - time.time():+.3f}\n")
        new.rename(self.file)

    def hours(self, first: int, last: int) -> str:
        """Give the hours of a window, both in minutes after `start`."""
        ends = (self.start + timedelta(minutes=minutes) for minutes in (first, last))
        return "-".join(f"{end:%H:%M}" for end in ends)


@pytest.fixture
def clock(pool: NamespacePool) -> Clock:
    """A clock that can be set, for programs on the head."""
    return Clock(pool.home / "clock")


@hosts(2)
def test_a_window_that_closes_has_jobs_pause_or_run_again_and_they_go_on_in_the_next(
    pool: NamespacePool, project: Project, clock: Clock, run_program: Run, start_program: Start
) -> None:
    batch = ticking(project, 6)
    windows = [{"hours": clock.hours(0, 5), "slots": 2}, {"hours": clock.hours(8, 60), "slots": 3}]
    names = ["pc01", {"host": "pc02", "at_edge": "requeue"}]
    project.cluster({"timezone": "UTC", "slots": 0, "hosts": names, "windows": windows})
    clock.advance(1)
    program = begin(start_program, batch, 4, *clock.inv)
    kept, given_back = ({attempt.job for attempt in batch.begun(name)} for name in pool.names)
    clock.advance(4, 54)  # a few seconds before: at the edge the PCs are free
    wait_for(lambda: events(batch, "paused"), "jobs to stand still")
    assert set(numbered(events(batch, "paused")[-1][1]["jobs"])) == kept
    wait_for(lambda: len(events(batch, "ended")) == 2, "jobs to be given back")
    assert {event["host"] for _, event in events(batch, "ended")} == {"pc02"}
    stopped = time.time()
    clock.advance(6)
    shown = json.loads(run_program(*clock.inv, "hosts", "--json").stdout)
    assert [host["slots"] for host in shown["hosts"]] == [0, 0]
    assert [host["paused"] for host in shown["hosts"]] == [2, 0]
    table = run_program(*clock.inv, "hosts").stdout
    assert "3 slots" in " ".join(table.split())
    assert len(batch.begun()) == 4
    assert all(tick <= stopped for job in (*kept, *given_back) for tick in ticks(batch, job))
    clock.advance(8, 1)
    batch.wait_for_begun(8)
    done = succeed(program, batch)
    assert "stand still" in done.stdout
    batch.check(run_program, again=given_back)


@hosts(1)
def test_an_edited_cluster_file_holds_within_seconds(
    pool: NamespacePool, project: Project, run_program: Run, start_program: Start
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts, slots=3)
    program = begin(start_program, batch, 3)
    project.pool(pool.hosts, slots=1)  # pause is the default
    wait_for(lambda: events(batch, "paused"), "jobs to stand still")
    assert numbered(events(batch, "paused")[-1][1]["jobs"]) == ["0001", "0002"]
    project.pool(pool.hosts, slots=1, windows=[{"slots": 3}])
    hang_up(program)
    wait_for(lambda: not events(batch, "paused")[-1][1]["jobs"], "jobs to go on")

    # Not enough memory, then room in the home: what runs goes on, and nothing new is started.
    project.pool(pool.hosts, slots=3, min_free_memory="900T")
    hang_up(program)
    wait_for_slots(program, batch, 0, "only ")
    batch.let_go("0000")
    wait_for(lambda: len(events(batch, "ended")) == 1, "a job to end")
    status = run_program("inv", "status").stdout
    assert "MB of memory are free (at least " in status
    project.pool(pool.hosts, slots=3, min_free_memory="900T", min_free_space="900T")
    hang_up(program)
    program.wait_for_output("min_free_space is 921600 GB: nothing new is started")
    project.pool(pool.hosts, slots=3, min_free_space="900T")
    hang_up(program)
    wait_for_slots(program, batch, 3, "")
    batch.let_go("0001")
    wait_for(lambda: len(events(batch, "ended")) == 2, "a job to end")
    assert len(batch.begun()) == 3
    project.pool(pool.hosts, slots=3)
    hang_up(program)
    program.wait_for_output("there is room again")
    batch.wait_for_begun(5)
    succeed(program, batch)
    batch.check(run_program, again=set())


@hosts(1)
def test_a_deadline_that_will_be_missed_is_said_early(
    pool: NamespacePool, project: Project, clock: Clock, start_program: Start
) -> None:
    deadline = clock.start + timedelta(minutes=10)
    batch = Batch(project, 4, expect="2m", deadline=f"{deadline:%Y-%m-%d %H:%M}")
    project.pool(pool.hosts, slots=1, timezone="UTC")
    clock.advance(1)
    program = begin(start_program, batch, 1, *clock.inv)
    assert "deadline" not in program.stdout
    for minutes in (5, 6.5, 8):
        clock.advance(minutes)
        wait_for_turn(program)
    program.wait_for_output(f"the deadline {deadline:%a %Y-%m-%d %H:%M} is missed: done about ")
    assert "it fits with " in program.stdout
    succeed(program, batch)


# -- orders at a PC ----------------------------------------------------------------------------------------


@hosts(2)
def test_an_order_at_a_pc_has_its_jobs_run_elsewhere_until_it_is_taken_back(
    pool: NamespacePool,
    project: Project,
    programs_on: Callable[[str], Programs],
    run_program: Run,
    start_program: Start,
) -> None:
    batch = Batch(project, 6)
    project.pool(pool.hosts)
    program = begin(start_program, batch, 4)
    mine = {attempt.job for attempt in batch.begun("pc01")}
    at_pc = programs_on("pc01")
    wait_for(lambda: "2 jobs run" in at_pc.run("inv", "here").stdout, "the note to say what runs")
    stopped = at_pc.run("inv", "here", "--stop")
    assert stopped.stdout.startswith("2 jobs ended; none will start on this PC before: "), stopped.said
    wait_for(lambda: events(batch, "released"), "the head to know")
    assert len(batch.begun("pc01")) == 2  # they were not sent there again
    status = run_program("inv", "status").stdout
    assert ": stopped at this PC by student at " in status
    batch.let_go(*(attempt.job for attempt in batch.begun("pc02")))
    wait_for(lambda: mine <= {attempt.job for attempt in batch.begun("pc02")}, "pc02 to run them")
    assert len(batch.begun("pc01")) == 2
    started = at_pc.run("inv", "here", "--start")
    assert started.returncode == 0, started.said
    hang_up(program)
    batch.wait_for_begun(4, "pc01")
    succeed(program, batch)
    batch.check(run_program, again=mine)
