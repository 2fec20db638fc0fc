"""`init`: the files are valid as they stand, whatever the script is, and nothing is overwritten."""

from __future__ import annotations

import ast
import errno
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import wait_for

from pisa_fab import tasks
from pisa_fab.argparse_help import Option
from pisa_fab.errors import PisaError, UsageError
from pisa_fab.first_files import IMPORT, TASKS_TEXT, Wishes, init, jobs_text, run_for_help
from pisa_fab.proposals import examples
from pisa_fab.specs import load_batch, load_cluster

REQUIRED = '''
"""Simulate."""
import argparse
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--temperature", type=float, required=True)
parser.add_argument("--seed", type=int, required=True, help="of the dice")
parser.add_argument("--size", type=int, default=16, help="spins along one side (default: %(default)s)")
parser.add_argument("--mode", choices=["fast", "exact"], default="fast")
parser.add_argument("--loud", action="store_true", help="say more")
parser.parse_args()
'''
NOTHING_REQUIRED = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("-n", type=int, default=3, help="how many: %% and 'quotes' (default: %(default)s)")
parser.add_argument("--mode", choices=["fast", "a b", "yes"])
parser.add_argument("--two", nargs=2)
parser.parse_args()
"""
POSITIONAL = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("file", help="what is read: {it}")
parser.add_argument("output")
parser.add_argument("job", nargs=2)
parser.add_argument("rest", nargs="*")
parser.add_argument("--box", nargs=3, required=True, metavar=("X", "Y", "Z"))
parser.parse_args()
"""
NO_PARSER = "import sys\nopen('made', 'w').write('done')\nprint(sys.version)\n"
BROKEN = "import argparse\nimport no_such_module_at_all\n"
EMPTY = ""
SCRIPTS = {
    "required": REQUIRED,
    "nothing_required": NOTHING_REQUIRED,
    "positional": POSITIONAL,
    "no_parser": NO_PARSER,
    "broken": BROKEN,
    "empty": EMPTY,
}


@pytest.fixture(autouse=True)
def _no_venv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)


def run(folder: Path, **wishes: str) -> tuple[list[str], list[str]]:
    """Run init without anybody to ask; give the names of what was written, and what was told."""
    told: list[str] = []
    return [path.name for path in init(folder, **wishes, ask=None, told=told.append)], told


def answers(*given: str) -> tuple[Callable[[str, str], str], list[str]]:
    """Give somebody who answers, and the list of what was asked."""
    left, asked = list(given), []

    def ask(question: str, default: str) -> str:
        asked.append(f"{question} [{default}]")
        return left.pop(0)

    return ask, asked


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in folder.iterdir() if path.is_file()}


