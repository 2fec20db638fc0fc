"""The worker by itself: a real process, spoken to over its pipes, as the head does."""

from __future__ import annotations

import _socket
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from talk import DEADLINE, Host, Talk, is_alive, wait_for_text, wait_until, wait_until_gone

from pisa_fab import link, processes, worker
from pisa_fab.place import CALLERS, UNKNOWN

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
# A user that owns nothing else; different in tests that run at the same time.
STRANGER = 100_000 + os.getpid() % 100_000


def pythons() -> list[str]:
    """Give every Python on PATH that runs, from the oldest that a host may have."""
    found = [path for minor in range(8, 15) if (path := shutil.which(f"python3.{minor}"))]
    return [path for path in found if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0]


def python_for_everybody() -> str:
    """Give a Python that every user of this machine may run."""
    found = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip("there is no Python that every user may run")
    return found


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    conversation = Talk(tmp_path)
    yield conversation
    conversation.close()


def test_marker_is_what_the_head_looks_for() -> None:
    assert link.SIGN.decode() == worker.MARKER + " "


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_every_python_from_3_8_runs_a_job(tmp_path: Path, python: str) -> None:
    talk = Talk(tmp_path, python)
    assert talk.ready()["python"].startswith("3.")
    talk.python_job("import sys; print('hello'); sys.exit(3)")
    assert talk.outcome()["exit_code"] == 3
    talk.acknowledge(0)
    talk.say(op="quit")
    assert talk.hear("published")["ids"] == [[0, 1]]
    assert talk.final(0, "out").read_text() == "hello\n"
    assert talk.status() == 0
    talk.close()


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_every_python_from_3_8_is_taken_up_again(host: Host, python: str) -> None:
    first = host.talk(python=python)
    assert first.ready()["resumed"] is False
    pid = first.sleeper()
    first.hang_up()
    second = host.talk(python=python)
    ready = second.ready()
    assert (ready["resumed"], ready["holds"]) == (True, [[0, 1]])
    assert is_alive(pid)
    second.say(op="quit")
    assert second.outcome()["ending"] == "stopped"
    assert second.status() == 0


def test_output_gets_the_jobs_name_only_when_the_result_counts(talk: Talk) -> None:
    talk.ready()
    for job in (1, 2):
        talk.python_job("print('x')", job=job)
        talk.outcome()
    talk.say(op="ack", ids=[[1, 1, True], [2, 1, False]])
    talk.run("true", job=3)
    assert talk.hear("published")["ids"] == [[1, 1]]
    assert talk.final(1, "out").exists()
    assert talk.final(1, "err").exists()
    assert not talk.final(2, "out").exists()
    assert talk.path(2, "out").read_text() == "x\n"


def run_in_subfolder(talk: Talk, job: int, *argv: str) -> None:
    """Order a job whose files stand in subfolders, as those from 10000 on do."""
    files = [f"10000/{job}.1.{stream}" for stream in ("out", "err")]
    published = [f"10000/{job}.{stream}" for stream in ("out", "err")]
    talk.say(op="run", job=job, attempt=1, argv=argv, env={}, timeout=None, files=files, published=published)


