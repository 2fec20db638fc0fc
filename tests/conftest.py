"""Fixtures: a HOME, hosts with real sshd, a project and programs for one test, cut off from the developer's.

What they give lives in `sshd.py`, `programs.py` and `processes.py`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from processes import assert_all_gone
from programs import Completed, Home, Program, Programs, Project
from sshd import Hosts, SshHost, UnavailableError, link_python

# A slow machine is no mistake. In CI the same examples every time: what is new there is the change, not dice.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every program that they
# start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TASKS = "from pisa_fab.tasks import *  # noqa: F403\n"
OURS = ("PISA_", "FABRIC_", "INVOKE_", "SSH_")  # variables that would steer what is tested


class HostsOrSkip(Hosts):
    """Hosts of a test that is skipped, with the reason, where this machine cannot run them."""

    def start(self, number: int = 1, **options: object) -> list[SshHost]:
        """Start some more hosts with the given `sshd.Options`."""
        try:
            return super().start(number, **options)
        except UnavailableError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the test process itself an empty HOME, and no agent or setting of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("nobody")))
        for name in list(os.environ):
            if name.startswith(OURS):
                patch.delenv(name)
        yield


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home folder and the environment for programs that live there.

    At the end nothing that was started from this test's folder may be left; everything else that a test uses
    is built on this fixture and so has been taken down before.
    """
    path = tmp_path / "home"
    (path / "tmp").mkdir(parents=True)
    link_python(path / "bin")  # a job without a venv asks for `python3`: here and on the hosts the same one
    env = {
        "HOME": str(path),
        "PATH": f"{path}/bin:{os.environ.get('PATH', os.defpath)}",
        "TMPDIR": str(path / "tmp"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "INVOKE_PISA_OWNER": "ignore",  # all hosts of the tests are this machine, which is busy
        **{name: os.environ[name] for name in ("USER", "LOGNAME") if name in os.environ},
    }
    yield Home(path, env)
    assert_all_gone(tmp_path)


@pytest.fixture
def hosts(home: Home, tmp_path: Path) -> Iterator[Hosts]:
    """The hosts of this test: `hosts.start(3, greeting="hello")`."""
    hosts = HostsOrSkip(tmp_path / "hosts", home.path)
    yield hosts
    hosts.disconnect()  # workers end by themselves now, or the test fails when `home` is taken down


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A stranger's project with our tasks in its tasks.py."""
    path = tmp_path / "project"
    path.mkdir()
    project = Project(path)
    project.write("tasks.py", TASKS)
    return project


@pytest.fixture
def programs(home: Home, project: Project, tmp_path: Path) -> Iterator[Programs]:
    """Runs programs in the project's folder."""
    programs = Programs(home, project.path, tmp_path / "logs")
    yield programs
    programs.close()


@pytest.fixture
def run_program(programs: Programs) -> Callable[..., Completed]:
    """Run a program to its end: `run_program("inv", "submit", "-j", "jobs.yaml").returncode`."""
    return programs.run


@pytest.fixture
def start_program(programs: Programs) -> Callable[..., Program]:
    """Start a program in the background: `start_program("inv", "submit", ...).interrupt()`."""
    return programs.start
