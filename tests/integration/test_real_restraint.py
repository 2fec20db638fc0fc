"""What jobs are held to, with real processes: standing back, and memory in both ways of confining."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import below, everything, wait_for

from pisa_fab.restraint import Confinement, autogroup_nice, stray_sessions

MIB = 1 << 20
LIMIT = 100 * MIB
ROOM = f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})"
HAS_AUTOGROUP = autogroup_nice(os.getpid()) is not None
IOPRIO_GET = {"x86_64": 252, "aarch64": 31}
IDLE = 3 << 13

needs_autogroup = pytest.mark.skipif(not HAS_AUTOGROUP, reason="no autogroup in this kernel")


def run(program: str, **options: object) -> str:
    """Run a program of Python in a session of its own and give what it prints."""
    code = f"import os, sys\n{ROOM}\n" + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


# -- standing back -------------------------------------------------------------------------------------------


def standing(calls: str) -> dict[str, int]:
    """Give how a child of a process stands that has made these calls."""
    program = f"""
    import ctypes, json, platform
    from pisa_fab.restraint import autogroup_nice, stand_back
    {calls}
    if os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    call = {IOPRIO_GET}.get(platform.machine())
    print(json.dumps({{
        "disk": ctypes.CDLL(None).syscall(call, 1, 0) & ~7 if call else {IDLE},
        "autogroup": autogroup_nice(os.getpid()),
        "victim": int(open("/proc/self/oom_score_adj").read()),
    }}))
    """
    return dict(json.loads(run(program)))


@needs_autogroup
def test_jobs_stand_back_at_the_disk_at_the_processor_and_when_memory_is_out() -> None:
    assert standing("stand_back(19)") == {"disk": IDLE, "autogroup": 19, "victim": 900}


@needs_autogroup
def test_a_session_can_come_forward_again() -> None:
    assert standing("stand_back(19); stand_back(5)")["autogroup"] == 5


@needs_autogroup
def test_jobs_that_are_not_to_stand_back_do_not() -> None:
    before = standing("pass")
    assert standing("stand_back(0)") == before
    assert before["autogroup"] == 0


@needs_autogroup
def test_the_session_of_the_person_who_started_us_stays_as_it_is() -> None:
    program = """
    from pisa_fab.restraint import autogroup_nice, stand_back
    if not os.fork():
        stand_back(19)
        os._exit(0)
    os.wait()
    print(autogroup_nice(os.getpid()))
    """
    assert run(program) == "0\n"


@needs_autogroup
def test_an_ordinary_user_waits_for_the_turn_of_his_write() -> None:
    # Who changes the user and executes nothing afterwards may not write into the own files of /proc.
    become = "os.setuid(65534); ctypes.CDLL(None).prctl(4, 1); " if os.geteuid() == 0 else ""
    program = f"""
    import ctypes, errno, time
    from pisa_fab import restraint
    {become}codes = []
    for pid in [os.getpid()] * 3:
        try:
            with open(f"/proc/{{pid}}/autogroup", "w") as file:
                file.write("3")
        except OSError as error:
            codes.append(errno.errorcode[error.errno])
    restraint.stand_back(19)
    deadline = time.monotonic() + 60
    while restraint.autogroup_nice(os.getpid()) != 19 and time.monotonic() < deadline:
        time.sleep(0.05)
        restraint.stray_sessions([os.getpid()], 19)
    print("EAGAIN" in codes, restraint.autogroup_nice(os.getpid()))
    """
    assert run(program) == "True 19\n"


@contextmanager
def sleeper(session: bool) -> Iterator[int]:
    """Give a process that does nothing, in a session of its own or in ours."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=session)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@needs_autogroup
def test_sessions_that_jobs_make_are_put_back_too_and_ours_is_not() -> None:
    ours = autogroup_nice(os.getpid())
    with sleeper(session=True) as stray, sleeper(session=False) as tame:
        wait_for(lambda: os.getsid(stray) == stray, "its session")

        def put_back() -> bool:
            stray_sessions([stray, tame, 2**22 + 1], 19)
            return autogroup_nice(stray) == 19

        wait_for(put_back, "the stray session to stand back")
        assert autogroup_nice(tame) == autogroup_nice(os.getpid()) == ours
        stray_sessions([stray], 0)
        assert autogroup_nice(stray) == 19


