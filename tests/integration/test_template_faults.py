"""A template that dies, hangs, is out of date or unfit: what becomes of the jobs, and what is said."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from talk import Host, Talk, is_alive, preload, wait_for_text, wait_until, wait_until_gone

from pisa_fab import processes

SLEEP = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(1000)\n"


class Preloading(Talk):
    """A conversation with a worker whose jobs come from a template."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, mark=os.urandom(4).hex(), **options)
        self.notices: list[str] = []

    def prepare(
        self, source: str, modules: object = True, *, times: dict[str, float] | None = None, **changes: Any
    ) -> None:
        (self.folder / "script.py").write_text(source)
        self.ready(preload=preload(modules, **(times or {})), **changes)

    def script(self, *arguments: str, python: str = sys.executable, **options: Any) -> None:
        self.run(python, "script.py", *arguments, **options)

    def ended(self) -> dict[str, Any]:
        """Wait for the end of a job, and note what is said before."""
        for message in self.messages():
            if message["op"] == "notice":
                assert message["once"]
                self.notices.append(message["text"])
            elif message["op"] == "ended":
                outcome: dict[str, Any] = message["outcome"]
                return outcome
        raise AssertionError("the conversation ended")

    def template(self) -> int:
        """Give the template's process, 0 if there is none."""
        sign = f"{self.seat['mark']}/template"
        found = [pid for pid in processes.processes() if processes.mark_of(pid).startswith(sign)]
        return found[0] if found else 0


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Preloading]:
    conversation = Preloading(tmp_path)
    yield conversation
    conversation.close()


def one(talk: Preloading, *arguments: str, job: int = 0, **options: Any) -> str:
    """Run a job to its end, and give what it printed."""
    talk.script(*arguments, job=job, **options)
    outcome = talk.ended()
    assert outcome["exit_code"] == 0, outcome
    return talk.path(job, "out").read_text()


def test_a_template_that_is_killed_is_replaced_and_takes_no_job_with_it(talk: Preloading) -> None:
    talk.prepare(SLEEP)
    talk.script(job=1)
    running = int(wait_for_text(talk.path(1, "out")))
    first = talk.template()
    os.kill(first, signal.SIGKILL)
    wait_until_gone(first)
    talk.script(job=2)
    wait_for_text(talk.path(2, "out"))
    assert talk.template() not in (0, first)
    assert is_alive(running)


def test_a_job_that_was_asked_for_when_the_template_died_is_run_once(talk: Preloading) -> None:
    talk.prepare("open('begun', 'a').write('x')\n")
    one(talk)
    os.kill(talk.template(), signal.SIGSTOP)
    talk.script(job=1)  # it is asked, and never answers
    talk.run("true", job=2)
    talk.ended()
    os.kill(talk.template(), signal.SIGKILL)
    assert talk.ended()["exit_code"] == 0
    assert (talk.folder / "begun").read_text() == "xx"
    assert talk.notices == []


def test_one_that_always_dies_is_given_up_and_that_is_said_once(talk: Preloading) -> None:
    talk.prepare("print(7)\n")
    for job in range(6):
        assert one(talk, job=job) == "7\n"
        pid = talk.template()
        if pid:
            os.kill(pid, signal.SIGKILL)
            wait_until_gone(pid)
    assert talk.notices == ["script.py is started without preload: the template has ended, again and again"]


def test_a_worker_that_leaves_takes_its_template_along(talk: Preloading) -> None:
    talk.prepare("pass")
    one(talk)
    pid = talk.template()
    talk.say(op="quit")
    assert talk.status() == 0
    assert not is_alive(pid)


def test_nothing_is_left_of_a_worker_that_is_killed(talk: Preloading) -> None:
    talk.prepare(SLEEP)
    worker = 0
    talk.script()
    job = int(wait_for_text(talk.path(0, "out")))
    template = talk.template()
    worker = processes.parent_of(job)
    assert processes.parent_of(template) == worker
    os.kill(worker, signal.SIGKILL)
    wait_until_gone(template)
    wait_until_gone(job)


def test_a_job_that_waits_for_the_imports_can_be_stopped_and_is_not_begun(talk: Preloading) -> None:
    (talk.folder / "slow.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(1000)\n")
    talk.prepare("import slow\n")
    talk.script(job=1)
    talk.script(job=2)
    wait_until((talk.folder / "importing").exists, "it does not begin to import")
    talk.say(op="stop", ids=[[1, 1]])
    assert talk.ended()["ending"] == "stopped"
    talk.run("true", job=3)  # the worker does not wait
    assert talk.ended()["exit_code"] == 0
    talk.say(op="quit")
    assert talk.ended()["ending"] == "stopped"
    assert talk.status() == 0


