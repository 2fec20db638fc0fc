"""The lock of a run directory, between real processes; another PC is played by what it would write there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import wait_for

from pisa_fab import lock
from pisa_fab.errors import RunError
from pisa_fab.lock import Holder, RunLock

BEAT = 0.05  # seconds
ELSEWHERE = Holder("pc07", 4711, 1763797060.25, "00000000-another-kernel", beat=3)

# A head: takes the lock, says so, beats until its input ends.
HEAD = """
import select, sys, time
from pathlib import Path
from pisa_fab.lock import RunLock

with RunLock(Path(sys.argv[1]), beat=float(sys.argv[2])) as lock:
    print("held", flush=True)
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        lock.beat(time.monotonic())
"""

# A head of another PC, where locks do not reach: it writes its beat, and the only lock is the one of argv[3].
ELSEWHERE_HEAD = """
import fcntl, json, os, select, sys
from pisa_fab.lock import SIZE

descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
data = json.loads(sys.argv[2])
locks, beats = "locks" in sys.argv[3:], "beats" in sys.argv[3:]
if locks:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.pwrite(descriptor, json.dumps(data).ljust(SIZE).encode(), 0)
print("held", flush=True)
while not select.select([sys.stdin], [], [], 0.02)[0]:
    if beats:
        data["beat"] += 1
        os.pwrite(descriptor, json.dumps(data).ljust(SIZE).encode(), 0)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run" / ".pisa" / "lock"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program of this file and wait until it says that it holds the lock."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *args: object) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", program, *map(str, args)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(argv, text=True, **pipes)  # type: ignore[call-overload]
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process  # type: ignore[no-any-return]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            pipe.close()  # type: ignore[union-attr]


def as_text(holder: Holder, **changes: object) -> str:
    fields = {name: getattr(holder, name) for name in holder.__slots__}
    return json.dumps({**fields, **changes})


def refused(path: Path, **options: float) -> RunError:
    with pytest.raises(RunError) as caught, RunLock(path, beat=BEAT, **options):  # type: ignore[arg-type]
        pass
    return caught.value


def waits(path: Path, beat: float = BEAT) -> tuple[float, list[str], Holder]:
    """Take and release the lock; give how long that took, what was said, and who stood in the file."""
    said: list[str] = []
    began = time.monotonic()
    with RunLock(path, said.append, beat):
        took = time.monotonic() - began
        found = parsed_without_opening(path)
    return took, said, found


def parsed_without_opening(path: Path) -> Holder:
    """Read the text by another process: closing the file in this one would give our lock back."""
    text = subprocess.run(["cat", str(path)], stdout=subprocess.PIPE, check=True).stdout
    found = lock.parse(text)
    assert found is not None
    return found


# -- on one PC ---------------------------------------------------------------------------------------


def test_a_second_head_is_told_who_runs_it_and_how_to_watch_and_stop_that(path: Path, start: Start) -> None:
    head = start(HEAD, path, BEAT)
    error = refused(path)
    name = socket.gethostname()
    assert error.message.startswith(
        f"{path.parent.parent}: is being run by {name} (process {head.pid}) since 2"
    )
    assert error.hint == "watch it from any PC: pisa-fab status; stop it: pisa-fab cancel"
    assert lock.is_held(path)


def test_a_head_that_was_killed_is_replaced_at_once(path: Path, start: Start) -> None:
    head = start(HEAD, path, 600.0)
    head.kill()
    head.wait()
    assert not lock.is_held(path)
    took, said, found = waits(path, beat=600.0)
    assert took < 300.0  # far from three beats, and not a single one
    assert said == []
    assert found.pid == os.getpid()


def test_a_stopped_head_still_holds_its_lock(path: Path, start: Start) -> None:
    head = start(HEAD, path, BEAT)
    head.send_signal(signal.SIGSTOP)
    assert f"process {head.pid}" in refused(path).message
    head.send_signal(signal.SIGCONT)


def test_the_text_says_who_holds_it_and_that_it_was_released(path: Path) -> None:
    began = time.time()
    took = waits(path)[2]
    assert (took.head, took.pid, took.released) == (socket.gethostname(), os.getpid(), False)
    assert took.machine == lock.boot_id() != ""
    assert began <= took.since <= time.time()
    left = lock.holder(path)
    assert left is not None
    assert took.is_same(left)
    assert left.released
    assert path.stat().st_size == lock.SIZE


