"""What the worker does for other people: real processes stand still, go on, make room and stand back."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import people
import pytest
from people import Seat
from processes import look
from talk import BOUNDS, Host, Talk, is_alive, preload, wait_for_text, wait_until, wait_until_gone

from pisa_fab import here
from pisa_fab.execution import SLICE, Turns
from pisa_fab.place import UNKNOWN
from pisa_fab.processes import descendants, state_of

OUTSIDE = "no more may run at this hour"
MEMORY = 64 << 20  # bytes
# It counts in its output, has a child in its group and one that left it, and starts others all the time.
FAMILY = """
import os, subprocess, sys
subprocess.Popen(["sleep", "1000"])
subprocess.Popen(["sleep", "1000"], start_new_session=True)
while not os.path.exists(sys.argv[1]):
    subprocess.run(["sleep", "0.01"], start_new_session=True)
    print("tick", flush=True)
"""
BESIDE = """
import subprocess, sys
code = f"piece = b'x' * (48 << 20); print(flush=True); import time; time.sleep(1000)"
children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
children[0].wait()
"""


def bounds(*phases: tuple[float, int] | tuple[float, int, int], at_edge: str = "pause", **owner: Any) -> Any:
    """Give what the head says of slots: (in seconds, slots) each, or (in seconds, slots, nice)."""
    found = copy.deepcopy(BOUNDS)
    found["phases"] = [list(phase) if len(phase) == 3 else [*phase, 19] for phase in phases]
    found["at_edge"] = at_edge
    found["owner"] = {**found["owner"], **owner}  # type: ignore[dict-item]
    return found


def let(talk: Talk, slots: int, at_edge: str = "pause") -> None:
    """Have a worker allow so many jobs from now on."""
    talk.say(op="bounds", **bounds((0, slots), at_edge=at_edge))


def hear_paused(talk: Talk, *jobs: int) -> dict[str, Any]:
    """Wait until the worker says that just these jobs stand still."""
    return hear_state(talk, paused=[[job, 1] for job in jobs])


def hear_state(talk: Talk, **wanted: object) -> dict[str, Any]:
    """Wait until the worker says this of its state."""
    while True:
        state = talk.hear("state")
        if wanted.items() <= state.items():
            return state


def stands_still(*pids: int) -> bool:
    return all(state_of(pid) == "T" for pid in pids)


def wait_until_still(*pids: int) -> None:
    wait_until(lambda: stands_still(*pids), f"{pids} go on")


def wait_until_moving(*pids: int) -> None:
    wait_until(lambda: not any(state_of(pid) in "Tt" for pid in pids), f"{pids} stand still")


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    conversation = Talk(tmp_path, mark=os.urandom(8).hex())
    yield conversation
    conversation.close()


@pytest.fixture
def seat() -> Iterator[Seat]:
    """A PC with terminals of its own."""
    if reason := people.unavailable():
        pytest.skip(reason)
    seat = Seat()
    yield seat
    seat.close()


# -- standing still ----------------------------------------------------------------------------------------


def test_all_that_a_job_has_started_stands_still_and_goes_on(talk: Talk, tmp_path: Path) -> None:
    worker = talk.ready()["pid"]
    talk.python_job(FAMILY, str(tmp_path / "go"))
    ticks = talk.path(0, "out")
    wait_for_text(ticks)
    let(talk, 0)
    hear_paused(talk, 0)
    # Also those that were being started at that moment, which the next look finds. Who has started one that
    # stopped before it was another program waits for that in the kernel (D).
    wait_until(lambda: all(state_of(pid) in "TZD" for pid in descendants(worker)), "some go on")
    family = descendants(worker)
    assert sum(state_of(pid) in ("T", "D") for pid in family) >= 3
    said = ticks.read_text()
    time.sleep(0.3)  # in which nothing may happen
    assert ticks.read_text() == said
    assert descendants(worker) == family
    let(talk, 1)
    hear_paused(talk)
    wait_until(lambda: len(ticks.read_text()) > len(said), "the job does not go on")
    wait_until_moving(*descendants(worker))
    (tmp_path / "go").touch()
    outcome = talk.outcome()
    assert (outcome["ending"], outcome["exit_code"]) == ("exited", 0)
    assert 0.3 < outcome["paused"] < outcome["seconds"]


def test_the_youngest_make_room_and_the_oldest_go_on_first(talk: Talk) -> None:
    talk.ready()
    pids = [talk.sleeper(job) for job in range(3)]
    let(talk, 2)
    hear_paused(talk, 2)
    wait_until_still(pids[2])
    wait_until_moving(*pids[:2])
    let(talk, 0)
    hear_paused(talk, 0, 1, 2)
    let(talk, 1)
    hear_paused(talk, 1, 2)
    wait_until_moving(pids[0])
    wait_until_still(*pids[1:])
    let(talk, 3)
    hear_paused(talk)
    wait_until_moving(*pids)


def test_requeue_ends_the_youngest_and_says_that_it_was_stopped(talk: Talk) -> None:
    talk.ready()
    pids = [talk.sleeper(job) for job in range(3)]
    let(talk, 1, "requeue")
    ended = [talk.hear("ended") for _ in range(2)]
    assert sorted(message["job"] for message in ended) == [1, 2]
    assert {message["outcome"]["ending"] for message in ended} == {"stopped"}
    assert is_alive(pids[0])
    assert not stands_still(pids[0])


def test_finish_lets_jobs_come_to_their_end(talk: Talk, tmp_path: Path) -> None:
    talk.ready()
    wait = "until test -e go; do sleep 0.02; done"
    for job in range(2):
        talk.run("sh", "-c", f"echo; {wait}", job=job)
        wait_for_text(talk.path(job, "out"))
    let(talk, 0, "finish")
    talk.run("true", job=2)
    refused = talk.hear("ended")
    assert (refused["job"], refused["outcome"]["ending"]) == (2, "stopped")
    (tmp_path / "go").touch()
    outcomes = [talk.outcome() for _ in range(2)]
    assert [outcome["exit_code"] for outcome in outcomes] == [0, 0]
    assert not any("paused" in outcome for outcome in outcomes)


def test_what_was_said_of_later_holds_without_another_word(talk: Talk) -> None:
    talk.ready()
    pid = talk.sleeper()
    talk.say(op="bounds", **bounds((0, 1), (0.5, 0), (1.5, 1)))
    hear_paused(talk, 0)
    hear_paused(talk)
    wait_until_moving(pid)


def test_what_was_said_of_later_holds_while_there_is_no_head(host: Host) -> None:
    talk = host.talk()
    talk.ready()
    pid = talk.sleeper()
    talk.say(op="bounds", **bounds((0, 1), (1.0, 0), (2.5, 1)))
    talk.hang_up()
    wait_until_still(pid)
    wait_until_moving(pid)


def test_another_head_is_told_what_stands_still(host: Host) -> None:
    talk = host.talk()
    assert talk.ready()["state"] == {"busy": "", "full": "", "paused": []}
    pid = talk.sleeper()
    let(talk, 0)
    hear_paused(talk, 0)
    talk.hang_up()
    next_talk = host.talk(epoch=2)
    ready = next_talk.ready(bounds=bounds((0, 0)))
    assert ready["state"] == {"busy": "", "full": "", "paused": [[0, 1]]}
    let(next_talk, 1)
    hear_paused(next_talk)
    wait_until_moving(pid)


def test_time_in_which_a_job_stands_still_is_no_time_of_its_own(talk: Talk) -> None:
    talk.ready()
    talk.run("sh", "-c", "echo; exec sleep 1000", timeout=1.0)
    let(talk, 0)
    hear_paused(talk, 0)
    time.sleep(1.5)  # it is ended in this time if that counts
    let(talk, 1)
    outcome = talk.outcome()
    assert outcome["ending"] == "timeout"
    assert outcome["paused"] >= 1.5
    assert outcome["seconds"] - outcome["paused"] >= 0.99


def test_an_order_that_comes_while_nothing_may_run_comes_back(talk: Talk) -> None:
    talk.ready(bounds=bounds((0, 0)))
    talk.run("true")
    outcome = talk.outcome()
    assert outcome["ending"] == "stopped"
    assert not talk.path(0, "out").exists()


# -- the end of what stands still --------------------------------------------------------------------------


def test_a_job_that_stands_still_can_be_stopped(talk: Talk) -> None:
    talk.ready()
    code = "trap 'echo asked; exit' TERM; echo; while :; do sleep 0.02; done"
    talk.run("sh", "-c", code)
    wait_for_text(talk.path(0, "out"))
    let(talk, 0)
    hear_paused(talk, 0)
    talk.say(op="stop", ids=[[0, 1]])
    assert talk.outcome()["ending"] == "stopped"
    assert talk.path(0, "out").read_text() == "\nasked\n"


def test_what_stands_still_ends_with_the_lease(host: Host) -> None:
    talk = host.talk()
    talk.ready(lease=1.0)
    pid = talk.sleeper()
    let(talk, 0)
    hear_paused(talk, 0)
    talk.hang_up()
    wait_until_gone(pid)
    assert talk.status() in (0, UNKNOWN)


def test_what_stands_still_ends_with_the_worker(talk: Talk, tmp_path: Path) -> None:
    worker = talk.ready()["pid"]
    talk.python_job(FAMILY, str(tmp_path / "go"))
    wait_for_text(talk.path(0, "out"))
    let(talk, 0)
    hear_paused(talk, 0)
    family = descendants(worker)
    os.kill(worker, signal.SIGKILL)
    for pid in family:
        wait_until_gone(pid)


def test_what_a_killed_worker_and_guardian_left_standing_still_ends_before_the_next_is_ready(
    host: Host,
) -> None:
    talk = host.talk()
    worker = talk.ready()["pid"]
    pid = talk.sleeper()
    let(talk, 0)
    hear_paused(talk, 0)
    wait_until_still(pid)
    os.kill(talk.process.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    wait_until_gone(worker)
    host.talk().ready()
    assert not is_alive(pid)


# -- standing back -----------------------------------------------------------------------------------------


def test_jobs_that_run_and_new_ones_stand_back_as_the_window_says(talk: Talk) -> None:
    worker = talk.ready(nice=1, bounds=bounds((0, 3, 1)))["pid"]
    talk.python_job("import subprocess; print(flush=True); subprocess.run(['sleep', '1000'])")
    wait_until(lambda: len(descendants(worker)) == 2, "the job has no child")
    before = {os.getpriority(os.PRIO_PROCESS, pid) for pid in descendants(worker)}
    assert before == {1}  # and the worker itself at none, so that it can start others at less

    def are_at(nice: int) -> bool:
        return {os.getpriority(os.PRIO_PROCESS, pid) for pid in descendants(worker)} == {nice}

    talk.say(op="bounds", **bounds((0, 3, 19)))
    wait_until(lambda: are_at(19), "the job does not stand back")
    talk.run("sh", "-c", "exec sleep 1000", job=1)
    wait_until(lambda: len(descendants(worker)) == 3 and are_at(19), "the next job does not stand back")
    talk.say(op="bounds", **bounds((0, 3, 1)))
    talk.run("sh", "-c", "echo $$; exec sleep 1000", job=2)
    last = int(wait_for_text(talk.path(2, "out")))
    assert {os.getpriority(os.PRIO_PROCESS, last)} == before
    others = [pid for pid in descendants(worker) if pid != last]
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in others} == {19}


def turn_of(pid: int) -> int:
    """Give the nanoseconds that a process asks for in a turn of the processor."""
    numbers = Path(f"/proc/{pid}/sched").read_text()
    return int(next(line.split()[-1] for line in numbers.splitlines() if line.startswith("se.slice ")))


def knows_turns() -> bool:
    try:
        return turn_of(os.getpid()) > 0 and Turns().number is not None
    except (OSError, StopIteration):
        return False


@pytest.mark.skipif(not knows_turns(), reason="this kernel knows no turns of a length that is asked for")
@pytest.mark.parametrize("preloaded", [False, True], ids=["plain", "preloaded"])
def test_late_long_turns_for_jobs_that_stand_back_and_usual_ones_for_others(
    talk: Talk, preloaded: bool
) -> None:
    template = preload(["json"]) if preloaded else None
    worker = talk.ready(nice=0, preload=template, bounds=bounds((0, 3, 0)))["pid"]
    usual = turn_of(os.getpid())
    assert turn_of(worker) < usual
    sleeps = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
    (talk.folder / "script.py").write_text(sleeps)
    talk.run(sys.executable, "script.py")
    assert turn_of(int(wait_for_text(talk.path(0, "out")))) == usual
    talk.say(op="bounds", **bounds((0, 3, 19)))
    talk.run(sys.executable, "script.py", job=1)
    pid = int(wait_for_text(talk.path(1, "out")))
    wait_until(lambda: turn_of(pid) == SLICE, "it has no long turns")


def test_jobs_and_worker_are_called_by_what_they_are(talk: Talk) -> None:
    worker = talk.ready(title="pisa_fab: jobs")["pid"]
    pid = talk.sleeper()
    for process, title in ((worker, "pisa_fab: jobs"), (talk.process.pid, "pisa_fab: jobs"), (pid, "sleep")):
        command = ["ps", "-ww", "-o", "args=", "-p", str(process)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert shown.strip().startswith(title)
    assert Path(f"/proc/{worker}/comm").read_text() == "pisa_fab\n"


# -- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    ["piece = b'x' * (200 << 20); print(flush=True); import time; time.sleep(1000)", BESIDE],
    ids=["one process", "all together"],
)
def test_a_job_that_takes_too_much_memory_is_ended_and_that_is_said(talk: Talk, code: str) -> None:
    worker = talk.ready(memory=MEMORY)["pid"]
    talk.python_job("x = 1")
    assert talk.outcome()["exit_code"] == 0
    talk.python_job(code, job=1)
    outcome = talk.outcome()
    assert (outcome["ending"], outcome["limit"]) == ("memory", MEMORY)
    wait_until(lambda: not descendants(worker), "something of it is left")


def test_nothing_new_fits_where_memory_is_short(talk: Talk) -> None:
    state = talk.ready(bounds=bounds((0, 1), min_free_memory=1 << 60))["state"]
    assert state["busy"] == ""
    assert state["full"].endswith(f"MB of memory are free (at least {1 << 40} MB)")
    let(talk, 1)
    assert hear_state(talk, full="")["busy"] == ""


# -- somebody else -----------------------------------------------------------------------------------------

RULES: dict[str, Any] = {"load": 1e6}


def at(seat: Seat, folder: Path, policy: str, **rules: Any) -> Talk:
    """Start a worker on a PC with this policy."""
    talk = Talk(folder, mark=os.urandom(8).hex(), prefix=seat.prefix)
    ready = talk.ready(bounds=bounds((0, 3), policy=policy, **{**RULES, **rules}))
    assert ready["state"]["busy"] == ""
    return talk


def test_somebody_who_types_has_jobs_stand_still_until_it_is_quiet(seat: Seat, tmp_path: Path) -> None:
    anna = seat.desk.log_in("anna")
    talk = at(seat, tmp_path, "pause", quiet=1000.0)
    pids = [talk.sleeper(job) for job in range(2)]
    typed = anna.type()
    state = talk.hear("state")
    assert state["busy"] == f"anna is logged in over SSH and active ({anna.line})"
    assert state["paused"] == [[0, 1], [1, 1]]
    wait_until_still(*pids)
    talk.run("true", job=2)
    assert talk.outcome()["ending"] == "stopped"
    talk.say(op="bounds", **bounds((0, 3), policy="pause", **{**RULES, "quiet": 1.5}))
    state = talk.hear("state")
    assert (state["busy"], state["paused"]) == ("", [])
    assert time.time() - typed >= 1.5
    wait_until_moving(*pids)
    talk.close()


def test_somebody_who_types_has_jobs_run_elsewhere(seat: Seat, tmp_path: Path) -> None:
    anna = seat.desk.log_in("anna")
    talk = at(seat, tmp_path, "requeue", quiet=1000.0)
    pids = [talk.sleeper(job) for job in range(2)]
    anna.type()
    assert {talk.outcome()["ending"] for _ in pids} == {"stopped"}
    for pid in pids:
        wait_until_gone(pid)
    talk.close()


def test_jobs_that_have_stood_still_for_long_are_given_back(seat: Seat, tmp_path: Path) -> None:
    anna = seat.desk.log_in("anna")
    talk = at(seat, tmp_path, "pause", quiet=1000.0, give_back=1.5)
    pid = talk.sleeper()
    anna.type()
    hear_paused(talk, 0)
    outcome = talk.outcome()
    assert outcome["ending"] == "stopped"
    assert outcome["paused"] >= 1.0
    wait_until_gone(pid)
    talk.close()


# -- the note ----------------------------------------------------------------------------------------------


def facts(folder: Path) -> dict[str, str]:
    """Give what the one note of a worker that lives says, nothing if there is none."""
    found = here.true_notes(str(folder))
    return dict(found[0].facts) if found else {}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder for notes and orders, as /tmp is at a PC."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def with_note(talk: Talk, notes: Path) -> int:
    """Set a worker up that has a note, and give its process."""
    about = {"batch": "fib_run", "head": "pc01", "contact": "room 1.23"}
    pid: int = talk.ready(note=str(notes / "pisa_fab-a0b1.note"), facts=about)["pid"]
    wait_until(lambda: facts(notes), "there is no note")
    return pid


def test_the_note_says_what_runs_and_goes_with_the_worker(talk: Talk, notes: Path) -> None:
    worker = with_note(talk, notes)
    found = facts(notes)
    assert {key: found[key] for key in ("batch", "to ask", "running", "paused")} == {
        "batch": "fib_run",
        "to ask": "room 1.23",
        "running": "0",
        "paused": "0",
    }
    assert found["process"] == str(worker)
    talk.sleeper()
    wait_until(lambda: facts(notes)["running"] == "1", "the note does not say that a job runs")
    let(talk, 0)
    wait_until(lambda: facts(notes)["paused"] == "1", "the note does not say that a job stands still")
    assert facts(notes)["why"] == OUTSIDE
    talk.say(op="quit")
    assert talk.status() == 0
    assert list(notes.iterdir()) == []


def test_the_note_goes_also_when_the_worker_is_killed(talk: Talk, notes: Path) -> None:
    os.kill(with_note(talk, notes), signal.SIGKILL)
    wait_until(lambda: not list(notes.iterdir()), "the note is left")


def test_a_note_that_nobody_could_remove_is_believed_by_nobody(talk: Talk, notes: Path) -> None:
    worker = with_note(talk, notes)
    os.kill(talk.process.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: look(worker) is None or not is_alive(worker), "the worker lives")
    assert len(list(notes.iterdir())) == 1
    assert facts(notes) == {}


def test_an_order_at_the_pc_ends_the_jobs_and_the_worker(talk: Talk, notes: Path) -> None:
    with_note(talk, notes)
    pid = talk.sleeper()
    wait_until(lambda: facts(notes)["running"] == "1", "the note does not say that a job runs")
    assert here.stop(str(notes)).startswith("1 job ended;")
    assert not is_alive(pid)
    assert talk.hear("unusable")["reason"].startswith("stopped at this PC by ")
    assert talk.outcome()["ending"] == "stopped"
    assert talk.status() == 0