# -- memory --------------------------------------------------------------------------------------------------


class Job:
    """A program of Python that is confined before it begins, and reports when it has what it wants."""

    def __init__(self, confinement: Confinement, program: str) -> None:
        self.confinement = confinement
        code = "import mmap, os, sys, time\nsys.stdin.readline()\n" + textwrap.dedent(program)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        confinement.confine(self.process.pid)
        self.go()

    def go(self) -> None:
        """Let it begin, or go on where it waits for a line."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def wait_until_ready(self, lines: int = 1) -> None:
        """Wait until it has printed so many lines."""
        assert self.process.stdout is not None
        for _ in range(lines):
            assert self.process.stdout.readline(), self.process.communicate()[1]

    def pids(self) -> list[int]:
        found = [self.process.pid, *(p.pid for p in below([self.process.pid], everything()))]
        assert found
        return found

    def end(self) -> tuple[int, bool, str]:
        """Give its exit code, whether the limit was why, and its standard error."""
        assert self.process.stderr is not None
        text = self.process.stderr.read()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        ran_out = self.confinement.ran_out(self.process.pid, usage.ru_maxrss * 1024, text[-4096:])
        self.confinement.release(self.process.pid)
        return self.process.returncode, ran_out, text

    def stop(self) -> None:
        """Let what it left end, as the worker does."""
        for process in below([self.process.pid], everything()):
            process.send(9)  # type: ignore[arg-type]
        self.process.kill()
        self.process.communicate()


@contextmanager
def job(program: str, limit: int = LIMIT) -> Iterator[Job]:
    started = Job(Confinement(limit, manager=False), program)
    try:
        yield started
    finally:
        started.stop()


def test_a_job_that_fits_runs() -> None:
    with job("data = bytearray(50 << 20)\nprint('has it', flush=True)\nsys.stdin.readline()") as small:
        small.wait_until_ready()
        assert small.confinement.is_over(small.pids()) == 0
        small.go()
        assert small.end()[:2] == (0, False)


def test_a_job_of_numpy_fits_and_one_that_wants_too_much_is_told_so() -> None:
    pytest.importorskip("numpy")
    with job("import numpy\nprint(numpy.ones((1000, 1000)).dot(numpy.ones(1000)).sum())") as fits:
        assert fits.end() == (0, False, "")
    with job("import numpy\nnumpy.ones(1 << 30)") as greedy:
        code, ran_out, text = greedy.end()
        assert (code, ran_out) == (1, True)
        assert "Unable to allocate 8.00 GiB" in text


def test_one_allocation_that_is_far_too_big_is_refused_and_that_is_why_the_job_failed() -> None:
    with job("bytearray(2 << 30)") as greedy:
        code, ran_out, text = greedy.end()
        assert (code, ran_out) == (1, True)
        assert text.endswith("MemoryError\n")


def test_a_job_that_simply_fails_has_not_run_out_of_memory() -> None:
    with job("data = bytearray(90 << 20)\nsys.exit('no such file')") as failing:
        assert failing.end()[:2] == (1, False)


def test_a_job_over_its_limit_is_seen() -> None:
    with job("data = bytearray(120 << 20)\nprint('has it', flush=True)\ntime.sleep(600)") as greedy:
        greedy.wait_until_ready()
        assert 120 * MIB <= greedy.confinement.is_over(greedy.pids()) < 150 * MIB


FAMILY = """
shared = bytearray(b'x') * ({shared} << 20)
for child in range(4):
    if not os.fork():
        own = bytearray(b'x') * ({own} << 20)
        print('has it', flush=True)
        time.sleep(600)