def test_a_lock_is_taken_and_released_again_and_again(path: Path) -> None:
    for _ in range(3):
        assert waits(path, beat=600.0)[1] == []
        assert not lock.is_held(path)


def test_it_is_held_until_the_end_whatever_the_beat_does(path: Path, start: Start) -> None:
    head = start(HEAD, path, BEAT)

    def beats() -> int:
        found = lock.holder(path)
        assert found is not None
        return found.beat

    wait_for(lambda: beats() >= 3, "three beats")
    assert lock.is_held(path)
    assert head.stdin is not None
    head.stdin.close()
    assert head.wait() == 0
    found = lock.holder(path)
    assert found is not None
    assert found.released
    assert not lock.is_held(path)


def test_a_beat_before_its_time_does_nothing(path: Path) -> None:
    with RunLock(path, beat=2.0) as held:
        held.beat(100.0)
        first = parsed_without_opening(path)
        held.beat(101.9)
        assert parsed_without_opening(path) == first
        held.beat(102.0)
        assert parsed_without_opening(path).beat == first.beat + 1


def test_who_looks_whether_it_is_held_keeps_no_head_from_it(
    path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.touch()
    looking = """
import fcntl, sys, time
file = open(sys.argv[1])
fcntl.lockf(file, fcntl.LOCK_SH)  # what `is_held` does, at its leisure
print("held", flush=True)
time.sleep(0.2)
"""
    monkeypatch.setattr(lock, "GLANCE", 60.0)  # however busy this machine is
    start(looking, path)
    assert waits(path)[1] == []


# -- another PC --------------------------------------------------------------------------------------


def test_a_head_elsewhere_that_beats_is_left_alone_though_its_lock_does_not_reach(
    path: Path, start: Start
) -> None:
    start(ELSEWHERE_HEAD, path, as_text(ELSEWHERE), "beats")
    said: list[str] = []
    with pytest.raises(RunError) as caught, RunLock(path, said.append, beat=4.0):
        pass
    assert caught.value.message.startswith(f"{path.parent.parent}: is being run by pc07 (process 4711) since")
    assert "pisa-fab cancel" in caught.value.hint
    assert len(said) == 1
    assert said[0].startswith("pc07 was running this (since 20")
    assert said[0].endswith("); looking whether it still is ...")
    found = lock.holder(path)
    assert found is not None
    assert ELSEWHERE.is_same(found)


def test_a_head_elsewhere_that_is_dead_is_replaced_after_three_beats(path: Path) -> None:
    path.write_text(as_text(ELSEWHERE))
    took, said, found = waits(path, beat=0.1)
    assert took >= 3 * 0.1
    assert len(said) == 1
    assert found.pid == os.getpid()


def test_a_head_elsewhere_whose_lock_reaches_is_left_alone(path: Path, start: Start) -> None:
    start(ELSEWHERE_HEAD, path, as_text(ELSEWHERE), "locks", "beats")
    assert "pc07" in refused(path).message


def test_the_lock_of_a_dead_pc_is_waited_for_until_the_file_server_frees_it(path: Path, start: Start) -> None:
    server = start(
        ELSEWHERE_HEAD, path, as_text(ELSEWHERE), "locks"
    )  # keeps the lock of what no longer beats
    said: list[str] = []

    def waiting(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            server.kill()

    with RunLock(path, waiting, beat=0.5):
        assert parsed_without_opening(path).pid == os.getpid()
    assert len(said) == 2
    assert "no sign of life" in said[1]


def test_a_lock_that_is_never_freed_is_named_with_what_to_do(path: Path, start: Start) -> None:
    start(ELSEWHERE_HEAD, path, as_text(ELSEWHERE), "locks")
    error = refused(path)
    assert "pc07" in error.message
    assert "no sign of life" in error.message
    assert str(path) in error.hint


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(as_text(ELSEWHERE, released=True), id="released"),
        pytest.param(as_text(ELSEWHERE, machine=""), id="no machine"),
        pytest.param('{"head": "pc07", "pid": 4711, "since": 1763797060.25}', id="version 0.1.0"),
        pytest.param(as_text(ELSEWHERE)[:-9], id="torn"),
        pytest.param("", id="empty"),
        pytest.param("\0" * 200, id="zeros"),
        pytest.param("[" * 1000, id="deep"),
        pytest.param(as_text(ELSEWHERE, pid="4711"), id="wrong type"),
        pytest.param("[]", id="a list"),
    ],
)
def test_for_what_no_living_head_elsewhere_writes_the_kernels_word_is_enough(path: Path, text: str) -> None:
    path.write_text(text)
    took, said, found = waits(path, beat=600.0)
    assert took < 300.0
    assert said == []
    assert found.pid == os.getpid()


