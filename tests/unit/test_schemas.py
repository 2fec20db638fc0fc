"""The schemas that editors are given: the shipped ones are new, good files fit, wrong ones do not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import jsonschema
import pytest
import yaml

from pisa_fab.errors import SpecError
from pisa_fab.specs import ad_hoc_batch, load_batch, load_cluster, schema
from pisa_fab.specs.cluster import ClusterFile, HostEntry
from pisa_fab.specs.jobs import JobsFile
from pisa_fab.specs.values import _KINDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shipped(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(schema.path_of(kind).read_text("utf-8"))
    return found


def kind_of(data: Any) -> str:
    return "cluster" if isinstance(data, dict) and "hosts" in data else "jobs"


def complaints(kind: str, text: str) -> list[str]:
    """Give what is wrong with a file as an editor sees it: YAML with numbers and truth values."""
    data = yaml.safe_load(text)
    return [error.message for error in jsonschema.Draft7Validator(shipped(kind)).iter_errors(data)]


# --- the schemas themselves ---


def test_the_shipped_schemas_are_those_of_the_models() -> None:
    for kind, made in schema.schemas().items():
        assert shipped(kind) == made, "write them anew: inv schemas"


def test_writing_gives_both_files(tmp_path: Path) -> None:
    paths = schema.write(tmp_path / "new")
    assert [path.name for path in paths] == ["jobs.schema.json", "cluster.schema.json"]
    assert json.loads(paths[0].read_text()) == shipped("jobs")


@pytest.mark.parametrize("kind", ["jobs", "cluster"])
def test_they_are_schemas_of_draft_7(kind: str) -> None:
    jsonschema.Draft7Validator.check_schema(shipped(kind))
    assert shipped(kind)["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert shipped(kind)["additionalProperties"] is False


def test_every_key_is_there_and_described() -> None:
    hosts = shipped("cluster")["properties"]["hosts"]["items"]["anyOf"][1]
    for model, properties in (
        (JobsFile, shipped("jobs")["properties"]),
        (ClusterFile, shipped("cluster")["properties"]),
        (HostEntry, hosts["properties"]),
    ):
        assert set(properties) == set(model.model_fields)
        for name, described in properties.items():
            assert len(described["description"]) > 15, name


def test_every_kind_of_values_is_in_the_grammar_of_the_sweep() -> None:
    text = json.dumps(shipped("jobs")["definitions"])
    assert all(f'"{kind}": {{' in text for kind in _KINDS)


def test_the_comment_in_a_file_leads_to_the_installed_schema() -> None:
    for kind in ("jobs", "cluster"):
        match = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", schema.mark(kind))
        assert match is not None
        url = urlparse(match[1])
        assert url.scheme == "file"
        assert json.loads(Path(unquote(url.path)).read_text("utf-8")) == shipped(kind)


# --- what fits ---


def good_files() -> list[tuple[str, str]]:
    found = [
        (f"{path.parent.name}/{path.name}", path.read_text("utf-8"))
        for path in sorted((ROOT / "examples").glob("**/*.yaml"))
        if path.name in ("jobs.yaml", "pool.yaml", "cluster.yaml")
    ]
    for path in PAGES:
        for number, block in enumerate(
            re.findall(r"^ *```yaml\n(.*?)^ *```", path.read_text("utf-8"), re.M | re.S)
        ):
            text = re.sub(r"^   ", "", block, flags=re.MULTILINE) if block.startswith("   ") else block
            if not text.startswith("pisa:"):  # that is Invoke's configuration
                found.append((f"{path.name}-{number}", text))
    return found


@pytest.mark.parametrize(("name", "text"), good_files(), ids=[name for name, _ in good_files()])
def test_every_file_of_examples_and_documentation_fits(name: str, text: str) -> None:
    assert complaints(kind_of(yaml.safe_load(text)), text) == []


HEAD = "script: fib.py\noutput: run\n"
GOOD_JOBS = [
    "sweep: {-n: 3, --m: fast, -v: yes, -d: 2024-01}",
    "sweep: {-n: [007, 0.10, 1e3, yes, null, 'x']}",
    "sweep: {-n: {from: 0, to: '40'}, -m: {from: 0.5, to: 1e3, step: .5}}",
    "sweep: {-n: {linspace: [0, 1, 11]}, -m: {logspace: ['1', 100, '3']}}",
    "sweep: {--f=: {glob: 'data/*'}, -l: {lines: x}, --q: {flag: [true, 'false']}, --r: {flag: true}}",
    "sweep:\n  - {-n: [1, 2], -m: [3, 4]}\n  - {csv: points.csv}\n",
    "args: '{v}'\nsweep: {v: [1]}",
    "args: --name 3",
    "args: [--precision, 12, yes]",
    "timeout: 90",
    "timeout: 15m\nretries: '3'\nthreads: 4\nstop_after: 0",
    "timeout: 1.5h",
    "speculate: true",
    "speculate: false",
    "speculate: 1.5",
    "env: {A: 3, B: yes, C: text}",
    "exclude: [{-n: 1, -m: [2, 3]}]\ninclude: [{-n: 4}]\nsweep: {-n: [1], -m: [2]}",
    "results: json",
    "results: {regex: 'E=(?P<E>.*)'}",
    "notify: [notify-send, pisa_fab, '{summary}']",
    "notify: mail -s done me",
    "workdir: .\nvenv: venv\nassignments: a.csv\ncluster: c.yaml\nmax_jobs: 10\nmax_losses: 1\nnice: 0",
]
GOOD_CLUSTERS = [
    "hosts: [pc01, 'pc[01-34]', 127]",
    "hosts:\n  - pc[01-34]\n  - {host: pc04, slots: '1', nice: 3, user: me, port: 22, gateway: g}",
    "hosts: [a]\nslots: 3\nlease: 60s\npatience: 10m",
    "hosts: [a]\nslots: '3'\nlease: 60\nidentity: ~/.ssh/id",
    "hosts: [a]\nslots: 0\nwindows: [{hours: '22:00-06:30', slots: 12}, {nice: 5, slots: '3'}]",
    "hosts: [a]\nwindows: [{days: Mon-fri, slots: 0}, {days: ['sat', sunday], nice: 1}]",
    "hosts: [a]\nwindows: [{days: 'mon-thu, sun', hours: ['1:00-2:00', '3:00 - 4:00'], slots: 0}]",
    "hosts: [a]\nwindows: [{dates: 2026-12-24..2027-01-06, slots: 0}, {dates: ['2026-12-24'], slots: 0}]",
    "hosts: [{host: a, windows: [], owner: ignore, at_edge: finish, min_free_memory: 1.5G}]",
    "hosts: [a]\nowner: {policy: requeue, idle: 0, quiet: 1m, give_back: 90, load: 0.5}",
    "hosts: [a]\ntimezone: UTC\nat_edge: requeue\nmin_free_space: 1000000\ncontact: Ada, room 1",
]


@pytest.mark.parametrize("body", GOOD_JOBS)
def test_a_good_jobs_file_fits(body: str) -> None:
    assert complaints("jobs", HEAD + body) == []


@pytest.mark.parametrize("text", GOOD_CLUSTERS)
def test_a_good_cluster_file_fits(text: str) -> None:
    assert complaints("cluster", text) == []


def test_the_file_of_an_ad_hoc_batch_fits(tmp_path: Path) -> None:
    (tmp_path / "fib.py").touch()
    sweep = ["-n=0..40", "--mode=fast,exact,1", "--f==lines:fib.py", "--q=flag", "-x=linspace:0,1,3"]
    (tmp_path / "fib.py").write_text("a\n")
    _, text = ad_hoc_batch(
        script="fib.py", sweep=sweep, results="regex:(?P<a>.)", workdir=tmp_path, retries="2"
    )
    assert complaints("jobs", text) == []


# --- what does not fit ---

WRONG_JOBS = [
    "ouput: x",
    "retries: many",
    "retries: -1",
    "retries: [1]",
    "threads: 0",
    "nice: 20",
    "timeout: soon",
    "timeout: 0",
    "timeout: 1w",
    "args: {a: b}",
    "args: [a, [b]]",
    "env: [A]",
    "env: {A=B: c}",
    "env: {A: [b]}",
    "results: xml",
    "results: {regx: a}",
    "results: {regex: no group}",
    "notify: []",
    "notify: {a: b}",
    "command: ls",
    "sweep: {}",
    "sweep: []",
    "sweep: 3",
    "sweep: [-n]",
    "sweep: [{}]",
    "sweep: {-n: []}",
    "sweep: {-n: {}}",
    "sweep: {-n: [1, [2]]}",
    "sweep: {-n: {linspce: [0, 1, 3]}}",
    "sweep: {-n: {from: 0}}",
    "sweep: {-n: {form: 0, to: 3}}",
    "sweep: {-n: {from: a, to: 3}}",
    "sweep: {-n: {linspace: [0, 1]}}",
    "sweep: {-n: {flag: [maybe]}}",
    "sweep: {fast: {flag: [true]}}",
    "sweep: {--fast=: {flag: [true]}}",
    "sweep: {job: [1]}",
    "sweep: {my n: [1]}",
    "sweep: [{csv: a.csv, -z: [1]}]",
    "sweep: {-n: {csv: a.csv}}",
    "sweep: {-n: [1]}\nexclude: {-n: 1}",
    "sweep: {-n: [1]}\ninclude: [{}]",
    "sweep: {-n: [1]}\ninclude: [{-n: [1]}]",
]
WRONG_CLUSTERS = [
    "slots: 3",
    "hosts: []",
    "hosts: pc01",
    "hosts: [pc01]\nslots: -1",
    "hosts: [a]\nwindows: {slots: 1}",
    "hosts: [a]\nwindows: [{hours: '1:00-2:00'}]",
    "hosts: [a]\nwindows: [{slots: 1, hours: night}]",
    "hosts: [a]\nwindows: [{slots: 1, days: [1]}]",
    "hosts: [a]\nwindows: [{slots: 1, dates: 24.12.2026}]",
    "hosts: [a]\nwindows: [{slot: 1}]",
    "hosts: [{host: a, windows: [{nice: 20}]}]",
    "hosts: [a]\nat_edge: stop",
    "hosts: [a]\nowner: me",
    "hosts: [a]\nowner: {idel: 5m}",
    "hosts: [a]\nowner: {load: 0}",
    "hosts: [a]\nowner: {policy: stop}",
    "hosts: [a]\nmin_free_memory: some",
    "hosts: [a]\ntimezone: ''",
    "hosts: [pc01]\nslot: 2",
    "hosts: [{host: a, slts: 1}]",
    "hosts: [{slots: 1}]",
    "hosts: [[a]]",
    "hosts: [a]\nport: 70000",
    "hosts: [a]\nlease: never",
]


@pytest.mark.parametrize("body", WRONG_JOBS)
def test_a_wrong_jobs_file_does_not_fit_and_is_refused(body: str, tmp_path: Path) -> None:
    assert complaints("jobs", HEAD + body)
    (tmp_path / "fib.py").touch()
    (tmp_path / "jobs.yaml").write_text(HEAD + body)
    with pytest.raises(SpecError):
        load_batch(tmp_path / "jobs.yaml")


@pytest.mark.parametrize("text", ["output: run", "script: fib.py", "[a]", "hello"])
def test_a_jobs_file_that_lacks_something_does_not_fit(text: str) -> None:
    assert complaints("jobs", text)


@pytest.mark.parametrize("text", WRONG_CLUSTERS)
def test_a_wrong_cluster_file_does_not_fit_and_is_refused(text: str, tmp_path: Path) -> None:
    assert complaints("cluster", text)
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(SpecError):
        load_cluster(tmp_path / "cluster.yaml")


@pytest.mark.parametrize("body", GOOD_JOBS)
def test_what_fits_is_read(body: str, tmp_path: Path) -> None:
    """The other way round: the list of what fits has no file that would be refused for its form."""
    for name in ("fib.py", "c.yaml", "data/a", "venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "x").write_text("line\n")
    (tmp_path / "points.csv").write_text("-a,-b\n1,2\n")
    (tmp_path / "jobs.yaml").write_text(HEAD + body)
    assert len(load_batch(tmp_path / "jobs.yaml").plan) > 0