# --- what is written ---


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_files_are_valid_and_a_dryrun_works(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text(SCRIPTS[name])
    written, told = run(tmp_path, hosts="pc[01-03]")
    assert written == ["jobs.yaml", "cluster.yaml", "tasks.py"]
    assert told[-1] == "next: pisa-fab dryrun"  # as it was typed, which pytest was not
    program = Path(sys.executable).with_name("pisa-fab")
    done = subprocess.run([program, "dryrun"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    jobs = [line for line in done.stdout.splitlines() if re.match(r"\d{4}  ", line)]
    assert len(jobs) == len(load_batch(tmp_path / "jobs.yaml").plan)
    assert jobs[0].startswith(f"0000  python3 {name}.py")
    assert len(load_cluster(tmp_path / "cluster.yaml").hosts) == 3
    assert not (tmp_path / "made").exists()  # a script without options was not run
    assert not list(tmp_path.glob(".*"))


def test_what_the_script_needs_is_in_the_sweep_and_all_else_is_a_comment(tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(REQUIRED)
    _, told = run(tmp_path)
    assert "sim.py --help names 5 arguments; it needs --temperature, --seed" in told
    assert "look at jobs.yaml: the values there are only examples" in told
    text = (tmp_path / "jobs.yaml").read_text()
    assert load_batch(tmp_path / "jobs.yaml").plan.columns == ("--temperature", "--seed")
    for line in (
        "script: sim.py",
        "  # of the dice",
        "  # spins along one side (default: 16)",
        "  # --size: {from: 16, to: 56, step: 10}",
        "  # --mode: [fast, exact]",
        "  # say more",
        "  # --loud: {flag: [true, false]}",
    ):
        assert line in text.splitlines()
    assert text.startswith("# yaml-language-server: $schema=file:///")


@pytest.mark.parametrize("name", ["required", "nothing_required", "no_parser"])
def test_every_proposal_can_be_used_by_taking_its_mark_away(name: str, tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(SCRIPTS[name])
    run(tmp_path)
    path = tmp_path / "jobs.yaml"
    lines = path.read_text().splitlines()
    proposal = re.compile(r"^( *)# ( *(?:-[-\w]*|sweep|results|timeout|retries):(?: .*)?)$")
    used = [match[1] + match[2] if (match := proposal.match(line)) else line for line in lines]
    path.write_text("\n".join(used))
    batch = load_batch(path)
    assert len(batch.plan.columns) >= 2
    assert (batch.retries, batch.limits.timeout) == (1, 7200.0)
    assert batch.results is not None


def test_positional_arguments_are_variables_in_args(tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(POSITIONAL)
    run(tmp_path)
    batch = load_batch(tmp_path / "jobs.yaml")
    assert batch.plan.columns == ("box_1", "box_2", "box_3", "file", "output_", "job_1", "job_2")
    words = ("--box", "1", "1", "1", "first.csv", "1", "1", "1")
    assert batch.plan.job(0, 0).argv == ("python3", "sim.py", *words)
    done = subprocess.run([sys.executable, "sim.py", *words], cwd=tmp_path, check=False)
    assert done.returncode == 0  # and the script takes them


def test_without_hosts_there_is_an_example_that_nobody_takes(tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(REQUIRED)
    written, told = run(tmp_path)
    assert written == ["jobs.yaml", "cluster.yaml.example", "tasks.py"]
    assert any("rename it to cluster.yaml" in line for line in told)
    (tmp_path / "cluster.yaml.example").rename(tmp_path / "cluster.yaml")
    assert len(load_cluster(tmp_path / "cluster.yaml").hosts) == 34


def test_the_hosts_are_split_at_blanks_and_commas_but_not_in_brackets(tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(REQUIRED)
    run(tmp_path, hosts="pc[01-02,07], me@far:2222 other", slots="3")
    hosts = load_cluster(tmp_path / "cluster.yaml").hosts
    assert [host.name for host in hosts] == ["pc01", "pc02", "pc07", "far", "other"]
    assert {host.slots for host in hosts} == {3}
    assert (hosts[3].user, hosts[3].port) == ("me", 2222)


def test_the_venv_beside_is_used_for_the_jobs_and_for_the_help(tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(REQUIRED)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'usage: sim.py --only-here X\n\noptions:\n  --only-here X'\n")
    python.chmod(0o755)
    run(tmp_path)
    batch = load_batch(tmp_path / "jobs.yaml")
    assert batch.venv == tmp_path / ".venv"
    assert batch.plan.columns == ("--only-here",)


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(REQUIRED)
    old = os.umask(0o027)
    try:
        run(tmp_path)
    finally:
        os.umask(old)
    assert (tmp_path / "jobs.yaml").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "jobs.yaml").stat().st_nlink == 1


def test_the_tasks_file_has_our_commands_and_one_of_its_own(tmp_path: Path) -> None:
    names = {alias.name for node in ast.parse(TASKS_TEXT).body for alias in getattr(node, "names", [])}
    assert names == {"task", *IMPORT.split("import ")[1].split(", ")}
    (tmp_path / "sim.py").write_text(REQUIRED)
    run(tmp_path)
    inv = Path(sys.executable).with_name("inv")
    done = subprocess.run([inv, "--list"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("everything", *IMPORT.split("import ")[1].split(", ")):
        assert re.search(rf"^\s+{name}\s", done.stdout, re.MULTILINE), name


def test_all_names_that_the_tasks_file_imports_are_there() -> None:
    assert set(IMPORT.split("import ")[1].split(", ")) <= set(tasks.__all__)


# --- nothing is overwritten ---


@pytest.mark.parametrize("there", ["jobs.yaml", "cluster.yaml", "tasks.py"])
def test_a_file_that_is_there_is_left_alone(there: str, tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(REQUIRED)
    (tmp_path / there).write_text("mine\n")
    written, told = run(tmp_path, hosts="pc1")
    assert there not in written
    assert len(written) == 2
    assert (tmp_path / there).read_text() == "mine\n"
    assert f"{there} is there already and left as it is" in told
    assert (IMPORT in "\n".join(told)) == (there == "tasks.py")


def test_a_second_time_there_is_nothing_to_write(tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(REQUIRED)
    run(tmp_path, hosts="pc1")
    before = contents(tmp_path)
    ask, asked = answers()
    told: list[str] = []
    assert init(tmp_path, script="no.py", ask=ask, told=told.append) == []
    assert "nothing to write: all files are there" in told
    assert asked == []
    assert contents(tmp_path) == before
    assert not any(IMPORT in line for line in told)  # it is in tasks.py


def test_a_disk_that_is_full_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(EMPTY)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(PisaError, match=r"jobs.yaml: cannot be written: File too large"):
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["sim.py"]


def test_a_file_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text("import argparse\nopen('jobs.yaml', 'w').write('mine')\n")
    written, told = run(tmp_path)
    assert "jobs.yaml" not in written
    assert "jobs.yaml is there already and left as it is" in told
    assert (tmp_path / "jobs.yaml").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "sim.py").write_text(EMPTY)
    written, _ = run(tmp_path)
    assert written == ["jobs.yaml", "cluster.yaml.example", "tasks.py"]
    assert not list(tmp_path.glob(".*"))


def test_the_folder_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep" / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "deep" / "venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "deep" / "sim.py").write_text(REQUIRED)
    run(Path("deep"))
    assert load_batch(Path("deep")).plan.columns == ("--temperature", "--seed")


# --- what is valid ---


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({}, "which script? here are a.py, b.py"),
        ({"script": "c.py"}, 'there is no file "c.py"'),
        ({"script": "a.py", "venv": "nowhere"}, 'there is no folder "nowhere"'),
        ({"script": "a.py", "output": "."}, "is workdir or a folder around it"),
        ({"script": "a.py", "hosts": "pc[1-"}, "--hosts has a bracket too many or too few"),
        ({"script": "a.py", "hosts": "pc1,pc1"}, "--hosts names pc1 twice"),
        ({"script": "a.py", "hosts": "-x"}, "--hosts is no name of a host"),
        ({"script": "a.py", "hosts": "pc1", "slots": "many"}, "--slots must be a whole number"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    wishes: dict[str, str], message: str, tmp_path: Path
) -> None:
    for name in ("a.py", "b.py", "tasks_of_mine.txt"):
        (tmp_path / name).write_text(EMPTY)
    before = contents(tmp_path)
    with pytest.raises(PisaError) as caught:
        run(tmp_path, **wishes)
    assert message in caught.value.message
    assert caught.value.exit_code == 2
    assert contents(tmp_path) == before


def test_a_folder_without_a_script_is_told(tmp_path: Path) -> None:
    for name in ("tasks.py", "fabfile.py", "test_it.py", "setup.py"):
        (tmp_path / name).write_text(EMPTY)
    with pytest.raises(UsageError, match="there is no Python script here"):
        run(tmp_path)


# --- somebody to ask ---


def test_what_is_not_given_is_asked(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(REQUIRED)
    ask, asked = answers("b.py", "my_run", "pc[1-2]", "3")
    init(tmp_path, ask=ask, told=lambda line: None)
    assert asked == [
        "the script (a.py, b.py) []",
        "the folder for what the jobs print [b_run]",
        "the PCs, such as pc[01-34] (nothing: not yet) []",
        "jobs at once on each PC [1]",
    ]
    batch = load_batch(tmp_path / "jobs.yaml")
    assert batch.output == tmp_path / "my_run"
    assert batch.plan.job(0, 0).argv[1] == "b.py"
    assert [host.slots for host in load_cluster(tmp_path / "cluster.yaml").hosts] == [3, 3]


def test_no_answer_is_the_default_and_what_is_given_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(REQUIRED)
    ask, asked = answers("", "")
    init(tmp_path, ask=ask, told=lambda line: None)
    assert len(asked) == 2
    assert load_batch(tmp_path / "jobs.yaml").output == tmp_path / "a_run"
    assert not (tmp_path / "cluster.yaml").exists()
    (tmp_path / "jobs.yaml").unlink()
    (tmp_path / "cluster.yaml.example").unlink()
    ask, asked = answers()
    init(tmp_path, script="a.py", output="r", hosts="pc1", slots="2", ask=ask, told=lambda line: None)
    assert asked == []


def test_a_wrong_answer_is_asked_again_but_not_for_ever(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(REQUIRED)
    ask, _ = answers(".", "a.py", "run", "pc[", "pc1", "none", "2")
    told: list[str] = []
    init(tmp_path, ask=ask, told=told.append)
    assert load_batch(tmp_path / "jobs.yaml").output == tmp_path / "run"
    assert load_cluster(tmp_path / "cluster.yaml").hosts[0].slots == 2
    assert len([line for line in told if line.startswith("--")]) == 4
    (tmp_path / "jobs.yaml").unlink()
    ask, asked = answers(".", ".", ".", ".")
    with pytest.raises(PisaError, match="is workdir"):
        init(tmp_path, ask=ask, told=told.append)
    assert len(asked) == 3


# --- the script's help ---


def test_a_script_whose_parser_is_in_a_module_beside_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "options.py").write_text(REQUIRED)
    (tmp_path / "sim.py").write_text("import options\n")
    run(tmp_path, script="sim.py")
    assert load_batch(tmp_path / "jobs.yaml").plan.columns == ("--temperature", "--seed")


def test_a_script_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(BROKEN)
    _, told = run(tmp_path)
    assert any("no_such_module_at_all" in line and "sim.py --help failed" in line for line in told)


def test_what_does_not_end_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    code, _ = run_for_help(["sleep", "1000"], tmp_path, seconds=0.2)
    assert code is None
    assert time.monotonic() - began < 900


def test_what_prints_for_ever_is_cut_and_ended_with_all_it_has_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    (tmp_path / "sim.sh").write_text(f"sleep 1000 & echo $! > {pid}; exec yes\n")
    code, text = run_for_help(["sh", "sim.sh"], tmp_path, seconds=900)
    assert code is None
    assert 1_000_000 <= len(text) < 2_000_000
    status = Path(f"/proc/{pid.read_text().strip()}/status")
    wait_for(lambda: not status.exists() or "Z (zombie)" in status.read_text(), "the end of what it started")


def test_a_script_gets_nothing_to_read_and_leaves_no_cache(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("x = 1\n")
    (tmp_path / "sim.py").write_text(
        "import beside, os, sys\nprint(repr(sys.stdin.read()), os.environ['COLUMNS'])\n"
    )
    code, text = run_for_help([sys.executable, "sim.py"], tmp_path)
    assert (code, text) == (0, "'' 200\n")
    assert not (tmp_path / "__pycache__").exists()


# --- proposals ---


@pytest.mark.parametrize(
    ("option", "values"),
    [
        (Option(("--x",), ("X",), default="3"), {"from": "3", "to": "7"}),
        (Option(("--x",), ("X",), default="16"), {"from": "16", "to": "56", "step": "10"}),
        (Option(("--x",), ("X",), default="-200"), {"from": "-200", "to": "200", "step": "100"}),
        (Option(("--x",), ("X",), default="1.5"), {"from": "1.5", "to": "3.5", "step": "0.5"}),
        (Option(("--x",), ("X",), default="0.0"), {"from": "0.0", "to": "2.0", "step": "0.5"}),
        (Option(("--x",), ("X",), default="1e-3"), {"from": "0.001", "to": "0.0030", "step": "0.0005"}),
        (Option(("--x",), ("X",), default="a.txt"), ["a.txt"]),
        (Option(("--x",), ("X",), ("a", "b"), default="b"), ["a", "b"]),
        (Option(("--x",)), {"flag": ["true", "false"]}),
        (Option(("-n",), ("N",)), {"from": "1", "to": "4"}),
        (Option((), ("FILE",)), ["first.csv", "second.csv"]),
        (Option(("--x",), ("X",)), ["1", "2", "3"]),
    ],
)
def test_the_values_that_are_proposed(option: Option, values: object) -> None:
    assert examples(option) == values


FLAG = st.from_regex(r"--?[a-z][a-z0-9-]{0,8}", fullmatch=True)
WORD = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=8
).filter(str.strip)
OPTIONS = st.lists(
    st.builds(
        Option,
        flags=st.one_of(st.just(()), st.tuples(FLAG)),
        metavar=st.lists(WORD, min_size=1, max_size=2).map(tuple),
        choices=st.lists(WORD, max_size=2).map(tuple),
        help=st.text(max_size=60),
        default=WORD,
        required=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda option: option.name,
)


@settings(deadline=None, max_examples=200)
@given(OPTIONS)
def test_whatever_a_help_says_the_file_is_valid(
    tmp_path_factory: pytest.TempPathFactory, options: list[Option]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "proposals"
    folder.mkdir(exist_ok=True)
    (folder / "sim.py").touch()
    text = jobs_text(folder, Wishes(script="sim.py", output="run"), tuple(options))
    (folder / "jobs.yaml").write_text(text, "utf-8")
    assert yaml.load(text, Loader=yaml.BaseLoader)["script"] == "sim.py"
    assert len(load_batch(folder / "jobs.yaml").plan) >= 1