def test_a_subfolder_that_is_missing_is_made(talk: Talk) -> None:
    talk.ready()
    for job in (12_345, 12_346):
        run_in_subfolder(talk, job, "sh", "-c", "echo said; echo warned >&2; exit 3")
        assert talk.outcome()["tail"] == "warned"
        assert (talk.folder / f"attempts/10000/{job}.1.out").read_text() == "said\n"
    talk.say(op="ack", ids=[[12_345, 1, True], [12_346, 1, True]])
    talk.run("true", job=3)
    assert talk.hear("published")["ids"] == [[12_345, 1], [12_346, 1]]
    assert (talk.folder / "10000/12345.out").read_text() == "said\n"
    assert (talk.folder / "10000/12346.err").read_text() == "warned\n"
    for folder in (talk.folder / "10000", talk.folder / "attempts/10000"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list((talk.folder / "attempts/10000").iterdir()) == []


def test_a_subfolder_that_cannot_be_made_refuses_the_job_or_keeps_its_files(talk: Talk) -> None:
    talk.ready()
    run_in_subfolder(talk, 12_345, "echo", "x")
    assert talk.outcome()["exit_code"] == 0
    (talk.folder / "10000").write_text("in the way")
    talk.say(op="ack", ids=[[12_345, 1, True]])
    assert "job 12345: cannot publish its output: " in talk.hear("notice")["text"]
    assert (talk.folder / "attempts/10000/12345.1.out").read_text() == "x\n"
    shutil.rmtree(talk.folder / "attempts")
    run_in_subfolder(talk, 12_346, "true")
    outcome = talk.outcome()
    assert outcome["ending"] == "refused"
    assert outcome["tail"] == "cannot start true: its output files cannot be made: No such file or directory"


def test_an_acknowledgement_that_comes_twice_changes_nothing(talk: Talk) -> None:
    talk.ready()
    talk.python_job("print('x')")
    talk.outcome()
    for _ in range(2):
        talk.acknowledge(0)
    talk.run("true", job=1)
    assert talk.hear("published")["ids"] == [[0, 1]]
    assert talk.outcome()["exit_code"] == 0
    assert talk.final(0, "out").read_text() == "x\n"


def test_an_attempt_that_is_ordered_twice_runs_once(talk: Talk) -> None:
    talk.ready()
    for _ in range(2):
        talk.run("sh", "-c", "echo begun >> begun; sleep 0.2")
    talk.outcome()
    talk.run("true")  # has ended, and is not acknowledged yet
    talk.run("true", job=1)
    assert talk.hear("ended")["job"] == 1
    assert (talk.folder / "begun").read_text() == "begun\n"


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
        "import os, sys; print(repr(sys.stdin.read()), os.nice(0), os.getcwd(), os.getpgid(0) == os.getpid())"
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
    talk.python_job(DAEMON + end, str(pid_file), timeout=5.0 if "sleep" in end else None)
    assert talk.outcome()["ending"] in ("exited", "timeout", "signalled")
    wait_until_gone(int(wait_for_text(pid_file)))


def test_a_daemon_of_a_job_that_still_runs_is_left_alone(talk: Talk) -> None:
    talk.ready()
    pid_file = talk.folder / "daemon"
    talk.python_job(DAEMON + "time.sleep(1000)", str(pid_file), job=1)
    daemon = int(wait_for_text(pid_file))
    for job in range(2, 5):
        talk.run("true", job=job)
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


# What a process in the middle of an exec looks like, only for longer: no environment, then again its own.
LATE = """
import os, sys, time
mark, pid_file, job = os.environ["PISA_MARK"], sys.argv[1], os.getpid()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        code = (
            "import os, sys, time\\n"
            "while os.path.exists('/proc/' + sys.argv[2]): time.sleep(0.01)\\n"
            "time.sleep(0.2)\\n"
            "os.execve('/bin/sleep', ['sleep', '1000'], {'PISA_MARK': sys.argv[1]})"
        )
        with open(pid_file, "w") as file:
            print(os.getpid(), file=file)
        os.execve(sys.executable, [sys.executable, "-c", code, mark, str(job)], {})
    os._exit(0)
os.wait()
time.sleep(0.2)
"""


def test_a_daemon_that_shows_its_environment_late_is_ended_too(talk: Talk) -> None:
    talk.ready(lease=600.0)
    talk.run("sleep", "1000", job=1)
    pid_file = talk.folder / "daemon"
    talk.python_job(LATE, str(pid_file), job=2)
    assert talk.outcome()["exit_code"] == 0
    wait_until_gone(int(wait_for_text(pid_file)))
    talk.say(op="stop")
    assert talk.outcome()["ending"] == "stopped"


def test_jobs_do_not_outlive_a_worker_that_is_killed(talk: Talk) -> None:
    ready = talk.ready()
    pid_file = talk.folder / "daemon"
    talk.python_job(DAEMON + "time.sleep(1000)", str(pid_file), job=1)
    talk.run("sh", "-c", "trap '' TERM HUP; echo $$; sleep 1000; sleep 1000", job=2)
    pids = [int(wait_for_text(pid_file)), int(wait_for_text(talk.path(2, "out")))]
    os.kill(ready["pid"], signal.SIGKILL)
    assert talk.status() == worker.SWEPT
    assert [pid for pid in pids if is_alive(pid)] == []  # the guardian leaves as the last


def test_stop_ends_jobs_and_says_so(talk: Talk) -> None:
    talk.ready()
    talk.run("sleep", "1000")
    talk.say(op="stop")
    assert talk.outcome()["ending"] == "stopped"


def test_stop_with_ids_ends_these_alone(talk: Talk) -> None:
    talk.ready()
    pids = [talk.sleeper(job) for job in (1, 2)]
    talk.say(op="stop", ids=[[1, 2], [2, 1]])
    ended = talk.hear("ended")
    assert (ended["job"], ended["outcome"]["ending"]) == (2, "stopped")
    assert [is_alive(pid) for pid in pids] == [True, False]


def test_a_worker_whose_head_is_gone_ends_its_jobs_and_leaves(talk: Talk) -> None:
    talk.ready()
    talk.run("sh", "-c", "echo $$; exec sleep 1000")
    pid = int(wait_for_text(talk.path(0, "out")))
    talk.hang_up()
    assert talk.status() == 0
    assert not is_alive(pid)


def test_a_worker_whose_head_is_silent_for_a_lease_ends_its_jobs_and_leaves(talk: Talk) -> None:
    talk.pong = False
    talk.ready(lease=3.0)
    pid = talk.sleeper()
    assert talk.status() == 0
    assert not is_alive(pid)


def test_a_worker_that_is_asked_to_end_takes_its_jobs_with_it(talk: Talk) -> None:
    talk.ready()
    talk.run("sh", "-c", "echo $$; exec sleep 1000")
    pid = int(wait_for_text(talk.path(0, "out")))
    talk.process.send_signal(signal.SIGTERM)
    assert talk.status() == 0
    assert not is_alive(pid)


def test_a_head_that_does_not_read_blocks_nothing(talk: Talk) -> None:
    talk.ready()
    count = 5_000  # some megabytes of answers, far more than a pipe holds
    for job in range(1, count):
        talk.run("no-such-program/" + "x" * 300, job=job)
    talk.run("sh", "-c", "echo done", job=0)
    wait_for_text(talk.path(0, "out"))
    jobs = [talk.hear("ended")["job"] for _ in range(count)]
    assert sorted(jobs) == list(range(count))


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
    assert talk.status() == 0


@pytest.mark.parametrize("name", ["attempts", "out", "err"])
def test_a_host_that_does_not_see_the_folders_of_outputs_says_why(talk: Talk, name: str) -> None:
    folders = {key: str(talk.folder) for key in ("attempts", "out", "err")}
    talk.set_up(folders={**folders, name: "/no/such"})
    assert "does not see the folder /no/such" in talk.hear("unusable")["reason"]
    assert talk.status() == 0


def test_a_folder_that_shows_late_is_waited_for(talk: Talk) -> None:
    late = talk.folder / "late"
    talk.set_up(folders={"attempts": str(late), "out": str(talk.folder), "err": str(talk.folder)})
    # It looks for the folder right after it has changed its own, which can be seen.
    wait_until(lambda: talk.folder in map(working_folder, processes.children(talk.process.pid)), "no set-up")
    late.mkdir()
    talk.hear("ready")
    talk.run("echo", "x")
    assert talk.outcome()["exit_code"] == 0
    assert (late / "0.out").read_text() == "x\n"


def working_folder(pid: int) -> Path:
    return Path(f"/proc/{pid}/cwd").readlink()


# -- ending all that a job started ------------------------------------------------------------------------


# Has a child in a session of its own that says when it gets SIGTERM; neither ends by that.
FAMILY = """
trap : TERM
setsid sh -c 'trap "echo term >> $0.term" TERM
    echo $$ > $0.new; mv $0.new $0; while :; do sleep 0.02; done' $0 &
while :; do sleep 0.02; done
"""


@pytest.mark.parametrize("how", ["stop", "timeout"])
def test_what_left_the_jobs_session_is_asked_to_end_once_and_then_killed(talk: Talk, how: str) -> None:
    talk.ready(grace=1.0)
    pid_file = talk.folder / "child"
    talk.run("sh", "-c", FAMILY, str(pid_file), timeout=5.0 if how == "timeout" else None)
    pid = int(wait_for_text(pid_file))
    if how == "stop":
        talk.say(op="stop")
    assert talk.outcome()["ending"] == {"stop": "stopped", "timeout": "timeout"}[how]
    wait_until_gone(pid)
    assert Path(f"{pid_file}.term").read_text() == "term\n"


def test_a_job_that_closes_its_outputs_is_watched_all_the_same(talk: Talk) -> None:
    talk.ready()
    talk.python_job("import os, sys; os.close(1); os.close(2); os._exit(7)")
    assert talk.outcome()["exit_code"] == 7


# Every process starts as many others as the limits of its user allow, in sessions of their own.
BOMB = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NPROC, (24, 24))
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
print("begun", flush=True)
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
"""


@NEEDS_ROOT
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_fork_bomb_is_ended(talk: Talk, end: str) -> None:
    ready = talk.ready()
    talk.python_job(BOMB, str(STRANGER))
    wait_for_text(talk.path(0, "out"))
    wait_until(lambda: len(of_stranger()) == 24, "no bomb")
    if end == "stop":
        talk.say(op="stop")
        assert talk.outcome()["ending"] == "stopped"
        wait_until(lambda: of_stranger() == [], "something of the bomb is left")
    else:
        os.kill(ready["pid"], signal.SIGKILL)
        assert talk.status() == worker.SWEPT
        assert of_stranger() == []


def of_stranger() -> list[int]:
    found = []
    for pid in processes.processes():
        try:
            if Path(f"/proc/{pid}").stat().st_uid == STRANGER and is_alive(pid):
                found.append(pid)
        except FileNotFoundError:
            pass
    return found


def test_a_daemon_of_the_job_is_asked_to_end_with_it(talk: Talk) -> None:
    talk.ready(grace=60.0)
    pid_file = talk.folder / "daemon"
    talk.python_job(DAEMON + "time.sleep(1000)", str(pid_file))
    daemon = int(wait_for_text(pid_file))
    talk.say(op="stop")
    outcome = talk.outcome()
    assert (outcome["ending"], outcome["signal"]) == ("stopped", signal.SIGTERM)
    wait_until_gone(daemon)


def test_children_are_found_on_a_kernel_that_does_not_list_them() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        assert process.pid in processes.children_by_parent(os.getpid())
        assert set(processes.children(os.getpid())) == set(processes.children_by_parent(os.getpid()))
        process.kill()


# -- refusals of the host ---------------------------------------------------------------------------------


def test_a_missing_folder_refuses_a_job_and_the_worker_goes_on(talk: Talk) -> None:
    talk.ready()
    (talk.folder / "attempts").rmdir()
    talk.run("true")
    outcome = talk.outcome()
    assert outcome["ending"] == "refused"
    assert outcome["tail"] == "cannot start true: its output files cannot be made: No such file or directory"
    talk.run("true", job=1)
    assert talk.outcome()["ending"] == "refused"


@NEEDS_ROOT
def test_a_full_disk_refuses_a_job_until_there_is_room(talk: Talk) -> None:
    attempts = talk.folder / "attempts"
    attempts.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=8", "none", str(attempts)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a file system")
    try:
        talk.ready()
        fillers = [attempts / f"filler{number}" for number in range(7)]
        for filler in fillers:
            filler.touch()
        talk.run("true")
        outcome = talk.outcome()
        assert outcome["ending"] == "refused"
        assert "No space left on device" in outcome["tail"]
        for filler in fillers:
            filler.unlink()
        talk.run("true", job=1)
        assert talk.outcome()["exit_code"] == 0
        talk.say(op="quit")
        assert talk.status() == 0
    finally:
        subprocess.run(["umount", str(attempts)], check=True)


@NEEDS_ROOT
def test_a_full_process_table_refuses_a_job() -> None:
    with tempfile.TemporaryDirectory(prefix="pisa_fab-test-", dir="/tmp") as folder:
        os.chown(folder, STRANGER, STRANGER)
        # Guardian and worker are two.
        talk = Talk(
            Path(folder),
            python_for_everybody(),
            user=STRANGER,
            group=STRANGER,
            extra_groups=[],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (2, 2)),
        )
        talk.set_up()
        os.chown(Path(folder) / "attempts", STRANGER, STRANGER)
        talk.hear("ready")
        talk.run("true")
        outcome = talk.outcome()
        assert outcome["ending"] == "refused"
        assert outcome["tail"] == "cannot start true: Resource temporarily unavailable"
        talk.close()


# -- being taken up again ---------------------------------------------------------------------------------


PATIENT = "echo $$; while [ ! -e go ]; do sleep 0.02; done; echo done"


def test_a_job_goes_on_while_there_is_no_head_and_its_output_is_complete(host: Host) -> None:
    first = host.talk()
    pid = first.ready()["pid"]
    first.run("sh", "-c", PATIENT)
    job = wait_for_text(first.path(0, "out"))
    first.hang_up()
    assert [message["op"] for message in first.messages()] == ["ping"]
    (host.folder / "go").touch()
    second = host.talk(epoch=2)
    ready = second.ready()
    assert (ready["resumed"], ready["pid"]) == (True, pid)
    assert ready["holds"] == [[0, 1]]
    assert second.outcome()["exit_code"] == 0
    assert second.path(0, "out").read_text() == job + "done\n"
    second.acknowledge(0)
    second.say(op="quit")
    assert second.hear("published")["ids"] == [[0, 1]]
    assert second.status() == 0
    assert first.status() == 0


def test_a_result_is_told_again_until_it_is_acknowledged(host: Host) -> None:
    first = host.talk()
    first.ready()
    for job in (1, 2):
        first.run("true", job=job)
        first.outcome()
    first.acknowledge(1)
    first.hang_up()
    list(first.messages())
    for _ in range(2):
        again = host.talk()
        assert again.ready()["holds"] == [[2, 1]]
        assert again.hear("ended")["job"] == 2
        again.hang_up()
    last = host.talk()
    last.ready()
    last.hear("ended")
    last.acknowledge(2)
    last.hang_up()
    assert last.status() in (0, UNKNOWN)  # it may see either end first
    assert first.status() == 0


def test_what_was_published_is_told_again_until_a_ping_that_followed_is_answered(host: Host) -> None:
    first = host.talk()
    first.ready()
    first.sleeper(job=9)
    first.pong = False
    first.run("true", job=1)
    first.outcome()
    first.acknowledge(1)
    first.run("true", job=2)
    assert first.hear("published")["ids"] == [[1, 1]]
    second = host.talk()
    second.ready(lease=4.0)
    assert second.hear("published")["ids"] == [[1, 1]]
    second.hear("ping")  # is answered, and so the next one shows that the answer has arrived
    second.hear("ping")
    third = host.talk()
    third.ready()
    heard = [third.hear("ping")]
    third.say(op="quit")
    heard += list(third.messages())
    assert [message for message in heard if message["op"] == "published"] == []


def test_the_newest_conversation_wins(host: Host) -> None:
    talks = [host.talk()]
    talks[0].ready()
    talks[0].run("sh", "-c", PATIENT)
    for _ in range(3):
        talks.append(host.talk())
        assert talks[-1].ready()["resumed"] is True
        assert [message["op"] for message in talks[-2].messages() if message["op"] != "ping"] == []
    (host.folder / "go").touch()
    assert talks[-1].outcome()["exit_code"] == 0
    assert [talk.status() for talk in talks[1:-1]] == [UNKNOWN] * 2
    talks[-1].say(op="quit")
    assert (talks[0].status(), talks[-1].status()) == (0, 0)


def test_a_relay_ends_as_the_worker_that_was_killed(host: Host) -> None:
    first = host.talk()
    pid = first.ready()["pid"]
    job = first.sleeper()
    second = host.talk()
    second.ready()
    os.kill(pid, signal.SIGKILL)
    assert second.status() == worker.SWEPT
    assert not is_alive(job)
    assert first.status() == worker.SWEPT


def test_a_relay_that_is_killed_loses_nothing(host: Host) -> None:
    first = host.talk()
    first.ready()
    job = first.sleeper()
    second = host.talk()
    second.ready()
    second.process.kill()
    assert [message["op"] for message in second.messages() if message["op"] != "ping"] == []
    third = host.talk()
    assert third.ready()["resumed"] is True
    assert is_alive(job)


def test_a_worker_whose_guardian_is_killed_is_taken_up_and_leaves_nothing(host: Host) -> None:
    first = host.talk()
    first.ready()
    pid_file = host.folder / "daemon"
    first.python_job(DAEMON + "time.sleep(1000)", str(pid_file))
    daemon = int(wait_for_text(pid_file))
    first.process.kill()
    first.status()
    first.hang_up()
    second = host.talk()
    assert second.ready()["holds"] == [[0, 1]]
    assert is_alive(daemon)
    second.say(op="quit")
    assert second.outcome()["ending"] == "stopped"
    assert second.status() == UNKNOWN
    assert not is_alive(daemon)
    assert not host.place.exists()


def test_what_a_killed_worker_and_guardian_left_ends_before_the_next_is_ready(host: Host) -> None:
    first = host.talk()
    pid = first.ready()["pid"]
    pid_file = host.folder / "daemon"
    first.python_job(DAEMON + "time.sleep(1000)", str(pid_file))
    left = [int(wait_for_text(pid_file)), first.sleeper(job=1)]
    first.process.kill()  # in this order: the guardian would end the jobs
    first.status()
    os.kill(pid, signal.SIGKILL)
    second = host.talk()
    ready = second.ready()
    assert (ready["resumed"], ready["holds"]) == (False, [])
    assert [is_alive(process) for process in left] == [False, False]


def test_a_frozen_worker_is_ended_with_its_jobs(host: Host) -> None:
    first = host.talk()
    pid = first.ready()["pid"]
    job = first.sleeper()
    os.kill(pid, signal.SIGSTOP)
    second = host.talk()
    assert second.ready()["resumed"] is False
    assert not is_alive(job)
    assert first.status() == worker.SWEPT


def test_a_frozen_guardian_does_not_keep_the_next_worker_out(host: Host) -> None:
    first = host.talk()
    pid = first.ready()["pid"]
    job = first.sleeper()
    for process in (first.process.pid, pid):
        os.kill(process, signal.SIGSTOP)
    second = host.talk()
    assert second.ready()["resumed"] is False
    assert not is_alive(job)


def test_a_worker_that_does_not_end_is_named(host: Host) -> None:
    first = host.talk()
    pid = first.ready()["pid"]
    first.sleeper()
    os.kill(first.process.pid, signal.SIGSTOP)  # the guardian, which holds the lock until it has looked
    os.kill(pid, signal.SIGKILL)
    second = host.talk()
    second.set_up(grace=0.0)
    reason = second.hear("unusable")["reason"]
    assert reason == f"an earlier worker of this run does not end (process {first.process.pid})"
    assert second.status() == UNKNOWN
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.status() == worker.SWEPT


def test_a_worker_of_another_version_ends_its_jobs_and_makes_way(host: Host) -> None:
    first = host.talk()
    first.ready()
    job = first.sleeper()
    second = host.talk(digest="two")
    assert second.ready()["resumed"] is False
    assert not is_alive(job)
    assert first.outcome()["ending"] == "stopped"
    assert first.status() == 0


def test_a_head_of_before_is_told_so(host: Host) -> None:
    first = host.talk(epoch=2)
    first.ready()
    job = first.sleeper()
    second = host.talk(epoch=1, digest="two")
    second.set_up()
    assert second.hear("superseded") == {"op": "superseded"}
    assert second.status() == UNKNOWN
    assert is_alive(job)
    first.say(op="stop")
    assert first.outcome()["ending"] == "stopped"


def test_an_idle_worker_leaves_with_its_head(host: Host) -> None:
    first = host.talk()
    first.ready()
    first.run("true")
    first.outcome()
    first.acknowledge(0)
    first.hang_up()
    assert first.status() == 0
    assert not host.place.exists()


def test_two_workers_that_start_together_become_one(host: Host) -> None:
    talks = [host.talk() for _ in range(4)]
    for talk in talks:
        talk.set_up()
    # One is fresh, and all but the last of the others are dropped; which it is nobody knows.
    ready = {}
    ends = {talk.process.stdout: talk for talk in talks}
    while len(ready) < len(talks):
        readable = select.select(list(ends), [], [], DEADLINE)[0]
        assert readable, "the workers say nothing"
        for output in readable:
            talk = ends.pop(output)
            line = talk.readline()
            ready[talk] = json.loads(line) if line else None
    assert any(message is not None and message["op"] == "ready" for message in ready.values())
    assert len({message["pid"] for message in ready.values() if message is not None}) == 1


def test_a_place_that_vanished_hides_a_worker_but_not_its_jobs(host: Host) -> None:
    first = host.talk()
    first.ready()
    job = first.sleeper()
    shutil.rmtree(host.place)
    second = host.talk()
    assert second.ready()["resumed"] is False
    assert not is_alive(job)
    first.say(op="quit")
    assert first.status() == 0
    assert host.place.exists()  # the other one's


def test_jobs_carry_the_mark_of_their_run(host: Host) -> None:
    first = host.talk()
    first.ready()
    first.run("sh", "-c", "echo $PISA_MARK", job=7)
    assert first.outcome()["exit_code"] == 0
    assert first.path(7, "out").read_text() == f"{host.mark}/7.1\n"


# -- who may take it up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [b"", b"junk", b"[]", b'{"digest": "one", "epoch": 1, "data": ""}'])
def test_strange_callers_block_nothing(host: Host, words: bytes) -> None:
    first = host.talk()
    first.ready()
    callers = []
    for number in range(2 * CALLERS):
        callers.append(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET))
        callers[-1].connect(str(host.place / "socket"))
        if words:
            callers[-1].sendmsg([words])
        first.run("true", job=number)
        assert first.outcome()["exit_code"] == 0
    first.sleeper(job=99)
    second = host.talk()
    assert [99, 1] in second.ready()["holds"]
    for caller in callers:
        caller.close()


@NEEDS_ROOT
def test_another_user_is_not_listened_to() -> None:
    with tempfile.TemporaryDirectory(prefix="pisa_fab-test-", dir="/tmp") as folder:
        os.chown(folder, STRANGER, STRANGER)
        place = Path(folder) / "place"
        talk = Talk(
            Path(folder),
            python_for_everybody(),
            place=place,
            user=STRANGER,
            group=STRANGER,
            extra_groups=[],
        )
        talk.set_up()
        os.chown(Path(folder) / "attempts", STRANGER, STRANGER)
        talk.hear("ready")
        caller = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        caller.settimeout(DEADLINE)
        caller.connect(str(place / "socket"))  # root may
        assert worker.hear(caller) == ("", [])
        caller.close()
        talk.run("true")
        assert talk.outcome()["exit_code"] == 0
        talk.acknowledge(0)
        talk.close()


@pytest.mark.parametrize("what", ["open to others", "a link", "a file", "of another user"])
def test_a_place_that_others_may_steer_is_not_used(host: Host, what: str) -> None:
    if what == "open to others":
        host.place.mkdir()
        host.place.chmod(0o710)
    elif what == "a link":
        host.place.symlink_to(host.folder)
    elif what == "a file":
        host.place.touch()
    elif os.geteuid() == 0:
        host.place.mkdir(0o700)
        os.chown(host.place, STRANGER, STRANGER)
    else:
        pytest.skip("needs root, to make a folder of another user")
    talk = host.talk()
    talk.set_up()
    assert talk.hear("unusable")["reason"].startswith(f"{host.place} is there, and not a folder of this user")
    assert talk.status() == UNKNOWN
    host.place.rmdir() if host.place.is_dir() and not host.place.is_symlink() else host.place.unlink()


# -- the lease --------------------------------------------------------------------------------------------


def test_a_lease_counts_from_what_was_answered() -> None:
    lease = worker.Lease(100.0, 10.0)
    assert not lease.is_over(109.9)
    lease.answered(104.0)
    lease.answered(101.0)
    assert not lease.is_over(113.9)
    assert lease.is_over(114.0)


def test_a_lease_asks_eight_times() -> None:
    lease = worker.Lease(0.0, 8.0)
    asked = []
    for tenth in range(80):
        if lease.ping_due(tenth / 10):
            lease.pinged(tenth / 10)
            asked.append(tenth / 10)
    assert asked == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


@pytest.mark.parametrize(("seconds", "ends_at"), [(2.0, 7.0), (10.0, 10.0), (60.0, 10.0)])
def test_another_length_never_makes_a_lease_end_later_before_it_is_answered(
    seconds: float, ends_at: float
) -> None:
    lease = worker.Lease(0.0, 10.0)
    lease.resize(5.0, seconds)
    assert lease.ends_at == ends_at
    lease.answered(5.0)
    assert lease.ends_at == max(ends_at, 5.0 + seconds)


def test_a_detached_worker_ends_its_jobs_with_the_lease_and_removes_its_place(host: Host) -> None:
    first = host.talk()
    first.pong = False
    first.ready(lease=3.0)
    job = first.sleeper()
    first.hang_up()
    assert first.status() == 0
    assert not is_alive(job)
    assert not host.place.exists()


def test_an_answer_that_comes_late_does_not_extend_the_lease(talk: Talk) -> None:
    talk.pong = False
    talk.ready(lease=2.0)
    talk.run("sleep", "1000")
    first = talk.hear("ping")["at"]
    for message in talk.messages():
        if message["op"] == "ping":
            talk.say(op="pong", at=first)
    assert talk.status() == 0
    assert first < max(talk.pings) < first + 2.0


def test_answers_in_time_extend_the_lease(talk: Talk) -> None:
    talk.ready(lease=5.0)
    job = talk.sleeper()
    first = talk.hear("ping")["at"]
    while talk.pings[-1] < first + 7.0:
        talk.hear("ping")
    assert is_alive(job)


# Says when it is asked to end, and does not.
STUBBORN = "trap 'echo term' TERM; echo $$; while :; do sleep 0.02; done"


def test_a_worker_that_wakes_up_after_its_lease_kills_at_once(host: Host) -> None:
    first = host.talk()
    first.pong = False
    pid = first.ready(lease=5.0, lease_grace=0.5)["pid"]
    began = processes.clock()
    first.run("sh", "-c", STUBBORN)
    wait_for_text(first.path(0, "out"))
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: processes.clock() > began + 6.0, "time does not pass")
    first.run("sh", "-c", "echo begun", job=1)
    os.kill(pid, signal.SIGCONT)
    endings = {message["job"]: message["outcome"] for message in first.messages() if message["op"] == "ended"}
    assert (endings[0]["ending"], endings[0]["signal"]) == ("stopped", signal.SIGKILL)
    assert "term" not in first.path(0, "out").read_text()
    assert not first.path(1, "out").exists()
    assert first.status() == 0


def test_a_stubborn_job_is_killed_when_the_grace_of_the_lease_is_over(talk: Talk) -> None:
    talk.pong = False
    talk.ready(lease=3.0, lease_grace=0.5, grace=1000.0)
    talk.run("sh", "-c", STUBBORN)
    wait_for_text(talk.path(0, "out"))
    talk.say(op="stop")
    outcome = talk.outcome()
    assert (outcome["ending"], outcome["signal"]) == ("stopped", signal.SIGKILL)
    assert talk.path(0, "out").read_text().count("term") == 1
