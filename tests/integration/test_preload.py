"""Jobs that a template makes are what plain jobs are: every script is run both ways, through the real worker.

How a worker fares with a template that dies, hangs or cannot be used is in `test_template_faults`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from talk import Talk

from pisa_fab import processes
from pisa_fab.parcel import template_parcel


def pythons() -> list[str]:
    """Give a Python of every version that a venv may have, of those on PATH or of pyenv."""
    folders = sorted(Path(os.environ.get("PYENV_ROOT", "/root/.pyenv")).glob("versions/3.*/bin"))
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
        script: str,
        jobs: Sequence[Sequence[str]],
        modules: bool | list[str] | None,
        env: dict[str, str] | None = None,
    ) -> list[Seen]:
        """Run a script once for each list of arguments; `modules` None is without a template."""
        order = None if modules is None else {"modules": modules, "parcel": template_parcel()}
        talk = Talk(self.folder, mark=self.mark)
        try:
            talk.ready(preload=order)
            for number, arguments in enumerate(jobs):
                talk.run(self.python, script, *arguments, job=number, env=env)
            outcomes: dict[int, dict[str, Any]] = {}
            for message in talk.messages():
                if message["op"] == "ended":
                    outcomes[message["job"]] = message["outcome"]
                elif message["op"] == "notice":
                    self.notices.append(message["text"])
                if len(outcomes) == len(jobs):
                    break
            assert bool(templates(self.mark)) == (modules is not None and not self.notices)
            return [
                Seen(
                    outcomes[number]["ending"],
                    outcomes[number]["exit_code"],
                    outcomes[number]["signal"],
                    *(ADDRESS.sub(b"0x", talk.path(number, name).read_bytes()) for name in ("out", "err")),
                )
                for number in range(len(jobs))
            ]
        finally:
            talk.close()

    def both(
        self, source: str, *jobs: Sequence[str], modules: bool | list[str] = True, **options: Any
    ) -> list[Seen]:
        """Run a script both ways, see that this makes no difference, and give what was seen."""
        (self.folder / "script.py").write_text(source)
        plain = self.run("script.py", jobs or [()], None, **options)
        preloaded = self.run("script.py", jobs or [()], modules, **options)
        for one, other in zip(plain, preloaded, strict=True):
            assert_alike(one, other)
        assert self.notices == []
        return preloaded


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


ENDINGS = {
    "returns": "print('x')",
    "exits with 3": "import sys; sys.exit(3)",
    "exits with None": "import sys; sys.exit()",
    "exits with a text": "import sys; sys.exit('sorry, ä')",
    "exits with 300": "raise SystemExit(300)",
    "exits with an object": "raise SystemExit([1, 2])",
    "exits at once": "import os, sys; print('never seen'); sys.stderr.write('seen\\n'); os._exit(7)",
    "raises": "import json\ndef f(x):\n    return json.loads(x)\nf('{')",
    "raises from": "try:\n    1 / 0\nexcept Exception as e:\n    raise ValueError('no') from e",
    "raises its own": "class Mine(Exception):\n    pass\nraise Mine('x')",
    "raises a group": "raise ExceptionGroup('g', [ValueError(1)])",
    "is interrupted": "print('x')\nraise KeyboardInterrupt",
    "interrupts itself": "import os, signal\nprint('x')\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(60)",
    "is terminated": "import os, signal\nprint('lost')\nos.kill(os.getpid(), signal.SIGTERM)",
    "is killed": "import os, signal\nprint('x', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)",
    "aborts": "import os\nos.abort()",
    "is no Python": "def f(:\n    pass",
    "is indented badly": "if True:\nprint('x')",
    "has a strange encoding": "# coding: no-such-coding\nprint('x')",
    "has an odd escape": "print('\\d')",
    "has a NUL": "print('a')\0",
    "is empty": "",
    "imports nothing that is there": "import no_such_module_at_all",
    "fails to import a name": "from json import no_such_name",
    "recurses": "def f():\n    f()\nf()",
    "closes standard output": "import sys\nprint('x')\nsys.stdout.close()",
    "writes to a closed descriptor": "import os\nprint('x')\nos.close(1)",
    "breaks a pipe": "import os\nr, w = os.pipe()\nos.close(r)\nos.write(w, b'x')",
}
AT_THE_END = {
    "atexit": "import atexit\natexit.register(print, 'first')\natexit.register(lambda: 1 / 0)\nprint('x')",
    "an atexit that exits": "import atexit, sys\natexit.register(sys.exit, 5)",
    "a file that is not closed": "f = open('unclosed.txt', 'w')\nf.write('x' * 10)\nimport atexit\n"
    "atexit.register(lambda: print(open('unclosed.txt').read()))",
    "a finaliser": "import sys, json\nclass A:\n    def __del__(self):\n        print('gone', json, sys)\na = A()",
    "a cycle": "class A:\n    def __del__(self):\n        print('gone')\na = A()\na.a = a\ndel a",
    "a thread": "import threading, time\ndef f():\n    time.sleep(0.2)\n    print('thread')\n"
    "threading.Thread(target=f).start()\nprint('main')",
    "a daemon thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "a thread that raises": "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='t')\nt.start()\nt.join()",
    "an excepthook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0], a[2].tb_frame.f_back)\n1 / 0",
    "a broken excepthook": "import sys\ndef hook(*a):\n    raise ValueError('hook')\nsys.excepthook = hook\n1 / 0",
    "a weak reference": "import weakref\nclass A:\n    pass\na = A()\nweakref.finalize(a, print, 'finalised')",
    "logging": "import logging\nlogging.basicConfig()\nlogging.warning('w %s', logging.getLogger().handlers)",
    "threads of a pool": "from concurrent.futures import ThreadPoolExecutor as P\nprint(list(P(3).map(abs, [-1, 2])))",
    "asyncio": "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 7\nprint(asyncio.run(f()))",
}


@pytest.mark.parametrize("source", [*ENDINGS.values(), *AT_THE_END.values()], ids=[*ENDINGS, *AT_THE_END])
def test_a_job_ends_in_the_same_way(pair: Pair, source: str) -> None:
    pair.both(source)


USES = {
    "processes that fork": "import multiprocessing as m, os\nif __name__ == '__main__':\n"
    "    with m.get_context('fork').Pool(2) as p:\n        print(p.map(abs, [-1, 2]))",
    "processes that spawn": "import multiprocessing as m\ndef f(x):\n    return x * x\nif __name__ == '__main__':\n"
    "    with m.get_context('spawn').Pool(2) as p:\n        print(p.map(f, [-1, 2]))",
    "a server of forks": "import multiprocessing as m\ndef f(x):\n    return x * x\nif __name__ == '__main__':\n"
    "    with m.get_context('forkserver').Pool(2) as p:\n        print(p.map(f, [-1, 2]))",
    "a queue": "import multiprocessing as m\nif __name__ == '__main__':\n    q = m.Queue()\n"
    "    p = m.Process(target=q.put, args=(3,))\n    p.start()\n    print(q.get())\n    p.join()\n    print(p.exitcode)",
    "subprocess": "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'import sys, os; "
    'print(sys.argv, os.environ["MINE"]); sys.exit(3)\'], capture_output=True))\n'
    "print(subprocess.check_output('echo $MINE $PISA_MARK; cat', shell=True))",
    "os.system": "import os\nprint(os.system('echo $MINE; exit 3'), flush=True)\nprint(os.getenv('MINE'))",
    "os.execv": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(7)'])",
    "os.fork": "import os\nprint('x', flush=True)\nif os.fork() == 0:\n    print('child')\nelse:\n    os.wait()",
    "pickle": "import pickle\nclass A:\n    pass\ndata = pickle.dumps(A())\nprint(data, pickle.loads(data))",
    "dataclasses": "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\nprint(A(), A.__module__)",
    "annotations": "x: int = 1\nprint(__annotations__)",
    "inspect": "import inspect, sys\ndef f(): pass\nprint(inspect.getsource(f), inspect.stack(), inspect.getfile(f))",
    "doctest": "'''\n>>> 1 + 1\n3\n'''\nimport doctest\nprint(doctest.testmod())",
    "signals": "import signal, os\nsignal.signal(signal.SIGUSR1, lambda *a: print('usr1'))\n"
    "os.kill(os.getpid(), signal.SIGUSR1)\nsignal.alarm(1)\nsignal.pause()",
    "its own module": "import helper, sys\nprint(helper.f(), helper.__file__, 'helper' in sys.modules)",
    "a module that fails": "import broken",
    "runpy": "import runpy\nprint(sorted(runpy.run_path('helper.py'))[-1])",
    "help": "import argparse\np = argparse.ArgumentParser(description='d')\np.add_argument('-n')\np.parse_args(['-h'])",
    "a wrong argument": "import argparse\np = argparse.ArgumentParser()\np.add_argument('-n', type=int)\np.parse_args()",
}


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
        plain, preloaded = (pair.run(script, [()], modules) for modules in (None, True))
        assert plain == preloaded
        assert str(pair.folder / "real").encode() in plain[0].out


LIBRARIES = {
    "numpy": "import sys, numpy as np\nrng = np.random.default_rng(int(sys.argv[1]))\na = rng.normal(size=(50, 50))\n"
    "print(np.linalg.svd(a)[1][:5], np.fft.fft(a[0])[:3])\nnp.savetxt(sys.stdout, a[:2, :2])\n"
    "print(np.ones(3) / np.zeros(3))\nnp.empty((1 << 60,))",
    "scipy": "import sys\nfrom scipy import optimize, stats, integrate\nimport scipy\n"
    "print(optimize.minimize(lambda x: (x[0] - float(sys.argv[1])) ** 2, [0.0]).x)\n"
    "print(stats.norm.rvs(size=3, random_state=1), integrate.quad(lambda x: x, 0, 1), scipy.special.gamma(4.5))",
    "pandas": "import io, sys\nimport pandas as pd\nframe = pd.read_csv(io.StringIO('a,b\\n1,2\\n3,4'))\n"
    "print(frame.describe(), frame.groupby('a').sum(), pd.Timestamp('2026-01-01').tz_localize('Europe/Berlin'))\n"
    "frame.to_csv(f'frame{sys.argv[1]}.csv')\nframe['c']",
    "matplotlib": "import hashlib, sys\nimport matplotlib\nmatplotlib.use('Agg')\nimport matplotlib.pyplot as plt\n"
    "plt.plot([1, 3, 2])\nplt.title(sys.argv[1])\nplt.savefig(f'{sys.argv[1]}.png')\n"
    "print(hashlib.md5(open(f'{sys.argv[1]}.png', 'rb').read()).hexdigest(), matplotlib.get_backend())",
}


@pytest.mark.parametrize("source", LIBRARIES.values(), ids=LIBRARIES)
def test_libraries_give_the_same(pair: Pair, source: str) -> None:
    seen = pair.both(source, ["1"], ["2"], env={"MPLCONFIGDIR": str(pair.folder / "mpl")})
    assert seen[0].out != seen[1].out or "pandas" in source


def test_modules_may_be_named(pair: Pair) -> None:
    source = "import sys\nprint('scipy.stats' in sys.modules)\nimport scipy.stats"
    (pair.folder / "script.py").write_text(source)
    assert pair.run("script.py", [()], None)[0].out == b"False\n"
    assert pair.run("script.py", [()], ["numpy", "scipy.stats"])[0].out == b"True\n"
    assert pair.notices == []


RANDOM = """
import json, os, random, sys, tempfile, uuid
import numpy as np
print(json.dumps([random.random(), np.random.rand(), np.random.default_rng().random(), random.Random().random(),
    str(uuid.uuid4()), str(uuid.uuid1()), next(tempfile._get_candidate_names()), os.urandom(8).hex(), os.getpid()]))
"""


def test_no_two_jobs_draw_the_same_random_numbers(pair: Pair) -> None:
    (pair.folder / "script.py").write_text(RANDOM)
    drawn = [json.loads(seen.out) for seen in pair.run("script.py", [()] * 6, True)]
    assert pair.notices == []
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == len(drawn)


def test_what_a_job_uses_is_its_own(pair: Pair) -> None:
    (pair.folder / "script.py").write_text(
        "import sys, time\nimport numpy as np\nx = bytearray(100_000_000)\n"
        "while time.process_time() < 0.3:\n    pass\n"
    )
    used = []
    for modules in (None, True):
        order = None if modules is None else {"modules": modules, "parcel": template_parcel()}
        talk = Talk(pair.folder, mark=pair.mark)
        talk.ready(preload=order)
        talk.run(sys.executable, "script.py")
        used.append(talk.outcome())
        talk.close()
    for outcome in used:
        assert outcome["user"] + outcome["system"] >= 0.3
        assert 100_000_000 < outcome["memory"] < 300_000_000
    assert used[1]["user"] + used[1]["system"] <= outcome["seconds"] + 0.1
