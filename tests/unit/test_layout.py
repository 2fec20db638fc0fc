"""Where the files of a job stand: small folders, by a rule that depends on the job's number alone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab.execution import make_way, open_output, rename
from pisa_fab.layout import Layout, attempt_names, job_names
from pisa_fab.run import Run

ROOT = Path("/somewhere/run")
JOBS = st.integers(0, 10_000_000) | st.integers(9_990, 10_010) | st.integers(19_990, 20_010)
ATTEMPTS = st.integers(1, 200)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "run")
    layout.create()
    return layout


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(text)


# -- the rule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "folder", "name"),
    [
        (0, "", "0000"),
        (7, "", "0007"),
        (9_999, "", "9999"),
        (10_000, "10000", "10000"),
        (12_345, "10000", "12345"),
        (19_999, "10000", "19999"),
        (20_000, "20000", "20000"),
        (991_234, "990000", "991234"),
        (1_000_000, "1000000", "1000000"),
    ],
)
def test_a_job_stands_in_the_folder_of_its_ten_thousand(job: int, folder: str, name: str) -> None:
    layout = Layout(ROOT)
    assert layout.job_files(job) == (
        ROOT / "stdout" / folder / f"{name}.out",
        ROOT / "stderr" / folder / f"{name}.err",
    )
    attempts = ROOT / ".pisa" / "attempts" / folder
    assert layout.attempt_files(job, 2) == (attempts / f"{name}.2.out", attempts / f"{name}.2.err")


def test_no_folder_of_a_million_jobs_holds_many_files() -> None:
    for names in (job_names, lambda job: attempt_names(job, 1)):
        # An attempt's two files stand in one folder, while it runs and if it was not the last.
        of_a_job = 1 if names is job_names else 2
        files = Counter(name.rpartition("/")[0] for job in range(1_000_000) for name in names(job)[:of_a_job])
        assert set(files.values()) == {10_000 * of_a_job}
        assert len(files) == 100  # the folder itself, and those in it
        assert all("/" not in folder for folder in files)


@given(JOBS, ATTEMPTS)
def test_the_worker_is_told_the_same_places_as_everybody_else_looks_at(job: int, attempt: int) -> None:
    layout = Layout(ROOT)
    folders = layout.folders
    published = tuple(
        Path(folders[key], name) for key, name in zip(("out", "err"), job_names(job), strict=True)
    )
    assert layout.job_files(job) == published
    own = tuple(Path(folders["attempts"], name) for name in attempt_names(job, attempt))
    assert layout.attempt_files(job, attempt) == own


@given(JOBS, ATTEMPTS)
def test_an_older_place_is_flat_and_comes_last(job: int, attempt: int) -> None:
    layout = Layout(ROOT)
    for places, name in (
        (list(layout.job_places(job)), f"{job:04d}.out"),
        (list(layout.attempt_places(job, attempt)), f"{job:04d}.{attempt}.out"),
    ):
        assert len(places) == (1 if job < 10_000 else 2)
        assert all(out.name == name for out, _ in places)
        assert places[-1][0].parent in (layout.stdout, layout.attempts)
        assert len(set(places)) == len(places)


@given(st.lists(st.tuples(JOBS, ATTEMPTS), unique=True, max_size=20), st.booleans())
def test_what_was_not_published_is_found_wherever_it_stands(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, int]], flat: bool
) -> None:
    layout = Layout(tmp_path_factory.mktemp("found") / "run")
    layout.create()
    for job, attempt in attempts:
        for path in list(layout.attempt_places(job, attempt))[-1 if flat else 0]:
            write(path)
    assert sorted(layout.leftovers()) == sorted(attempts)


# -- the worker's side -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


def in_folder(folder: Path, action: Callable[[int], object]) -> object:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return action(descriptor)
    finally:
        os.close(descriptor)


def test_a_subfolder_is_made_when_it_is_missing_and_used_when_it_is_there(folder: Path) -> None:
    for name in ("10000/12345.1.out", "10000/12346.1.out", "0007.1.out"):
        in_folder(folder, lambda at, name=name: os.close(open_output(name, at)))  # type: ignore[misc]
        in_folder(folder, lambda at, name=name: rename(name, at, f"new{name}", at))  # type: ignore[misc]
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "12345.1.out",
        "12346.1.out",
        "new0007.1.out",
    ]
    assert all((folder / name).stat().st_mode & 0o777 == 0o700 for name in ("10000", "new10000"))


def test_that_another_pc_made_the_subfolder_meanwhile_is_fine(folder: Path) -> None:
    (folder / "10000").mkdir()
    assert in_folder(folder, lambda at: make_way("10000/12345.1.out", at)) is True
    assert in_folder(folder, lambda at: make_way("0007.1.out", at)) is False


def test_a_file_that_is_gone_is_no_missing_folder(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        in_folder(folder, lambda at: rename("0007.1.out", at, "0007.out", at))
    with pytest.raises(FileNotFoundError):
        in_folder(folder, lambda at: rename("10000/12345.1.out", at, "20000/12345.out", at))


AUDITED = """
import json, os, sys
from pisa_fab.execution import open_output, rename
at = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(("open", "os.")) else None)
for name in sys.argv[2:]:
    os.close(open_output(name, at))
    rename(name, at, name + ".new", at)
print(json.dumps(seen))
"""


def test_a_job_costs_one_call_for_each_file_where_the_folder_is_there(folder: Path) -> None:
    (folder / "10000").mkdir()
    names = ["0007.1.out", "10000/12345.1.out"]
    command = [sys.executable, "-c", AUDITED, str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["open", "os.rename"] * len(names)


# -- the head's side ---------------------------------------------------------------------------------------


class Held:
    """What `Run.publish` uses of a run."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout


@pytest.mark.parametrize("job", [9_999, 10_000, 12_345])
@pytest.mark.parametrize("older", [False, True])
def test_the_head_publishes_from_both_places_into_a_folder_that_it_makes(
    layout: Layout, job: int, older: bool
) -> None:
    for path in list(layout.attempt_places(job, 2))[-1 if older else 0]:
        write(path, "second")
    for _ in range(2):  # the second time it is done already
        Run.publish(Held(layout), job, 2)  # type: ignore[arg-type]
        assert [path.read_text() for path in layout.job_files(job)] == ["second", "second"]
    assert list(layout.leftovers()) == []
    assert layout.job_files(job)[0].parent.stat().st_mode & 0o077 == 0 or job < 10_000


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
def test_what_finds_no_room_keeps_the_attempts_name(layout: Layout) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "none", str(layout.stdout)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a file system")
    try:
        with pytest.raises(OSError, match="No space left"):
            (layout.stdout / "10000").mkdir()
        out, err = layout.attempt_files(12_345, 1)
        write(out, "kept")
        write(err, "published")
        Run.publish(Held(layout), 12_345, 1)  # type: ignore[arg-type]
        assert out.read_text() == "kept"
        assert layout.job_files(12_345)[1].read_text() == "published"
    finally:
        subprocess.run(["umount", str(layout.stdout)], check=True)


def test_what_cannot_be_published_for_another_reason_is_an_error(layout: Layout) -> None:
    out, err = layout.attempt_files(12_345, 1)
    write(out)
    write(err)
    (layout.stdout / "10000").write_text("in the way")
    with pytest.raises(OSError) as found:
        Run.publish(Held(layout), 12_345, 1)  # type: ignore[arg-type]
    assert found.value.errno == errno.ENOTDIR