def test_a_text_of_a_newer_version_is_understood(path: Path) -> None:
    path.write_text(as_text(ELSEWHERE, mood="good"))
    assert lock.holder(path) == ELSEWHERE


THIRD_HEAD = """
import os, sys, time
from pathlib import Path
from pisa_fab.lock import SIZE, holder

path = Path(sys.argv[1])
print("held", flush=True)
while (found := holder(path)) is None or found.head == "pc07":
    time.sleep(0.01)
os.pwrite(os.open(path, os.O_RDWR), sys.argv[2].ljust(SIZE).encode(), 0)
"""


def test_of_two_heads_that_watched_the_same_dead_one_the_last_goes_on(path: Path, start: Start) -> None:
    path.write_text(as_text(ELSEWHERE))
    third = as_text(Holder("pc09", 815, 1763797099.5, "00000000-a-third-kernel"))
    start(THIRD_HEAD, path, third)  # puts its own claim in as soon as ours is there
    with pytest.raises(RunError, match=r"taken over by pc09 \(process 815\)"), RunLock(path, beat=1.0):
        pass
    found = lock.holder(path)
    assert found is not None
    assert (found.head, found.released) == ("pc09", False)
    assert not lock.is_held(path)


# -- a head that stood still -------------------------------------------------------------------------


def test_a_head_that_was_replaced_notices_and_leaves_the_text_alone(path: Path) -> None:
    write = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
    with pytest.raises(RunError, match=r"taken over by pc07 \(process 4711\)"), RunLock(path) as held:
        subprocess.run([sys.executable, "-c", write, str(path), as_text(ELSEWHERE)], check=True)
        held.beat(1.0)
    assert lock.holder(path) == ELSEWHERE


def test_a_head_whose_lock_file_was_deleted_notices(path: Path) -> None:
    with pytest.raises(RunError, match="taken over by another head"), RunLock(path) as held:
        held.beat(1.0)
        path.unlink()
        held.beat(10.0)


# -- what cannot be used -----------------------------------------------------------------------------


def test_a_lock_file_that_cannot_be_opened_is_one_line(path: Path) -> None:
    path.mkdir()
    error = refused(path)
    assert error.message == f"{path}: cannot be opened: Is a directory"


def test_after_a_refusal_nothing_is_left_open(path: Path, start: Start) -> None:
    start(HEAD, path, BEAT)
    before = sorted(Path("/proc/self/fd").iterdir())
    refused(path)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_nobody_holds_what_is_not_there(path: Path) -> None:
    assert not lock.is_held(path)
    assert lock.holder(path) is None
    assert lock.describe(None) == "another head"


def test_a_lock_file_that_has_no_room_is_one_line_and_nothing_is_left_open(path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    path.symlink_to("/dev/full")
    before = sorted(Path("/proc/self/fd").iterdir())
    assert refused(path).message == f"{path}: cannot be written: No space left on device"
    assert sorted(Path("/proc/self/fd").iterdir()) == before


# -- one process --------------------------------------------------------------------------------------------

ASK = (
    "import sys; from pathlib import Path; from pisa_fab import lock; print(lock.is_held(Path(sys.argv[1])))"
)


def held_for_others(path: Path) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout == "True\n"


def test_one_process_holds_it_once_and_may_ask_who_does(path: Path) -> None:
    with RunLock(path) as mine:
        error = refused(path)
        assert f"(process {os.getpid()})" in error.message
        assert lock.is_held(path)
        assert lock.is_held(path.parent / ".." / path.parent.name / path.name)
        holder = lock.holder(path)
        assert holder is not None
        assert holder.pid == os.getpid()
        assert held_for_others(path)
        mine.beat(time.monotonic())
    assert not lock.is_held(path)
    with RunLock(path):
        assert held_for_others(path)


def test_who_was_refused_by_another_process_may_try_again(path: Path, start: Start) -> None:
    head = start(HEAD, path, BEAT)
    refused(path)
    head.communicate("", timeout=60)
    with RunLock(path):
        assert held_for_others(path)