def test_jobs_that_wait_for_the_imports_go_on_with_the_next_head(host: Host) -> None:
    (host.folder / "slow.py").write_text(
        "import os, time\nopen('importing', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
    )
    (host.folder / "script.py").write_text("import slow, sys\nprint(sys.argv[1])\n")
    first = host.talk()
    first.ready(preload=preload())
    for job in (1, 2):
        first.run(sys.executable, "script.py", str(job), job=job)
    wait_until((host.folder / "importing").exists, "it does not begin to import")
    first.hang_up()
    second = host.talk()
    ready = second.ready(preload=preload())
    assert (ready["resumed"], ready["holds"]) == (True, [[1, 1], [2, 1]])
    (host.folder / "go").touch()
    ended = [second.hear("ended") for _ in range(2)]
    assert {message["job"]: message["outcome"]["exit_code"] for message in ended} == {1: 0, 2: 0}
    assert [second.path(job, "out").read_text() for job in (1, 2)] == ["1\n", "2\n"]


def test_imports_that_take_too_long_are_given_up_and_the_job_is_started_plainly(talk: Preloading) -> None:
    (talk.folder / "slow.py").write_text(
        "import sys, time\nif not hasattr(sys.modules['__main__'], '__file__'):\n    time.sleep(1000)\n"
    )
    talk.prepare("import slow\nprint(7)\n", times={"patience": 0.5})
    assert one(talk) == "7\n"  # by a Python that runs the script, so it does not wait for the module
    assert talk.template() == 0
    assert talk.notices == ["script.py is started without preload: its imports take longer than 0.5 s"]


def test_a_template_without_jobs_ends_and_the_next_job_has_another(talk: Preloading) -> None:
    talk.prepare("import os\nprint(os.getppid())\n", times={"idle": 0.1})
    one(talk, job=1)
    wait_until(lambda: not talk.template(), "it stays though there is no job")
    one(talk, job=2)
    assert talk.notices == []


def test_a_template_that_ends_while_it_imports_is_not_tried_again(talk: Preloading) -> None:
    (talk.folder / "fatal.py").write_text(
        "import os, sys\nif sys.argv[0] and not os.environ.get('FINE'):\n    os._exit(3)\nx = 7\n"
    )
    talk.prepare("import os\nos.environ['FINE'] = '1'\nimport fatal\nprint(fatal.x)\n", ["fatal"])
    assert one(talk) == "7\n"
    assert talk.notices == ["script.py is started without preload: Python ends while it imports"]


def test_a_changed_module_is_imported_anew_and_a_changed_script_is_run(talk: Preloading) -> None:
    (talk.folder / "helper.py").write_text("x = 1\n")
    talk.prepare("import helper\nprint(helper.x)\n")
    assert one(talk) == "1\n"
    first = talk.template()
    (talk.folder / "helper.py").write_text("x = 22\n")
    assert one(talk, job=1) == "22\n"
    second = talk.template()
    assert second not in (0, first)
    (talk.folder / "script.py").write_text("import helper\nprint(-helper.x)\n")
    assert one(talk, job=2) == "-22\n"
    assert talk.template() == second
    assert talk.notices == []


def test_a_module_that_changes_all_the_time_is_given_up(talk: Preloading) -> None:
    helper = talk.folder / "helper.py"
    helper.write_text("x = 0\n")
    talk.prepare("import helper\nprint(helper.x)\n")
    for job in range(8):
        helper.write_text(f"x = {10**job}\n")
        assert one(talk, job=job) == f"{10**job}\n"
    assert talk.notices == [f"script.py is started without preload: {helper} changes again and again"]


UNFIT = {
    "threads": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
        "2 threads run after the imports",
    ),
    "arguments": ("import sys\nx = sys.argv[1:]", "something it imports takes arguments from sys.argv"),
    "kept arguments": ("from sys import argv", "something it imports takes arguments from sys.argv"),
    "a generator": ("import random\nrng = random.Random()", "generator of random numbers (random.Random)"),
    "numpy": ("import numpy\nrng = numpy.random.default_rng()", "numbers (numpy.random.Generator)"),
    "a seed": ("import random\nrandom.seed(3)", "helper.py seeds random numbers while it is imported"),
    "an open file": ("file = open(__file__)", "helper.py open"),
    "a path": ("import sys\nsys.path.insert(0, '/nowhere')", "something it imports changes sys.path"),
    "the script": ("import __main__ as script", "looks at the script while it is imported"),
    "a process": ("import subprocess\np = subprocess.Popen(['sleep', '1000'])", "starts processes"),
    "an exit": (
        "import sys\nif len(sys.argv) < 2:\n    sys.exit('usage')",
        "importing helper fails: SystemExit",
    ),
}


