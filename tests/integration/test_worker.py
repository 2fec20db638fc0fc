"""The worker by itself: a real process, spoken to over its pipes, as the head does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pisa_fab import link, worker

DEADLINE = 60.0


def pythons() -> list[str]:
    """Give every Python on PATH that runs, from the oldest that a host may have."""
    found = [path for minor in range(8, 15) if (path := shutil.which(f"python3.{minor}"))]
    return [path for path in found if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0]


class Talk:
    """A worker and the conversation with it."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        self.python = python
        source = link.worker_source()
        command = link.bootstrap(python, len(source), "token")
        self.process = subprocess.Popen(
            ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd="/"
        )
        assert self.process.stdin is not None
        self.process.stdin.write(source)
        assert self.readline() == b"pisa_fab worker token\n"

    def readline(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def say(self, **message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    def hear(self, op: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(self.readline())
            if message["op"] == op:
                return message

    def set_up(self, **changes: Any) -> None:
        (self.folder / ".pisa").mkdir(exist_ok=True)
        (self.folder / ".pisa" / "nonce").write_text("n0nce")
        message = {
            "op": "setup",
            "workdir": str(self.folder),
            "venv": None,
            "nonce_file": str(self.folder / ".pisa" / "nonce"),
            "nonce": "n0nce",
            "nice": 19,
            "env": {"PISA_HOST": "pc01"},
            "folders": {
                "attempts": str(self.folder / "attempts"),
                "out": str(self.folder),
                "err": str(self.folder),
            },
            "threads": 1,
            "lease": 60.0,
            "grace": 0.3,
        }
        self.say(**{**message, **changes})

    def ready(self, **changes: Any) -> dict[str, Any]:
        self.set_up(**changes)
        return self.hear("ready")

    def run(
        self, *argv: str, job: int = 0, env: dict[str, str] | None = None, timeout: float | None = None
    ) -> None:
        files = [f"{job}.out", f"{job}.err"]
        self.say(
            op="run",
            job=job,
            attempt=1,
            argv=argv,
            env=env or {},
            timeout=timeout,
            files=files,
            published=files,
        )

    def path(self, job: int, stream: str) -> Path:
        return self.folder / "attempts" / f"{job}.{stream}"

    def final(self, job: int, stream: str) -> Path:
        return self.folder / f"{job}.{stream}"

    def outcome(self) -> dict[str, Any]:
        outcome: dict[str, Any] = self.hear("ended")["outcome"]
        return outcome

    def python_job(self, code: str, *arguments: str, **options: Any) -> None:
        self.run(self.python, "-c", code, *arguments, **options)

    def hang_up(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(DEADLINE)


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    conversation = Talk(tmp_path)
    yield conversation
    conversation.hang_up()
    assert conversation.process.stdout is not None
    conversation.process.stdout.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} was left behind"
        time.sleep(0.01)


def wait_for_text(path: Path) -> str:
    deadline = time.monotonic() + DEADLINE
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"nothing was written to {path}"
        time.sleep(0.01)
    return path.read_text()


def test_marker_is_what_the_head_looks_for() -> None:
    assert link.MARKER.decode() == worker.MARKER + " "


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_every_python_from_3_8_runs_a_job(tmp_path: Path, python: str) -> None:
    talk = Talk(tmp_path, python)
    assert talk.ready()["python"].startswith("3.")
    talk.python_job("import sys; print('hello'); sys.exit(3)")
    assert talk.outcome()["exit_code"] == 3
    talk.say(op="ack", ids=[[0, 1, True]])
    talk.say(op="ping")
    assert talk.hear("published")["ids"] == [[0, 1]]
    assert talk.final(0, "out").read_text() == "hello\n"
    assert talk.hang_up() == 0


def test_output_gets_the_jobs_name_only_when_the_result_counts(talk: Talk) -> None:
    talk.ready()
    for job in (1, 2):
        talk.python_job("print('x')", job=job)
        talk.outcome()
    talk.say(op="ack", ids=[[1, 1, True], [2, 1, False]])
    talk.say(op="ping")
    assert talk.hear("published")["ids"] == [[1, 1]]
    assert talk.final(1, "out").exists()
    assert talk.final(1, "err").exists()
    assert not talk.final(2, "out").exists()
    assert talk.path(2, "out").read_text() == "x\n"


def test_an_acknowledgement_that_comes_twice_changes_nothing(talk: Talk) -> None:
    talk.ready()
    talk.python_job("print('x')")
    talk.outcome()
    talk.say(op="ack", ids=[[0, 1, True]])
    talk.say(op="ping")
    talk.hear("published")
    talk.hear("pong")
    talk.say(op="ack", ids=[[0, 1, True]])
    talk.say(op="ping")
    talk.hear("pong")
    assert talk.final(0, "out").read_text() == "x\n"


@pytest.mark.parametrize(
    "argument",
    [
        "",
        " ",
        "two words",
        "'\"",
        "a\nb",
        "$(id) `id` $HOME",
        "*",
        "-n",
        "--",
        "äöü→😀",
        "x" * 100_000,
        "\udcff\udc80",
    ],
)
def test_arguments_arrive_byte_for_byte(talk: Talk, argument: str) -> None:
    talk.ready()
    talk.python_job("import os, sys; sys.stdout.buffer.write(os.fsencode(sys.argv[1]))", argument)
    assert talk.outcome()["exit_code"] == 0
    assert talk.path(0, "out").read_bytes() == os.fsencode(argument)


def test_jobs_see_the_environment_they_are_promised(talk: Talk) -> None:
    venv = talk.folder / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    talk.ready(venv=str(venv), threads=3)
    names = ["VIRTUAL_ENV", "PATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MINE", "PISA_JOB"]
    talk.python_job(
        "import json, os, sys; print(json.dumps([os.environ[n] for n in sys.argv[1:]]))",
        *names,
        env={"MINE": "a b", "PISA_JOB": "0000", "OPENBLAS_NUM_THREADS": "7"},
    )
    assert talk.outcome()["exit_code"] == 0
    found = dict(zip(names, json.loads(talk.path(0, "out").read_text()), strict=True))
    assert found["VIRTUAL_ENV"] == str(venv)
    assert found["PATH"].split(":")[0] == str(venv / "bin")
    assert (found["OMP_NUM_THREADS"], found["OPENBLAS_NUM_THREADS"]) == ("3", "7")
    assert (found["MINE"], found["PISA_JOB"]) == ("a b", "0000")


def test_a_job_reads_nothing_and_runs_gently_in_the_workdir(talk: Talk) -> None:
    talk.ready()
    talk.python_job(
        "import os, sys; print(repr(sys.stdin.read()), os.nice(0), os.getcwd(), os.getsid(0) == os.getpid())"
    )
    talk.outcome()
    assert talk.path(0, "out").read_text() == f"'' 19 {talk.folder} True\n"


def test_what_a_job_prints_never_reaches_the_conversation(talk: Talk) -> None:
    talk.ready()
    talk.run("sh", "-c", "ls -l /proc/self/fd | grep -c -e pipe: -e socket: ; true")
    talk.outcome()
    assert talk.path(0, "out").read_text() in ("0\n", "1\n")  # 1: the pipe to grep, never one to the head


def test_usage_of_processor_and_memory_is_reported(talk: Talk) -> None:
    talk.ready()
    talk.python_job("x = bytearray(80_000_000)\nfor i in range(2_000_000): pass")
    outcome = talk.outcome()
    assert outcome["user"] > 0
    assert outcome["seconds"] >= outcome["user"] / 2
    assert outcome["memory"] > 80_000_000


def test_death_by_signal_is_told_from_an_exit_code(talk: Talk) -> None:
    talk.ready()
    talk.python_job("import os; os.kill(os.getpid(), 11)")
    outcome = talk.outcome()
    assert (outcome["ending"], outcome["signal"], outcome["exit_code"]) == ("signalled", 11, None)


def test_a_failed_job_sends_the_end_of_its_standard_error(talk: Talk) -> None:
    talk.ready()
    talk.python_job("import sys\nfor i in range(50): print('line', i, file=sys.stderr)\nsys.exit(255)")
    outcome = talk.outcome()
    assert outcome["exit_code"] == 255
    assert outcome["tail"].splitlines()[-1] == "line 49"
    assert len(outcome["tail"].splitlines()) <= 10


def test_a_program_that_is_not_there_is_reported_and_the_next_job_runs(talk: Talk) -> None:
    talk.ready()
    talk.run("no-such-program", job=1)
    outcome = talk.outcome()
    assert outcome["ending"] == "not started"
    assert "no-such-program" in outcome["tail"]
    talk.run("true", job=2)
    assert talk.outcome()["exit_code"] == 0


def test_a_job_that_takes_too_long_is_ended_with_all_its_group(talk: Talk) -> None:
    talk.ready()
    talk.run("sh", "-c", "trap '' TERM; sleep 1000 & echo $!; wait; sleep 1000", timeout=0.2)
    assert talk.outcome()["ending"] == "timeout"
    wait_until_gone(int(talk.path(0, "out").read_text()))


def test_what_a_job_leaves_in_its_group_ends_with_it(talk: Talk) -> None:
    talk.ready()
    talk.run("sh", "-c", "sleep 1000 & echo $!")
    assert talk.outcome()["exit_code"] == 0
    wait_until_gone(int(talk.path(0, "out").read_text()))


# Starts a process that leaves its session and its parent, as daemons do; it writes its pid into a file.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open(sys.argv[1] + ".new", "w") as file:
            file.write(f"{os.getpid()}\\n")
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        for stream in (0, 1, 2):
            os.close(stream)
        time.sleep(1000)
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    "end", ["", "time.sleep(1000)", "os.kill(os.getpid(), 9)"], ids=["exit", "timeout", "killed"]
)
def test_a_daemon_that_a_job_started_ends_with_the_job(talk: Talk, end: str) -> None:
    talk.ready()
    pid_file = talk.folder / "daemon"
    talk.python_job(DAEMON + end, str(pid_file), timeout=1.0 if "sleep" in end else None)
    assert talk.outcome()["ending"] in ("exited", "timeout", "signalled")
    wait_until_gone(int(wait_for_text(pid_file)))


def test_a_daemon_of_a_job_that_still_runs_is_left_alone(talk: Talk) -> None:
    talk.ready()
    pid_file = talk.folder / "daemon"
    talk.python_job(DAEMON + "time.sleep(1000)", str(pid_file), job=1)
    daemon = int(wait_for_text(pid_file))
    for _ in range(3):
        talk.run("true", job=2)
        assert talk.outcome()["exit_code"] == 0
    assert is_alive(daemon)
    talk.say(op="stop")
    talk.outcome()
    wait_until_gone(daemon)


def test_a_daemon_that_clears_its_environment_ends_when_nothing_runs(talk: Talk) -> None:
    talk.ready()
    pid_file = talk.folder / "daemon"
    talk.run("env", "-i", talk.python, "-c", DAEMON, str(pid_file))
    assert talk.outcome()["exit_code"] == 0
    wait_until_gone(int(wait_for_text(pid_file)))


def test_jobs_do_not_outlive_a_worker_that_is_killed(talk: Talk) -> None:
    ready = talk.ready()
    pid_file = talk.folder / "daemon"
    talk.python_job(DAEMON + "time.sleep(1000)", str(pid_file), job=1)
    talk.run("sh", "-c", "trap '' TERM HUP; echo $$; sleep 1000; sleep 1000", job=2)
    pids = [int(wait_for_text(pid_file)), int(wait_for_text(talk.path(2, "out")))]
    os.kill(ready["pid"], signal.SIGKILL)
    assert talk.process.wait(DEADLINE) == worker.SWEPT
    assert [pid for pid in pids if is_alive(pid)] == []  # the guardian leaves as the last


def test_stop_ends_jobs_and_says_so(talk: Talk) -> None:
    talk.ready()
    talk.run("sleep", "1000")
    talk.say(op="stop")
    assert talk.outcome()["ending"] == "stopped"


def test_a_worker_whose_head_is_gone_ends_its_jobs_and_leaves(talk: Talk) -> None:
    talk.ready()
    talk.run("sh", "-c", "echo $$; exec sleep 1000")
    pid = int(wait_for_text(talk.path(0, "out")))
    assert talk.hang_up() == 0
    assert not is_alive(pid)


def test_a_worker_whose_head_is_silent_for_a_lease_ends_its_jobs_and_leaves(talk: Talk) -> None:
    talk.ready(lease=0.5)
    talk.run("sh", "-c", "echo $$; exec sleep 1000")
    pid = int(wait_for_text(talk.path(0, "out")))
    assert talk.process.wait(DEADLINE) == 0
    assert not is_alive(pid)


def test_a_worker_that_is_asked_to_end_takes_its_jobs_with_it(talk: Talk) -> None:
    talk.ready()
    talk.run("sh", "-c", "echo $$; exec sleep 1000")
    pid = int(wait_for_text(talk.path(0, "out")))
    talk.process.send_signal(signal.SIGTERM)
    assert talk.process.wait(DEADLINE) == 0
    assert not is_alive(pid)


def test_a_head_that_does_not_read_blocks_nothing(talk: Talk) -> None:
    talk.ready()
    count = 20_000  # some megabytes of answers, far more than a pipe holds
    talk.say(op="ping")
    assert talk.process.stdin is not None
    for _ in range(count // 1000):
        talk.process.stdin.write(b'{"op": "ping"}\n' * 1000)
    talk.run("sh", "-c", "echo done")
    wait_for_text(talk.path(0, "out"))
    for _ in range(count):
        talk.hear("pong")
    assert talk.outcome()["exit_code"] == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"workdir": "/no/such/folder"}, "no such folder here: /no/such/folder"),
        ({"nonce_file": "/no/such/.pisa/nonce"}, "does not see the run directory /no/such"),
        ({"nonce": "another"}, "does not see the run directory"),
        ({"venv": "/no/such/venv"}, "no such venv here: /no/such/venv"),
    ],
)
def test_a_host_that_cannot_do_the_work_says_why(talk: Talk, changes: dict[str, Any], reason: str) -> None:
    talk.set_up(**changes)
    assert reason in talk.hear("unusable")["reason"]
    assert talk.process.wait(DEADLINE) == 0
