"""The documentation says everything, and what it shows works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pisa_fab
from pisa_fab import specs, tasks
from pisa_fab.errors import SpecError
from pisa_fab.events import JobState
from pisa_fab.results import FACTS
from pisa_fab.specs.cluster import ClusterFile, HostEntry
from pisa_fab.specs.jobs import JobsFile
from pisa_fab.transitions import TRANSITIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def table_cells(text: str) -> set[str]:
    """Give everything that stands in backquotes in the first cell of a table's row."""
    firsts = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    return {name for cell in firsts for name in re.findall(r"`([^`]+)`", cell)}


def yaml_blocks() -> list[tuple[str, str]]:
    found = []
    for path in PAGES:
        for number, block in enumerate(
            re.findall(r"^ *```yaml\n(.*?)^ *```", path.read_text("utf-8"), re.M | re.S)
        ):
            found.append((f"{path.name}-{number}", block))
    return found


def test_every_key_of_the_jobs_file_is_documented() -> None:
    assert set(JobsFile.model_fields) <= table_cells(page("jobs.md"))


def test_every_key_of_the_cluster_file_is_documented() -> None:
    documented = table_cells(page("cluster.md")) | {"host"}
    assert set(ClusterFile.model_fields) | set(HostEntry.model_fields) <= documented


@pytest.mark.parametrize("name", tasks.__all__)
def test_every_option_of_every_command_is_documented(name: str) -> None:
    section = page("commands.md").split(f"\n## {name}\n")[1].split("\n## ")[0]
    task = getattr(tasks, name)
    assert task.__doc__
    for argument in task.get_arguments():
        names = [name.replace("_", "-") for name in argument.names]
        flags = [f"-{name}" if len(name) == 1 else f"--{name}" for name in names]
        assert argument.help, f"{name} {flags} has no help text"
        for flag in flags:
            assert re.search(rf"(?<![-\w]){flag}\b", section), f"{name} {flag}"


def test_every_column_and_state_is_documented() -> None:
    assert set(FACTS) <= table_cells(page("results.md"))
    for state in JobState:
        assert f"`{state.value}`" in page("commands.md")


def test_every_variable_that_a_job_sees_is_documented() -> None:
    source = (ROOT / "pisa_fab/head.py").read_text()
    assert set(re.findall(r'"(PISA_[A-Z]+)"', source)) <= table_cells(page("jobs.md"))


@pytest.mark.parametrize(("name", "block"), yaml_blocks(), ids=[name for name, _ in yaml_blocks()])
def test_every_example_file_is_valid(name: str, block: str, tmp_path: Path) -> None:
    text = re.sub(r"^   ", "", block, flags=re.MULTILINE) if block.startswith("   ") else block
    for file in ("simulate.py", "fib.py", "analyse", "data/a.csv", "venv/bin/python"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
        (tmp_path / file).chmod(0o755)
    path = tmp_path / "file.yaml"
    path.write_text(text)
    if "pisa" in yaml.safe_load(text):  # Invoke's configuration
        assert yaml.safe_load(text)["pisa"].keys() <= set(tasks.DEFAULTS)
    elif "hosts" in yaml.safe_load(text):
        assert specs.load_cluster(path).hosts
    else:
        assert len(specs.load_batch(path).plan) > 0


def test_the_example_in_the_jobs_page_has_as_many_jobs_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "simulate.py").write_text("")
    path = tmp_path / "jobs.yaml"
    path.write_text(dict(yaml_blocks())["jobs.md-1"].split("exclude:")[0])
    assert len(specs.load_batch(path).plan) == 12


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target


def test_the_rooms_of_every_module_are_drawn() -> None:
    package = Path(pisa_fab.__file__).parent
    rooms = {path.stem if path.is_file() else f"{path.name}/" for path in package.iterdir()}
    missing = rooms - table_cells(page("architecture.md"))
    assert missing <= {"__init__", "__pycache__/", "py", "schemas/"}


def test_the_readme_shows_what_a_mistake_looks_like(tmp_path: Path) -> None:
    (tmp_path / "jobs.yaml").write_text("script: s.py\noutput: run\nswep: {-n: [1]}\n")
    with pytest.raises(SpecError, match=r"unknown key"):
        specs.load_batch(tmp_path / "jobs.yaml")
    assert "unknown key" in (ROOT / "README.md").read_text()


def test_the_readme_has_the_two_commands_in_two_lines() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    assert len(blocks) == 2
    assert all(block.count("\n") == 1 for block in blocks)


@pytest.mark.parametrize("program", ["inv", "pisa-fab"])
def test_help_names_every_command(program: str) -> None:
    command = [str(Path(sys.executable).parent / program), "--list"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tasks.__all__:
        assert re.search(rf"^\s+{name}\s+\S", listed, re.MULTILINE), listed


def test_the_life_of_a_job_is_drawn_from_the_transitions() -> None:
    rows = [f"| {old} | {what} | {new} |" for (old, what), new in TRANSITIONS.items()]
    assert "\n".join(["| is | and | becomes |", "|---|---|---|", *rows, ""]) in page("architecture.md")