time.sleep(600)
"""


def test_children_that_are_too_much_together_are_seen() -> None:
    with job(FAMILY.format(shared=1, own=40)) as family:
        family.wait_until_ready(4)
        assert len(family.pids()) == 5
        assert 160 * MIB <= family.confinement.is_over(family.pids()) < 200 * MIB


def test_what_forked_children_share_counts_once() -> None:
    with job(FAMILY.format(shared=50, own=1)) as family:
        family.wait_until_ready(4)
        assert len(family.pids()) == 5
        assert family.confinement.is_over(family.pids()) == 0


def test_shared_memory_counts_once() -> None:
    program = "both = mmap.mmap(-1, {} << 20)\nfor at in range(0, len(both), 4096): both[at] = 1\n" + FAMILY
    with job(program.format(60, shared=1, own=1)) as family:
        family.wait_until_ready(4)
        assert family.confinement.is_over(family.pids()) == 0
    with job(program.format(120, shared=1, own=1)) as family:
        family.wait_until_ready(4)
        assert family.confinement.is_over(family.pids()) >= 120 * MIB


@pytest.fixture
def big() -> Iterator[str]:
    """A file of 300 MB on a disk, for what is in a tmpfs, as /tmp may be, is memory."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        os.truncate(file.name, 300 * MIB)
        yield file.name


def test_a_job_that_maps_a_big_file_or_reserves_addresses_is_left_alone(big: str) -> None:
    program = f"""
    with open({big!r}, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    read = sum(data[at] for at in range(0, len(data), 4096))
    reserved = mmap.mmap(-1, 64 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, 0)
    untouched = mmap.mmap(-1, 500 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    print('has it', flush=True)
    sys.stdin.readline()
    """
    with job(program) as mapping:
        mapping.wait_until_ready()
        assert mapping.confinement.is_over(mapping.pids()) == 0
        mapping.go()
        assert mapping.end()[:2] == (0, False)


def test_many_threads_are_no_reason() -> None:
    program = """
    import threading
    gate = threading.Event()
    for thread in range(32):
        threading.Thread(target=gate.wait, daemon=True).start()
    print('has it', flush=True)
    """
    with job(program) as crowd:
        crowd.wait_until_ready()
        assert crowd.end()[:2] == (0, False)


def test_processes_that_have_ended_use_nothing() -> None:
    confinement = Confinement(1, manager=False)
    process = subprocess.Popen(["true"])
    process.wait()
    confinement.confine(process.pid)
    assert confinement.is_over([process.pid]) == 0
    confinement.release(process.pid)


# -- memory by cgroups, where a user's service manager runs -------------------------------------------------

# Runs in a process of its own, for a confinement moves the process that makes it.
BY_CGROUPS = """
import json, subprocess
from pisa_fab.restraint import Confinement
confinement = Confinement(100 << 20)
print(json.dumps({"home": confinement.home}))
programs = {
    "fits": "data = bytearray(50 << 20)",
    "greedy": "data = bytearray(200 << 20)",
    "fails": "import sys; sys.exit(1)",
    "family": "import os, time\\nfor i in range(4):\\n    if not os.fork():\\n"
    "        data = bytearray(40 << 20); time.sleep(600)\\nos.wait()",
}
for name, program in programs.items() if confinement.home else ():
    process = subprocess.Popen(
        ["sh", "-c", 'read go; exec "$0" -c "$1"', sys.executable, program], stdin=subprocess.PIPE
    )
    confinement.confine(process.pid)
    process.communicate(b"go\\n")
    ran_out = confinement.ran_out(process.pid, 0, "MemoryError")
    over = confinement.is_over([process.pid])
    same = Confinement(100 << 20)  # a worker makes another one when another head comes
    assert (same.home, same.groups) == (confinement.home, confinement.groups), same.groups
    confinement.release(process.pid)
    print(json.dumps({"name": name, "code": process.returncode, "ran_out": ran_out, "over": over}))
"""


def test_the_kernel_ends_a_job_as_a_whole_that_runs_out_of_its_memory() -> None:
    first, *ends = map(json.loads, run(BY_CGROUPS).splitlines())
    if not first["home"]:
        pytest.skip("no service manager of this user that may divide up memory")
    assert ends == [
        {"name": "fits", "code": 0, "ran_out": False, "over": 0},
        {"name": "greedy", "code": -9, "ran_out": True, "over": 0},
        {"name": "fails", "code": 1, "ran_out": False, "over": 0},
        {"name": "family", "code": -9, "ran_out": True, "over": 0},
    ]
    wait_for(lambda: not Path(first["home"]).exists(), "the end of the scope")
