"""Every example is run as its README says, and its numbers are checked."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest
from programs import Completed
from sshd import Hosts

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Run = Callable[..., Completed]


@pytest.fixture
def example(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the example that the test names with `of`, in a checkout with a `.venv` and a tasks.py."""
    name: str = request.param
    folder = tmp_path / "checkout" / "examples" / name
    written = shutil.ignore_patterns("*_run", "assign", "__pycache__")
    shutil.copytree(EXAMPLES / name, folder, ignore=written)
    checkout = folder.parents[1]
    (checkout / ".venv").symlink_to(sys.prefix)
    (checkout / "tasks.py").write_text("from pisa_fab.tasks import *\n")
    return folder


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", [name], indirect=True, ids=[name])


def commands(folder: Path) -> list[list[str]]:
    """Give the shell lines of the README, a list a block."""
    text = (folder / "README.md").read_text("utf-8")
    return [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


def succeed(run: Run, folder: Path, lines: list[str]) -> list[Completed]:
    done = [run("sh", "-c", line, cwd=folder) for line in lines]
    for program in done:
        assert program.returncode == 0, program.said
    return done


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fibonacci(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


@of("fibonacci")
def test_fibonacci_gives_the_numbers(example: Path, run_program: Run) -> None:
    succeed(run_program, example, commands(example)[0])
    rows = table(example / "fib_run" / "results.csv")
    assert [row["job"] for row in rows] == [f"{n:04d}" for n in range(26)]
    assert [row["-n"] for row in rows] == [str(n) for n in range(26)]
    assert [int(row["value"]) for row in rows] == [fibonacci(n) for n in range(26)]
    assert (example / "fib_run" / "stdout" / "0025.out").read_text() == "fib(25) = 75025\n"


@of("fibonacci")
def test_fibonacci_extended_runs_only_the_new_jobs(example: Path, run_program: Run) -> None:
    submit = commands(example)[0][0]
    succeed(run_program, example, [submit])
    old = {path.name: path.stat().st_mtime_ns for path in (example / "fib_run" / "stdout").iterdir()}
    jobs = example / "jobs.yaml"
    jobs.write_text(jobs.read_text().replace("to: 25", "to: 27"))
    succeed(run_program, example, [submit])
    new = {path.name: path.stat().st_mtime_ns for path in (example / "fib_run" / "stdout").iterdir()}
    assert new.keys() - old.keys() == {"0026.out", "0027.out"}
    assert {name: new[name] for name in old} == old


@of("fibonacci")
def test_the_pool_of_fibonacci_is_a_valid_cluster_file(example: Path, run_program: Run) -> None:
    succeed(run_program, example, ["../../.venv/bin/inv dryrun -j jobs.yaml -c pool.yaml"])
    assert not (example / "fib_run" / "stdout").exists()


def check_pisa_run(folder: Path) -> None:
    outputs = sorted((folder / "pisa_run" / "stdout").iterdir())
    assert [path.name for path in outputs] == [f"{n:04d}.out" for n in range(21)]
    assert [path.read_text() for path in outputs] == [f"fib({n}) = {fibonacci(n)}\n" for n in range(21)]
    errors = sorted((folder / "pisa_run" / "stderr").iterdir())
    assert [path.name for path in errors] == [f"{n:04d}.err" for n in range(21)]
    assert [path.read_text() for path in errors] == [""] * 21
    assert [row["-n"] for row in table(folder / "assign")] == [str(n) for n in range(21)]


@of("fibonacci")
def test_the_task_file_of_pisa_runs_on_this_machine(example: Path, run_program: Run) -> None:
    succeed(run_program, example, commands(example)[2][:1])
    check_pisa_run(example)


@of("fibonacci")
def test_the_task_file_of_pisa_runs_on_the_hosts_of_its_cluster_file(
    example: Path, run_program: Run, hosts: Hosts
) -> None:
    hosts.prefix = "fphct"
    hosts.start(4)
    cluster = json.loads((example / "cluster.json").read_text("utf-8"))
    cluster["all"]["owner"] = "ignore"  # the hosts are all this machine, where somebody is at work
    (example / "cluster.json").write_text(json.dumps(cluster), "utf-8")
    succeed(run_program, example, commands(example)[2][1:])
    check_pisa_run(example)


@of("ising")
def test_the_collected_table_of_ising_shows_the_phase_transition(example: Path, run_program: Run) -> None:
    pytest.importorskip("numpy")
    *_, plot = succeed(run_program, example, commands(example)[0])
    rows = table(example / "ising_run" / "results.csv")
    assert len(rows) == 42
    assert len({(row["--temperature"], row["--seed"]) for row in rows}) == 42
    assert all(float(row["--temperature"]) == float(row["temperature"]) for row in rows)
    magnetisation, heat_capacity = defaultdict(list), defaultdict(list)
    for row in rows:
        magnetisation[row["--temperature"]].append(float(row["magnetisation"]))
        heat_capacity[row["--temperature"]].append(float(row["heat_capacity"]))
    assert mean(magnetisation["1.5"]) > 0.9
    assert mean(magnetisation["3.5"]) < 0.35
    peak = max(heat_capacity, key=lambda temperature: mean(heat_capacity[temperature]))
    assert 2.0 <= float(peak) <= 2.7
    assert len(plot.stdout.splitlines()) == 22


@of("own_tasks")
def test_a_project_with_tasks_of_its_own_finds_the_resonance(example: Path, run_program: Run) -> None:
    listed, found, state, collected = succeed(run_program, example, commands(example)[0])
    assert "  resonance " in listed.stdout
    assert "  pisa.submit " in listed.stdout
    assert "21 jobs: 21 succeeded" in found.stdout
    assert "the resonance is at a frequency of 2.00" in found.stdout
    assert "coarse_run: 21 jobs: 21 succeeded" in state.stdout  # the default of invoke.yaml
    assert len(collected.stdout.splitlines()) == 12
    [again] = succeed(run_program, example, ["../../.venv/bin/inv resonance"])
    assert again.stdout.count("nothing left to run") == 2


@of("many_files")
def test_many_files_gives_a_row_for_every_file(example: Path, run_program: Run) -> None:
    succeed(run_program, example, commands(example)[0])
    rows = table(example / "decay_run" / "results.csv")
    assert [row["job"] for row in rows] == [f"{number:04d}" for number in range(10)]
    files = {f"data/{path.name}" for path in (example / "data").iterdir()}
    assert {row["file"] for row in rows} == files
    for row in rows:
        number = int(row["file"].removeprefix("data/sample").removesuffix(".csv"))
        assert float(row["half_life"]) == pytest.approx(10 + 5 * number, rel=0.05)
        assert row["points"] == "20"


@of("many_files")
def test_a_file_that_is_added_to_many_files_is_the_only_one_that_is_run(
    example: Path, run_program: Run
) -> None:
    submit, collect = commands(example)[0]
    succeed(run_program, example, [submit, collect])
    before = table(example / "decay_run" / "results.csv")
    shutil.copy(example / "data" / "sample01.csv", example / "data" / "sample11.csv")
    succeed(run_program, example, [submit, collect])
    after = table(example / "decay_run" / "results.csv")
    assert [row for row in after if row["file"] != "data/sample11.csv"] == before
    (new,) = [row for row in after if row["file"] == "data/sample11.csv"]
    (same,) = [row for row in before if row["file"] == "data/sample01.csv"]
    assert (new["job"], new["half_life"]) == ("0010", same["half_life"])


def test_every_example_is_tested() -> None:
    tested = {"fibonacci", "ising", "many_files", "own_tasks"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == tested
