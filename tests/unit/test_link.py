"""How a worker is started and found in what a login shell prints, and the lock of a run directory."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab import lock
from pisa_fab.errors import RunError
from pisa_fab.link import Link, LinkError, PipeStream, bootstrap, skip_greeting, start_program
from pisa_fab.progress import duration

MARKER = b"pisa_fab worker abc\n"


class Pieces:
    """A stream that gives bytes as they come."""

    def __init__(self, data: bytes, sizes: Iterator[int]) -> None:
        self.data, self.sizes = data, sizes

    def receive(self) -> bytes:
        size = next(self.sizes, len(self.data))
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    def send(self, data: bytes) -> None:
        raise AssertionError("nothing is sent before the worker is there")

    def exit_status(self) -> int | None:
        return None

    def complaint(self) -> str:
        return ""


@given(st.binary(max_size=60), st.binary(max_size=20), st.lists(st.integers(1, 9), max_size=30))
def test_the_worker_is_found_behind_any_greeting_in_any_pieces(
    greeting: bytes, rest: bytes, sizes: list[int]
) -> None:
    stream = Pieces(greeting + MARKER + rest, iter(sizes))
    found = skip_greeting(stream, MARKER)
    assert found is not None
    while piece := stream.receive():
        found += piece
    assert found == rest


def test_a_shell_that_has_ended_before_it_was_sent_anything_says_why() -> None:
    stream = PipeStream(["sh", "-c", "exec no-such-python"])
    stream.process.wait()
    with pytest.raises(LinkError, match="no no-such-python on this host"):
        start_program(stream, b"x" * (1 << 20), MARKER, "no-such-python")
    stream.stderr.close()


class Babbler(Link):
    """A link to something that starts like a worker and then says what no worker says."""

    name = "pc01"

    def __init__(self) -> None:
        self.outbox = SimpleQueue()
        self.orders = SimpleQueue()
        self.disconnected = False

    def python(self) -> str:
        return "python3"

    def connect(self, command: str) -> Pieces:
        class Talk(Pieces):
            def send(self, data: bytes) -> None:
                pass

        token = command.split()[-1].encode()
        return Talk(b"pisa_fab worker " + token + b"\nno json\n", iter([]))

    def disconnect(self) -> None:
        self.disconnected = True


def test_the_head_learns_the_end_of_a_link_even_from_a_bug() -> None:
    link, inbox = Babbler(), SimpleQueue()
    link.call([])
    with pytest.raises(ValueError, match="no JSON"):
        link.serve(inbox)
    closed = inbox.get_nowait()
    assert (closed.reason, closed.final) == ("a mistake in pisa_fab, whose traceback is shown", True)
    assert link.disconnected


def test_a_greeting_without_a_worker_ends() -> None:
    assert skip_greeting(Pieces(b"x" * 100, iter([7] * 15)), MARKER) is None


@pytest.mark.parametrize("python", ["python3", "/opt/my python/bin/python3", "it's"])
def test_the_command_line_is_one_line_of_plain_words(python: str) -> None:
    words = shlex.split(bootstrap(python, 10, "token"))
    assert words[:2] == ["exec", python]
    assert words[-1] == "token"
    assert "\n" not in bootstrap(python, 10, "token")


def test_a_lock_names_its_holder_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".pisa" / "lock"
    path.parent.mkdir(parents=True)
    code = "import sys, pathlib; from pisa_fab.lock import RunLock\n"
    code += "with RunLock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    assert lock.is_held(path)
    with pytest.raises(RunError, match=f"process {other.pid}"), lock.RunLock(path):
        pass
    other.kill()
    other.communicate()
    assert not lock.is_held(path)
    with lock.RunLock(path):
        assert lock.holder(path) is not None


def test_a_lock_that_never_was_is_not_held(tmp_path: Path) -> None:
    assert not lock.is_held(tmp_path / "lock")
    assert lock.holder(tmp_path / "lock") is None
    assert lock.describe(None) == "another head"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (3, "3 s"),
        (9.9, "9.9 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5940, "99 min"),
        (6000, "1 h 40 min"),
        (7500, "2 h 05 min"),
        (172_700, "47 h 58 min"),
        (172_800, "2 d 0 h"),
        (270_000, "3 d 3 h"),
    ],
)
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
