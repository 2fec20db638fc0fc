"""Jobs that a template makes are what plain jobs are: every script is run both ways, through the real worker.

How a worker fares with a template that dies, hangs or cannot be used is in `test_template_faults`.
"""

from __future__ import annotations

import difflib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scripts import AT_THE_END, ENDINGS, LIBRARIES, USES
from talk import Talk, preload

from pisa_fab import processes


def pythons() -> list[str]:
    """Give a Python of every version that a venv may have, of those on PATH or of pyenv."""
    home = pwd.getpwuid(os.getuid()).pw_dir  # whatever HOME says
    folders = sorted(Path(os.environ.get("PYENV_ROOT", f"{home}/.pyenv")).glob("versions/3.*/bin"))
    search = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)])
    found = [path for minor in range(8, 15) if (path := shutil.which(f"python3.{minor}", path=search))]
    return [path for path in found if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0]


ADDRESS = re.compile(b"0x[0-9a-f]{6,}")


@dataclass(frozen=True)
class Seen:
    """All that is seen of a job."""

    ending: str
    exit_code: int | None
    signal: int | None
    out: bytes
    err: bytes


class Pair:
    """A folder in which a script is run plainly, and then by a template."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        self.python = python
        self.mark = os.urandom(4).hex()
        self.notices: list[str] = []

    def run(
        self,
        talk: Talk,
        script: str,
        jobs: Sequence[Sequence[str]],
        modules: bool | list[str] | None,
        env: dict[str, str] | None = None,
    ) -> list[Seen]:
        """Run a script once for each list of arguments; `modules` None is without a template."""
        order = None if modules is None else preload(modules)
        talk.ready(preload=order)
        for number, arguments in enumerate(jobs):
            talk.run(self.python, script, *arguments, job=number, env=env)
        outcomes: dict[int, dict[str, Any]] = {}
        while len(outcomes) < len(jobs):
            message = next(talk.messages())
            if message["op"] == "ended":
                outcomes[message["job"]] = message["outcome"]
            elif message["op"] == "notice":
                self.notices.append(message["text"])
        assert bool(templates(self.mark)) == (modules is not None and not self.notices)
        seen = [self.look(talk, number, outcomes[number]) for number in range(len(jobs))]
        for number in outcomes:
            talk.acknowledge(number, publish=False)
        return seen

    def look(self, talk: Talk, number: int, outcome: dict[str, Any]) -> Seen:
        """Give what is seen of a job that has ended."""
        texts = (ADDRESS.sub(b"0x", talk.path(number, name).read_bytes()) for name in ("out", "err"))
        return Seen(outcome["ending"], outcome["exit_code"], outcome["signal"], *texts)

    def compare(
        self, script: str, *jobs: Sequence[str], modules: bool | list[str] = True, **options: Any
    ) -> list[Seen]:
        """Run a script both ways, see that this makes no difference, and give what was seen."""
        talk = Talk(self.folder, mark=self.mark)
        try:
            plain = self.run(talk, script, jobs or [()], None, **options)
            preloaded = self.run(talk, script, jobs or [()], modules, **options)
        finally:
            talk.close()
        for one, other in zip(plain, preloaded, strict=True):
            assert_alike(one, other)
        assert self.notices == []
        return preloaded

    def both(self, source: str, *jobs: Sequence[str], **options: Any) -> list[Seen]:
        """Do the same with the text of a script."""
        (self.folder / "script.py").write_text(source)
        return self.compare("script.py", *jobs, **options)

    def preloaded(self, source: str, jobs: int = 1, modules: bool | list[str] = True) -> list[Seen]:
        """Run a script by a template alone."""
        (self.folder / "script.py").write_text(source)
        talk = Talk(self.folder, mark=self.mark)
        try:
            return self.run(talk, "script.py", [()] * jobs, modules)
        finally:
            talk.close()


def assert_alike(plain: Seen, preloaded: Seen) -> None:
    """Compare line by line, so that a difference can be read."""
    for stream in ("out", "err"):
        lines = [getattr(seen, stream).decode(errors="replace").splitlines() for seen in (plain, preloaded)]
        difference = difflib.unified_diff(*lines, "plain", "preloaded", n=0, lineterm="")
        assert "\n".join(difference) == ""
    assert preloaded == plain


def templates(mark: str) -> list[int]:
    return [pid for pid in processes.processes() if processes.mark_of(pid).startswith(f"{mark}/template")]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


SURROUNDINGS = """
import argparse, gc, json, locale, os, signal, sys, threading, traceback, warnings
def depth(n):
    try:
        return depth(n + 1)
    except RecursionError:
        return n
