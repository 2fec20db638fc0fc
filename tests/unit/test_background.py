"""A head in the background, as a program of its own: what it prints goes where, and nothing runs twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from processes import wait_for

PROGRAM = """
import sys
from pathlib import Path
from pisa_fab.background import in_background
from pisa_fab.errors import PisaError

def work(at_work):
    print("begun")
    {work}
    return 3

try:
    print(in_background(work, Path("run/head.log")))
except PisaError as error:
    print("refused:", error)
finally:
    print("the end")
"""


def run(folder: Path, work: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{work}", work)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_what_has_ended_before_it_has_begun_is_given(tmp_path: Path) -> None:
    assert run(tmp_path, "pass") == "(3, 'begun\\n')\nthe end\n"
    assert list((tmp_path / "run").iterdir()) == []


def test_what_goes_on_prints_into_the_log(tmp_path: Path) -> None:
    assert run(tmp_path, "at_work()") == "(None, '')\nthe end\n"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["head.log"]
    assert (tmp_path / "run/head.log").stat().st_mode & 0o777 == 0o600


def test_the_log_of_a_head_that_is_at_work_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/head.log").write_text("of another\n")
    assert run(tmp_path, "raise PisaError('is being run by another')") == (
        "refused: is being run by another\nthe end\n"
    )
    assert (tmp_path / "run/head.log").read_text() == "of another\n"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["head.log"]


def test_a_bug_ends_the_child_and_nothing_of_the_parent_is_unwound_there(tmp_path: Path) -> None:
    said = run(tmp_path, "raise LookupError('a bug')")
    assert said.startswith("(1, 'begun\\nTraceback ")
    assert said.count("the end\n") == 1
    assert "LookupError: a bug" in said


def test_ctrl_c_before_it_has_begun_ends_it_too(tmp_path: Path) -> None:
    work = "Path('pid').write_text(str(__import__('os').getpid())); __import__('time').sleep(600)"
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("{work}", work)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    pid = tmp_path / "pid"
    wait_for(lambda: pid.exists() and pid.read_text() != "", "the child to work")
    program.send_signal(signal.SIGINT)
    said, complaint = program.communicate(timeout=60)
    assert said == "the end\n"
    assert complaint.rstrip().endswith("KeyboardInterrupt")
    assert not Path(f"/proc/{pid.read_text()}").exists()
    assert list((tmp_path / "run").iterdir()) == []
