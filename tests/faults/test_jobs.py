"""Jobs that misbehave: that take too long, leave processes, fill the process table, kill and are killed.

What happened is judged by what the jobs themselves logged, by what their user gets (see witness.py), and by
which processes there are on the hosts.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from marks import hosts
from namespaces import NamespacePool
from processes import wait_for
from programs import Completed, Program, Project
from witness import Batch

pytestmark = pytest.mark.root
Run = Callable[..., Completed]
Start = Callable[..., Program]

# Starts a process that does not belong to the job's session any more, and outlives what started it. It sleeps
# for a time by which a test finds it: 5000 s and the number of its job.
DAEMON = """
def daemon(deaf=False, environment=None):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        if deaf:
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        seconds = str(5000 + int(job))
        os.execve("/bin/sleep", ["sleep", seconds], os.environ if environment is None else environment)
    os.wait()
"""
# Each job does what its number says, and then goes on as all do: it waits for its gate.
TOO_LONG = (
    DAEMON
    + """
import signal, subprocess
def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if job == "0000":  # ends when it is asked to, with 0
    signal.signal(signal.SIGTERM, lambda *_: (say("asked"), sys.exit(0)))
elif job == "0001":  # does not hear
    deaf()
elif job == "0002":  # has a child in a session of its own that does not hear
    subprocess.Popen(["sleep", "5002"], start_new_session=True, preexec_fn=deaf)
elif job == "0003":  # has a daemon that does not hear
    daemon(deaf=True)
elif job == "0004":  # has one that hears, and does not itself
    deaf()
    daemon()
elif job == "0005":  # is stopped, and so cannot hear
    os.kill(os.getpid(), signal.SIGSTOP)
"""
)
KINDS = (
    DAEMON
    + """
import signal
if job == "0000":  # has a daemon that outlives it
    daemon()
elif job == "0001":  # and one that does not hear
    daemon(deaf=True)
elif job == "0002":  # and one whose environment says nothing
    daemon(environment={})
elif job == "0003":  # closes what it could write to; what it still prints goes nowhere
    os.close(1)
    os.close(2)
    os.open("/dev/null", os.O_WRONLY)
elif job == "0004":
    os.kill(os.getpid(), signal.SIGKILL)
elif job == "0005":
    daemon()
    os.kill(0, signal.SIGKILL)
"""
)
# Forks, as soon as it is told to, until there is no room for another process, and asks again and again.
BOMB = """
if job in ("0000", "0001"):
    while not os.path.exists("bomb"):
        time.sleep(0.02)
    if job == "0000":
        while not os.path.exists("over"):
            try:
                if os.fork() == 0:
                    os.execv("/bin/sleep", ["sleep", "5000"])
            except OSError:
                if not os.path.exists("full"):
                    open("full", "w").close()
                time.sleep(0.001)
"""
# Kills the worker above it at once, in every attempt.
KILLER = """
if job == "0000":
    import signal
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(5000)
"""


def sleepers(pool: NamespacePool) -> list[str]:
    """Give the seconds that the sleeping processes on the hosts were told to sleep."""
    found = [process.describe() for host in pool.hosts for process in host.started_there()]
    return sorted(text.split()[-1] for text in found if " sleep 50" in text)


@hosts(2)
def test_a_job_that_takes_too_long_is_ended_with_all_that_it_started(
    pool: NamespacePool, project: Project, start_program: Start, run_program: Run
) -> None:
    batch = Batch(project, 6, TOO_LONG, timeout="2s", stop_after=0)
    project.pool(pool.hosts, slots=3)
    done = run_program("inv", "submit")
    assert done.returncode == 1, done.said
    assert "6 jobs: 6 failed" in done.stdout
    for job in batch.jobs:
        assert f"  {job}  timeout after " in done.stdout
    assert [attempt.number for attempt in batch.attempts()] == [1] * 6
    assert [attempt for attempt in batch.attempts() if attempt.ended] == []
    assert "asked" in (project.path / "log/0000.1").read_text()
    assert sleepers(pool) == []
    pool.assert_empty()


@hosts(1)
def test_what_a_job_leaves_is_ended_and_its_siblings_are_not(
    pool: NamespacePool, project: Project, start_program: Start, run_program: Run
) -> None:
    batch = Batch(project, 8, KINDS, stop_after=0)
    project.pool(pool.hosts, slots=8)
    program = start_program("inv", "submit", "--log")
    batch.wait_for_begun(8)
    wait_for(lambda: sleepers(pool) == ["5000", "5001", "5002"], "the daemons")
    batch.let_go("0000", "0001", "0002", "0003")
    for job in range(4):
        program.wait_for_output(f"000{job}.1 on pc01: succeeded")
    # The one that has no mark may belong to any job; it stays as long as one runs.
    wait_for(lambda: sleepers(pool) == ["5002"], "the end of the daemons that can be told apart")
    assert program.running()
    assert [attempt.job for attempt in batch.attempts() if attempt.ended] == batch.jobs[:4]
    batch.let_go()
    done = program.wait()
    assert done.returncode == 1, done.said
    assert "8 jobs: 6 succeeded, 2 failed" in done.stdout
    assert done.stdout.count("signal 9 (SIGKILL) on pc01, attempt 1") == 2
    assert (project.path / "run/stdout/0003.out").read_text() == ""
    assert {attempt.number for attempt in batch.attempts()} == {1}
    pool.assert_empty()


@hosts(2, max_processes=60)
def test_a_job_that_fills_the_process_table_delays_the_others_until_its_time_is_over(
    pool: NamespacePool, project: Project, start_program: Start, run_program: Run
) -> None:
    batch = Batch(project, 10, BOMB, timeout="8s")
    project.pool(pool.hosts, slots=1)
    program = start_program("inv", "submit")
    batch.wait_for_begun(2)  # one on each host: connecting needs processes, too
    project.write("bomb", "")
    wait_for((project.path / "full").exists, "the table to be full")
    batch.let_go()  # now the others are tried
    program.wait_for_output("can start nothing at the moment: cannot start python3: Resource temporarily")
    done = program.wait()
    assert done.returncode == 1, done.said
    assert "10 jobs: 9 succeeded, 1 failed" in done.stdout
    assert "0000  timeout after " in done.stdout
    attempts = batch.attempts()
    assert sorted(attempt.job for attempt in attempts if attempt.ended) == batch.jobs[1:]
    assert [attempt for attempt in attempts if attempt.overlaps] == []
    assert sleepers(pool) == []
    project.write("over", "")
    again = run_program("inv", "submit", "--retry-failed")
    assert again.returncode == 0, again.said
    batch.check(run_program)
    pool.assert_empty()


@hosts(2)
def test_a_job_that_kills_its_worker_is_given_up_after_a_few(
    pool: NamespacePool, project: Project, start_program: Start
) -> None:
    batch = Batch(project, 8, KILLER, max_losses=2)
    batch.let_go()
    project.pool(pool.hosts, slots=1)  # what runs beside it would be lost with it
    done = start_program("inv", "submit").wait()
    assert done.returncode == 1, done.said
    lost = batch.hosts_of("0000")
    assert len(lost) == 2
    assert f"0000: given up: lost with {lost[0]}, {lost[1]}" in done.stdout
    assert "8 jobs: 7 succeeded, 1 lost" in done.stdout
    attempts = batch.attempts()
    assert [attempt for attempt in attempts if attempt.overlaps] == []
    assert {attempt.job for attempt in attempts if attempt.ended} == set(batch.jobs[1:])
    pool.assert_empty()