names = sorted(globals())
print(sys.argv, type(sys.argv) is list, getattr(sys, "orig_argv", None))
print(sys.path, __file__, __name__, __spec__, type(__loader__), __builtins__, names)
print(sys.flags, sys.warnoptions, warnings.filters, sys.executable, sys.prefix, depth(0))
print(os.getcwd(), sorted(os.environ.items()), os.umask(0))
print({number: signal.getsignal(number) for number in signal.valid_signals()})
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.sigpending())
print(sorted(os.listdir("/proc/self/fd"))[:4], [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)])
print(os.getpgid(0) == os.getpid(), os.getsid(0) == os.getsid(os.getppid()), sys.stdin.read() == "")
print(sys._getframe().f_back, threading.current_thread().name, threading.main_thread().ident is not None)
print(threading.main_thread() is threading.current_thread(), threading.active_count())
for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream, stream.line_buffering, stream.encoding, stream.errors, stream.name, stream.closed)
print(sys.stdout is sys.__stdout__, sys.excepthook is sys.__excepthook__, gc.isenabled(), gc.get_threshold())
print(locale.setlocale(locale.LC_ALL), sys.getfilesystemencoding(), "sitecustomize" in sys.modules)
print([name for name in sys.modules if "pisa" in name], sys.meta_path, len(sys.path_hooks))
print(json.dumps(sys.argv))
command = open("/proc/self/cmdline", "rb").read().rstrip(b"\\0").split(b"\\0")
block = open("/proc/self/environ", "rb").read().split(b"\\0")
print(command, [variable for variable in block if variable.startswith(b"PISA_MARK")])
traceback.print_stack()
warnings.warn("careful", stacklevel=2)
open("left_open.txt", "w").write("x")
"""


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_a_job_finds_itself_in_the_same_surroundings(tmp_path: Path, python: str) -> None:
    pair = Pair(tmp_path, python)
    env = {"PISA_JOB": "0001", "ODD": "a\nb=c", "PYTHONPATH": "/nowhere", "EMPTY": ""}
    pair.both(SURROUNDINGS, ["-n", "3"], [], ["--x=1", "a b", "", "ä€"], env=env)


@pytest.mark.parametrize("source", [*ENDINGS.values(), *AT_THE_END.values()], ids=[*ENDINGS, *AT_THE_END])
def test_a_job_ends_in_the_same_way(pair: Pair, source: str) -> None:
    pair.both(source)


def test_a_script_with_a_nul_fails_in_the_same_way(pair: Pair) -> None:
    pair.both("print('a')\0")


@pytest.mark.parametrize("source", USES.values(), ids=USES)
def test_a_job_may_do_what_it_likes(pair: Pair, source: str) -> None:
    (pair.folder / "helper.py").write_text(
        "class A:\n    def __del__(self):\n        print('gone', A)\na = A()\ndef f():\n    return 7\n"
    )
    (pair.folder / "broken.py").write_text("def g():\n    1 / 0\ng()\n")
    pair.both(source, ["-n", "x"], env={"MINE": "mine"})


ODD_ARGUMENTS = [
    "",
    "two words",
    "a\nb",
    "$(id) `id`",
    "--",
    "äöü→😀",
    "\udcff\udc80",
    "x" * 100_000,
]


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_arguments_arrive_byte_for_byte(tmp_path: Path, python: str) -> None:
    source = "import os, sys\nsys.stdout.buffer.write(b'|'.join(map(os.fsencode, sys.argv)))"
    seen = Pair(tmp_path, python).both(source, *([argument] for argument in ODD_ARGUMENTS), ODD_ARGUMENTS)
    assert [one.out for one in seen[:-1]] == [b"script.py|" + os.fsencode(word) for word in ODD_ARGUMENTS]


def test_a_script_in_a_linked_folder_finds_its_own_modules(pair: Pair) -> None:
    (pair.folder / "real").mkdir()
    (pair.folder / "real" / "program.py").write_text(
        "import sys, beside\nprint(sys.path[0], __file__, beside.x)"
    )
    (pair.folder / "real" / "beside.py").write_text("x = 3")
    (pair.folder / "link").symlink_to("real")
    (pair.folder / "program").symlink_to("link/program.py")
    for script in ("link/program.py", "program", str(pair.folder / "link" / "program.py")):
        assert str(pair.folder / "real").encode() in pair.compare(script)[0].out


@pytest.mark.parametrize("source", LIBRARIES.values(), ids=LIBRARIES)
def test_libraries_give_the_same(pair: Pair, source: str) -> None:
    seen = pair.both(source, ["1"], ["2"], env={"MPLCONFIGDIR": str(pair.folder / "mpl")})
    assert seen[0].out != seen[1].out or "pandas" in source


def test_modules_may_be_named(pair: Pair) -> None:
    source = "import sys\nprint('scipy.stats' in sys.modules)"
    assert pair.preloaded(source, modules=["numpy", "scipy.stats"])[0].out == b"True\n"
    assert pair.notices == []


RANDOM = """
import json, os, random, sys, tempfile, uuid
import numpy as np
drawn = [random.random(), random.Random().random(), np.random.rand(), np.random.default_rng().random()]
drawn += [str(uuid.uuid4()), str(uuid.uuid1()), next(tempfile._get_candidate_names()), os.urandom(8).hex()]
print(json.dumps([*drawn, os.getpid()]))
"""


def test_no_two_jobs_draw_the_same_random_numbers(pair: Pair) -> None:
    drawn = [json.loads(seen.out) for seen in pair.preloaded(RANDOM, jobs=6)]
    assert pair.notices == []
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == len(drawn)


def test_what_a_job_uses_is_its_own(pair: Pair) -> None:
    (pair.folder / "script.py").write_text(
        "import sys, time\nimport numpy as np\nx = bytearray(100_000_000)\n"
        "while time.process_time() < 0.3:\n    pass\n"
    )
    used = []
    talk = Talk(pair.folder, mark=pair.mark)
    for order in (None, preload()):
        talk.ready(preload=order)
        talk.run(sys.executable, "script.py")
        used.append(talk.outcome())
        talk.acknowledge(0, publish=False)
    talk.close()
    for outcome in used:
        assert outcome["user"] + outcome["system"] >= 0.3
        assert 100_000_000 < outcome["memory"] < 300_000_000