@pytest.mark.parametrize(("source", "why"), UNFIT.values(), ids=UNFIT)
def test_what_jobs_cannot_share_is_said_once_and_they_run_plainly(
    talk: Preloading, source: str, why: str
) -> None:
    (talk.folder / "helper.py").write_text(source)
    talk.prepare("import sys\nimport helper\nprint(sys.argv[1])\n")
    for job in range(2):
        assert one(talk, f"a{job}", job=job) == f"a{job}\n"
    assert len(talk.notices) == 1
    assert talk.notices[0].startswith("script.py is started without preload: ")
    assert why in talk.notices[0]


def test_a_named_module_that_cannot_be_imported_is_named(talk: Preloading) -> None:
    talk.prepare("print(7)", ["json", "no_such_module"])
    assert one(talk) == "7\n"
    assert "importing no_such_module fails: ModuleNotFoundError: No module named" in talk.notices[0]


def test_a_variable_that_was_read_too_early_is_noticed(talk: Preloading) -> None:
    (talk.folder / "helper.py").write_text("import os\nx = os.environ.get('SIZE', '')\n")
    talk.prepare("import os, helper\nprint(helper.x, os.environ['OTHER'])\n")
    for job, size in enumerate(("1", "1", "2", "1")):
        assert one(talk, job=job, env={"SIZE": size, "OTHER": str(job)}) == f"{size} {job}\n"
    assert talk.notices == [
        "script.py is started without preload: "
        "SIZE differs from job to job, and is read before the script begins"
    ]


def test_a_program_that_only_starts_python_is_not_trusted(talk: Preloading) -> None:
    wrapper = talk.folder / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -E "$@"\n')
    wrapper.chmod(0o755)
    talk.prepare("import sys\nprint(len(sys.argv))\n")
    assert one(talk, "x", python=str(wrapper)) == "2\n"
    assert talk.notices == [
        f"script.py is started without preload: {wrapper} is a script and not Python itself"
    ]


def test_what_modules_print_is_printed_by_every_job(talk: Preloading) -> None:
    (talk.folder / "helper.py").write_text("import sys\nprint('hello')\nsys.stderr.write('careful\\n')\n")
    talk.prepare("import helper\nprint('x')\n")
    for job in range(2):
        assert one(talk, job=job) == "hello\nx\n"
        assert talk.path(job, "err").read_text() == "careful\n"


def test_timeout_pause_and_stop_act_on_the_job(talk: Preloading) -> None:
    talk.prepare(SLEEP)
    talk.script(timeout=0.3)
    assert talk.ended()["ending"] == "timeout"
    talk.script(job=1)
    pid = int(wait_for_text(talk.path(1, "out")))
    bounds = {"at_edge": "pause", "owner": {**OWNER, "policy": "ignore"}}
    talk.say(op="bounds", phases=[[0, 0, 19]], **bounds)
    wait_until(lambda: processes.is_stopped(pid), "it does not stand still")
    assert not processes.is_stopped(talk.template())
    talk.say(op="bounds", phases=[[0, 2, 19]], **bounds)
    wait_until(lambda: not processes.is_stopped(pid), "it does not go on")
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    talk.say(op="stop")
    outcome = talk.ended()
    assert outcome["ending"] == "stopped"
    assert outcome["paused"] > 0


OWNER = {"idle": 0.0, "quiet": 1.0, "give_back": 60.0, "load": 1.0, "min_free_memory": 0}


def test_a_job_has_its_limit_of_memory_before_it_begins(talk: Preloading) -> None:
    talk.prepare("import sys\nx = bytearray(int(sys.argv[1]))\n", memory=100 << 20)
    talk.script(str(3 << 30))
    assert talk.ended()["ending"] == "memory"
    talk.script(str(1 << 20), job=1)
    assert talk.ended()["exit_code"] == 0


def test_what_a_job_leaves_behind_ends_with_it(talk: Preloading) -> None:
    talk.prepare(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        print(os.getpid(), flush=True)\n        time.sleep(1000)\n    os._exit(0)\nos.wait()\n"
        "time.sleep(1000)\n"
    )
    talk.script(job=1)
    daemon = int(wait_for_text(talk.path(1, "out")))
    assert processes.mark_of(daemon).endswith("/1.1")
    talk.say(op="stop")
    assert talk.ended()["ending"] == "stopped"
    wait_until_gone(daemon)
    talk.script(job=2)
    wait_for_text(talk.path(2, "out"))
    assert talk.template()
