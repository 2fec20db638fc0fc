"""Fixtures: a pool of PCs in namespaces, and a home, a project and programs of its user, for one test.

The pool itself lives in `namespaces.py`; a test that needs another one than the usual says so:

    @pytest.mark.parametrize("pool", [{"hosts": 2, "home_size": "8m"}], indirect=True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from namespaces import NamespacePool, unavailable
from processes import assert_all_gone
from programs import Content, Home, Programs, Project
from sshd import UnavailableError

TASKS = "from pisa_fab.tasks import *  # noqa: F403\n"
MakePool = Callable[..., NamespacePool]


@dataclass(frozen=True)
class SharedProject(Project):
    """A project in the shared home, which belongs to the pool's user as soon as something is written."""

    owners: NamespacePool = field(kw_only=True)

    def write(self, name: str, content: Content) -> Path:
        """Write a file: text as it is, anything else as YAML."""
        path = super().write(name, content)
        self.owners.give(self.path)
        return path

    def mkdir(self, name: str) -> Path:
        """Make a folder in which jobs may write."""
        path = self.path / name
        path.mkdir(parents=True)
        self.owners.give(self.path)
        return path


@pytest.fixture
def namespaces() -> None:
    """Skip the test, with the reason, where there can be no pool."""
    if reason := unavailable():
        pytest.skip(reason)


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    """Start a pool: `make_pool(hosts=2, home_size="8m")`; see `namespaces.NamespacePool`.

    At the end nothing of its user may run on its hosts, and then it is taken down.
    """
    pools: list[NamespacePool] = []

    def make(**options: object) -> NamespacePool:
        folder = tmp_path / f"pool{len(pools)}"
        try:
            pool = NamespacePool(folder, folder / "home", **options)  # type: ignore[arg-type]
        except UnavailableError as error:
            pytest.skip(str(error))
        pools.append(pool)
        return pool

    yield make
    try:
        for pool in pools:
            pool.assert_empty()
    finally:
        for pool in pools:
            pool.close()
        assert_all_gone(tmp_path)


@pytest.fixture
def pool(make_pool: MakePool, request: pytest.FixtureRequest) -> NamespacePool:
    """The pool of this test: a head and four hosts, unless the test is parametrized with other options."""
    return make_pool(**getattr(request, "param", {}))


@pytest.fixture
def home(pool: NamespacePool) -> Home:
    """The shared home and the environment of the pool's user."""
    return Home(pool.home, pool.environment)


@pytest.fixture
def project(pool: NamespacePool) -> SharedProject:
    """A stranger's project in the shared home, with our tasks in its tasks.py."""
    path = pool.home / "project"
    path.mkdir()
    project = SharedProject(path, owners=pool)
    project.write("tasks.py", TASKS)
    return project


@pytest.fixture
def programs_on(
    pool: NamespacePool, project: SharedProject, tmp_path: Path
) -> Iterator[Callable[[str], Programs]]:
    """Give what runs programs on a PC as the user: `programs_on("pc01").start("inv", "submit")`."""
    made: list[Programs] = []

    def make(name: str) -> Programs:
        home = Home(pool.home, pool.environment)
        made.append(Programs(home, project.path, tmp_path / f"logs{len(made)}", prefix=pool.prefix(name)))
        return made[-1]

    yield make
    for programs in made:
        programs.close()
        for program in programs.started:  # pytest shows it with a test that fails
            print(program.stdout, program.stderr)


@pytest.fixture
def programs(programs_on: Callable[[str], Programs]) -> Programs:
    """Runs programs on the head in the project's folder; `run_program` and `start_program` use it."""
    return programs_on("head")
