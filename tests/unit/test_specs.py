from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pisa_fab.errors import SpecError
from pisa_fab.model import Batch, Cluster, Host, Limits, Owner, ResultFormat
from pisa_fab.specs import load_batch, load_cluster
from pisa_fab.specs.fields import duration
from pisa_fab.specs.hosts import HostName, expand, expand_addresses
from pisa_fab.specs.json_text import parse_json
from pisa_fab.specs.problems import FieldError
from pisa_fab.specs.yaml_text import parse_yaml

CALM = settings(deadline=None)  # a busy machine is no failure
FILES = Path(__file__).parent / "files"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return furnished(tmp_path)


@pytest.fixture(scope="session")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that many examples of one property share."""
    return furnished(tmp_path_factory.mktemp("batch"))


def furnished(path: Path) -> Path:
    (path / "venv" / "bin").mkdir(parents=True)
    (path / "venv" / "bin" / "python").touch()
    (path / "fib.py").touch()
    return path


def batch(folder: Path, body: str, head: str = "script: fib.py\noutput: run\n") -> Batch:
    (folder / "jobs.yaml").write_bytes((head + body).encode())
    return load_batch(folder / "jobs.yaml")


def argvs(batch: Batch) -> list[list[str]]:
    """Give what follows `python3 fib.py` in the command line of each job."""
    return [list(batch.plan.job(i, i).argv[2:]) for i in range(len(batch.plan))]


def values(batch: Batch, column: str = "-n") -> list[str | None]:
    return [batch.plan.job(i, i).arguments[column] for i in range(len(batch.plan))]


# --- jobs.yaml: the whole ---


def test_the_example_of_the_design(folder: Path) -> None:
    loaded = batch(
        folder,
        """
        workdir: .
        venv: venv
        script: fib.py
        output: fib_run
        args: [--precision, 12]
        sweep:
          -n: {from: 0, to: 40}
          --mode: [fast, exact]
        """.replace("\n        ", "\n"),
        head="",
    )
    assert len(loaded.plan) == 82
    job = loaded.plan.job(3, 3)
    assert job.argv == ("venv/bin/python", "fib.py", "--precision", "12", "-n", "1", "--mode", "exact")
    assert job.arguments == {"-n": "1", "--mode": "exact"}
    assert loaded.source == folder / "jobs.yaml"
    assert (loaded.workdir, loaded.venv) == (folder, folder / "venv")
    assert loaded.output == folder / "fib_run"
    assert loaded.assignments == folder / "fib_run" / "assignments.csv"
    assert loaded.limits == Limits(timeout=None, threads=1, nice=19)
    assert (loaded.retries, loaded.max_losses, loaded.results, loaded.cluster) == (0, 3, None, None)


def test_every_key_arrives(folder: Path) -> None:
    (folder / "pool.yaml").write_text("hosts: [a]\n")
    loaded = batch(
        folder,
        "timeout: 1.5h\nretries: 2\nmax_losses: 5\nthreads: 4\nnice: 7\nmemory: 1.5G\ncluster: pool.yaml\n"
        "results: {regex: 'E=(?P<E>.*)'}\nassignments: table.csv\nenv: {MODE: fast}\n",
    )
    assert loaded.limits == Limits(timeout=5400.0, threads=4, nice=7, memory=3 << 29)
    assert (loaded.retries, loaded.max_losses) == (2, 5)
    assert loaded.results == ResultFormat("regex", "E=(?P<E>.*)")
    assert loaded.cluster == folder / "pool.yaml"
    assert loaded.assignments == folder / "table.csv"
    assert loaded.plan.job(0, 0).env == {"MODE": "fast"}
    assert loaded.plan.job(0, 0).argv == ("python3", "fib.py")


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_results_can_be_named(folder: Path, kind: str) -> None:
    assert batch(folder, f"results: {kind}").results == ResultFormat(kind)


def test_paths_are_relative_to_workdir_and_workdir_to_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "jobs.yaml").write_text("workdir: ..\nscript: ./fib.py\nvenv: venv\noutput: out/run\n")
    monkeypatch.chdir(folder / "deep")
    loaded = load_batch(Path("jobs.yaml"))
    assert loaded.workdir == folder
    assert loaded.output == folder / "out" / "run"
    assert loaded.source == folder / "deep" / "jobs.yaml"
    assert loaded.plan.job(0, 0).argv == ("venv/bin/python", "./fib.py")


def test_a_tilde_is_the_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    loaded = batch(folder, "", head="workdir: '~'\nvenv: ~/venv\nscript: ~/fib.py\noutput: ~/run\n")
    assert (loaded.workdir, loaded.output) == (folder, folder / "run")
    assert loaded.plan.job(0, 0).argv == (f"{folder}/venv/bin/python", f"{folder}/fib.py")


def test_a_folder_stands_for_the_jobs_file_in_it(folder: Path) -> None:
    named = batch(folder, "sweep: {-n: [1, 2]}")
    found = load_batch(folder)
    assert (found.source, found.workdir) == (named.source, folder)
    assert found.plan.keys() == named.plan.keys()


@pytest.mark.parametrize("written", ["[say, 'it is {state}', '{x}']", "say 'it is {state}' {x}"])
def test_a_command_to_notify_is_a_list_of_words_or_a_text(folder: Path, written: str) -> None:
    assert batch(folder, f"notify: {written}").notify == ("say", "it is {state}", "{x}")


def test_nobody_is_notified_by_default(folder: Path) -> None:
    assert batch(folder, "").notify == ()


def test_symbolic_links_are_left_alone(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    (folder / "real" / "fib.py").touch()
    assert batch(folder, "workdir: link\n").workdir == folder / "link"


def test_a_command_is_passed_as_written(folder: Path) -> None:
    (folder / "sim").touch(mode=0o755)
    listed = batch(folder, "", head="output: run\nvenv: venv\ncommand: [./sim, --fast, 'a b']\nargs: [c]\n")
    split = batch(folder, "", head="output: run\ncommand: ./sim --fast 'a b'\nargs: c\n")
    assert listed.plan.job(0, 0).argv == split.plan.job(0, 0).argv == ("./sim", "--fast", "a b", "c")
    assert listed.plan.keys() == split.plan.keys()


def test_words_of_one_text_are_split_as_a_shell_does_but_not_expanded(folder: Path) -> None:
    assert argvs(batch(folder, "args: --name 'a b' $HOME *.py # \"\"")) == [
        ["--name", "a b", "$HOME", "*.py"],
    ]
    assert argvs(batch(folder, "args: '$HOME *.py # \"\"'")) == [["$HOME", "*.py", "#", ""]]
    assert argvs(batch(folder, "args: ''")) == [[]]


def test_the_same_jobs_in_another_folder_and_venv_have_the_same_keys(tmp_path: Path) -> None:
    body = "sweep: {-n: [1, 2]}\nargs: ['{output}']\n"
    keys = []
    for name, more in (("a", "venv: venv\n"), ("b", "timeout: 5\nretries: 3\nnice: 1\nthreads: 2\n")):
        (tmp_path / name).mkdir()
        keys.append(batch(furnished(tmp_path / name), body + more).plan.keys())
    assert keys[0] == keys[1]


# --- values ---

AS_WRITTEN = """
007 0.10 1e3 yes on null 2024-01-01 22:30 ~ 0x10 -3 +5 .5 1_000 true FALSE 1.0 .inf .nan =y a=b
<< -n --x 0o17 12e03 ~x /etc x#y a:b
"""


@pytest.mark.parametrize("text", AS_WRITTEN.split())
def test_a_value_arrives_as_it_is_written(folder: Path, text: str) -> None:
    options = f"  -n: {text}\n  --v=: [{text}]\n  -m:\n    - {text}\n"
    loaded = batch(folder, f"args: [{text}]\nenv: {{X: {text}}}\nsweep:\n{options}")
    assert argvs(loaded) == [[text, "-n", text, f"--v={text}", "-m", text]]
    assert loaded.plan.job(0, 0).env == {"X": text}


ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))


@CALM
@given(ANY_TEXT, st.sampled_from(['"', "'", "|", None]), st.booleans())
def test_any_text_survives_yaml_and_arrives_unchanged(
    one_folder: Path, text: str, style: str | None, unicode: bool
) -> None:
    sweep = {"sweep": {"-n": [text]}}
    written = yaml.safe_dump(sweep, default_style=style, allow_unicode=unicode, width=30)
    assume(yaml.load(written, Loader=yaml.BaseLoader) == sweep)  # PyYAML does not read all that it writes
    assert argvs(batch(one_folder, written)) == [["-n", text]]


def test_empty_and_very_long_texts_arrive(folder: Path) -> None:
    long = "ä" * 50_000
    assert argvs(batch(folder, f'sweep: {{-n: ["", {long}]}}')) == [["-n", ""], ["-n", long]]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("3", ["3"]),
        ("[a, b]", ["a", "b"]),
        ("{from: 1, to: 3}", ["1", "2", "3"]),
        ("{from: 0.1, to: 0.35, step: 0.1}", ["0.1", "0.2", "0.3"]),
        ("{from: 3, to: 1, step: -1}", ["3", "2", "1"]),
        ("{linspace: [0, 1, 3]}", ["0.0", "0.5", "1.0"]),
        ("{logspace: [1, 100, 3]}", ["1.0", "10.0", "100.0"]),
    ],
)
def test_kinds_of_values(folder: Path, written: str, expected: list[str]) -> None:
    assert values(batch(folder, f"sweep: {{-n: {written}}}")) == expected


def test_a_glob_is_sorted_as_a_person_would(folder: Path) -> None:
    (folder / "data" / "deep").mkdir(parents=True)
    for name in ("b10.csv", "b9.csv", "a.csv", "deep/c.csv", "x.txt"):
        (folder / "data" / name).touch()
    flat = batch(folder, "sweep: {-n: {glob: 'data/*.csv'}}")
    assert values(flat) == ["data/a.csv", "data/b9.csv", "data/b10.csv"]
    assert "data/deep/c.csv" in values(batch(folder, "sweep: {-n: {glob: 'data/**/*.csv'}}"))


def test_a_file_name_that_is_not_utf8_is_kept(folder: Path) -> None:
    name = os.fsencode(folder) + b"/caf\xe9.dat"
    os.close(os.open(name, os.O_CREAT))
    (value,) = values(batch(folder, "sweep: {-n: {glob: '*.dat'}}"))
    assert value is not None
    assert os.fsencode(value) == b"caf\xe9.dat"


def test_lines_of_a_file_are_values(folder: Path) -> None:
    (folder / "names.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n  two  \n# three\nfo\x0cur\xff")
    read = values(batch(folder, "sweep: {-n: {lines: names.txt}}"))
    assert read == ["one", "  two  ", "# three", "fo\x0cur\udcff"]


def test_columns_of_a_csv_file_vary_together(folder: Path) -> None:
    (folder / "points.csv").write_bytes(b'-x,--y=,name\r\n1,2,"a, b"\r\n\r\n3,,"c\nd"\r\n')
    loaded = batch(folder, "args: ['{name}']\nsweep:\n  - {csv: points.csv}\n  - -n: [7, 8]\n")
    assert loaded.plan.columns == ("-x", "--y", "name", "-n")
    assert argvs(loaded) == [
        [name, "-x", x, f"--y={y}", "-n", n]
        for x, y, name in (("1", "2", "a, b"), ("3", "", "c\nd"))
        for n in ("7", "8")
    ]


def test_entries_of_a_list_multiply_and_keys_of_an_entry_vary_together(folder: Path) -> None:
    loaded = batch(folder, "sweep:\n  - -a: [1, 2]\n    -b: {from: 3, to: 4}\n  - -c: [5, 6]\n")
    assert argvs(loaded) == [
        ["-a", a, "-b", b, "-c", c] for a, b in (("1", "3"), ("2", "4")) for c in ("5", "6")
    ]


def test_flags_joined_options_and_variables(folder: Path) -> None:
    loaded = batch(
        folder,
        "args: ['in/{v}', '{{v}}', '{\"a\": 1}', '{job}']\nenv: {OUT: '{output}/{v}'}\n"
        "sweep:\n  v: [x]\n  --fast: {flag: [true, false]}\n  --n=: [1]\n",
    )
    assert loaded.plan.columns == ("v", "--fast", "--n")
    words = ["in/x", "{v}", '{"a": 1}']
    assert argvs(loaded) == [[*words, "0000", "--fast", "--n=1"], [*words, "0001", "--n=1"]]
    assert values(loaded, "--fast") == ["true", "false"]
    assert loaded.plan.job(0, 0).env == {"OUT": f"{folder}/run/x"}


def test_exclude_and_include(folder: Path) -> None:
    loaded = batch(
        folder,
        "sweep: {-a: [1, 2, 3], --b=: [x, y]}\n"
        "exclude: [{-a: 1, --b: x}, {-a: [2, 3], --b=: y}, {-a: none}]\n"
        "include: [{-a: 9}, {--b=: z, -a: 1}]\n",
    )
    assert argvs(loaded) == [
        ["-a", "1", "--b=y"],
        ["-a", "2", "--b=x"],
        ["-a", "3", "--b=x"],
        ["-a", "9"],
        ["-a", "1", "--b=z"],
    ]
    assert values(loaded, "--b") == ["y", "x", "x", None, "z"]


def test_a_huge_sweep_needs_leave_and_is_not_expanded(folder: Path) -> None:
    body = "sweep: {-a: {from: 1, to: 1000000}, -b: {from: 1, to: 1000000}}\n"
    with pytest.raises(SpecError, match="1,000,000,000,000 combinations, more than 1,000,000"):
        batch(folder, body)
    assert len(load_batch(folder / "jobs.yaml", allow_huge=True).plan) == 10**12
    assert len(batch(folder, body + "max_jobs: 1000000000000\n").plan) == 10**12


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("60s", 60), ("15m", 900), ("2h", 7200), ("1.5h", 5400), ("1d", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1w", "h", "1h30m", "1e3", "22:30", "٣", "0", "0h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(FieldError):
        duration(text)


# --- cluster.yaml ---


def cluster(folder: Path, text: str) -> Cluster:
    (folder / "cluster.yaml").write_text(text)
    return load_cluster(folder / "cluster.yaml")


def test_the_cluster_of_the_design(folder: Path) -> None:
    loaded = cluster(folder, "slots: 3\nhosts:\n  - pc[01-34]\n  - {host: pc04, slots: 1}\nlease: 90s\n")
    assert [host.name for host in loaded.hosts] == [f"pc{n:02d}" for n in range(1, 35)]
    assert [host.slots for host in loaded.hosts] == [3, 3, 3, 1] + [3] * 30
    assert (loaded.lease, loaded.source) == (90.0, folder / "cluster.yaml")


def plain(loaded: Cluster) -> tuple[Host, ...]:
    """Give its hosts without what test_windows is about."""
    return tuple(replace(host, zone=UTC, owner=Owner(), min_free_memory=0) for host in loaded.hosts)


def test_a_host_alone_has_the_defaults(folder: Path) -> None:
    loaded = cluster(folder, "hosts: [a]\n")
    assert plain(loaded) == (Host("a"),)
    assert (loaded.lease, loaded.patience, loaded.source) == (60.0, None, folder / "cluster.yaml")


def test_options_for_all_are_overridden_for_one_and_refined_step_by_step(folder: Path) -> None:
    (folder / "key").touch()
    loaded = cluster(
        folder,
        "user: me\nport: 2200\nidentity: key\ngateway: gate\npython: python3.12\nnice: 5\n"
        "hosts:\n  - you@a:22\n  - b\n  - {host: 'b', user: her}\n  - {host: 'b', nice: 0}\n"
        "  - {host: c, slots: 2, port: 7, gateway: g, python: py}\n",
    )
    everywhere: dict[str, Any] = {"identity": folder / "key", "nice": 5}
    assert plain(loaded) == (
        Host("a", 1, "you", 22, gateway="gate", python="python3.12", **everywhere),
        Host("b", 1, "her", 2200, folder / "key", "gate", "python3.12", 0),
        Host("c", 2, "me", 7, gateway="g", python="py", **everywhere),
    )


def test_hosts_keep_the_order_of_their_first_mention(folder: Path) -> None:
    loaded = cluster(folder, "hosts: [b, a, {host: 'b', slots: 2}, c]\n")
    assert [host.name for host in loaded.hosts] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pc", ["pc"]),
        ("pc[1-3]", ["pc1", "pc2", "pc3"]),
        ("pc[08-11].uni", ["pc08.uni", "pc09.uni", "pc10.uni", "pc11.uni"]),
        ("pc[01-03,07]", ["pc01", "pc02", "pc03", "pc07"]),
        ("[a,b]-[1-2]", ["a-1", "a-2", "b-1", "b-2"]),
        ("pc[099-101]", ["pc099", "pc100", "pc101"]),
        ("pc[9-10]", ["pc9", "pc10"]),
    ],
)
def test_host_ranges(text: str, names: list[str]) -> None:
    assert expand(text) == names


@CALM
@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 4))
def test_a_range_of_hosts_has_all_numbers_at_the_width_of_the_first(
    first: int, more: int, width: int
) -> None:
    start = f"{first:0{width}d}"
    width = len(start) if start.startswith("0") else 1
    expected = [f"pc{n:0{width}d}x" for n in range(first, first + more + 1)]
    assert expand(f"pc[{start}-{first + more}]x") == expected


@CALM
@given(
    st.lists(
        st.lists(st.sampled_from(["1", "02", "a", "b-c"]), min_size=1, max_size=3), min_size=1, max_size=3
    )
)
def test_several_brackets_multiply(choices: list[list[str]]) -> None:
    names = [""]
    for items in choices:
        names = [name + "p" + item for name in names for item in items]
    assert expand("".join(f"p[{','.join(items)}]" for items in choices)) == names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", HostName("a", None, None)),
        ("me@a.b:22", HostName("a.b", "me", 22)),
        ("::1", HostName("::1", None, None)),
        ("me@[fe80::1%eth0]:2200", HostName("fe80::1%eth0", "me", 2200)),
        ("[::1]", HostName("::1", None, None)),
    ],
)
def test_addresses(text: str, expected: HostName) -> None:
    assert expand_addresses(text) == [expected]


# --- PISA's files ---


def test_pisas_own_task_file_is_read_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    loaded = load_batch(FILES / "pisa_task.toml")
    assert len(loaded.plan) == 41
    assert loaded.plan.job(40, 40).argv == ("python", "fib.py", "-n", "40")
    assert (loaded.workdir, loaded.venv, loaded.output) == (folder, folder / "venv", folder / "fib_run")
    assert loaded.assignments == folder / "assignments.csv"


def test_pisas_own_cluster_file_is_read_as_it_is() -> None:
    loaded = load_cluster(FILES / "pisa_cluster.json")
    assert [host.name for host in loaded.hosts] == [f"fphct{n:02d}" for n in range(1, 35)]
    assert [host.slots for host in loaded.hosts] == [3, 3, 3, 1] + [3] * 30
    assert loaded.source == FILES / "pisa_cluster.json"


TASK = """{key} = "."
environment = "venv"
output = "run"
assign = "a.csv"
executable = "python 'my fib.py' ~/x {{n}}"
fix_arguments = "--name 'a b' {{job}}"
var_arguments = [
  {{"arg"="-a", "type"="numeric", "start"=0, "end"=10, "step"=4}},
  {{"arg"="--b=", "type"="numeric", "start"=0.1, "end"=0.3, "step"=0.1}},
]
"""


@pytest.mark.parametrize("key", ["woking_directory", "working_directory"])
def test_a_task_file_is_swept_exactly_and_split_like_a_shell(
    folder: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (folder / "task.toml").write_text(TASK.format(key=key))
    loaded = load_batch(folder / "task.toml")
    fixed = ("python", "my fib.py", "/home/me/x", "{n}", "--name", "a b", "{job}")
    assert [loaded.plan.job(i, i).argv for i in range(9)] == [
        (*fixed, "-a", a, f"--b={b}") for a in ("0", "4", "8") for b in ("0.1", "0.2", "0.3")
    ]
    assert loaded.plan.columns == ("-a", "--b")


@pytest.mark.parametrize(("key", "place"), [("woking_directory", "1:20"), ("working_directory", "1:21")])
def test_a_mistake_in_a_task_file_is_shown_at_its_own_key(folder: Path, key: str, place: str) -> None:
    (folder / "task.toml").write_text(TASK.format(key=key).replace('"."', '"gone"'))
    with pytest.raises(SpecError, match=f'task.toml:{place}: there is no folder "gone"'):
        load_batch(folder / "task.toml")


def test_a_later_device_overwrites_an_earlier_one(folder: Path) -> None:
    text = '{"all": {"num_tasks": 3}, "devices": [{"device": "a", "num_tasks": 1}, "b", "a"]}'
    (folder / "c.json").write_text(text)
    assert plain(load_cluster(folder / "c.json")) == (Host("a", 3), Host("b", 3))


# --- places ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def parts(data: Any, keys: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    """Give every part of some data with the way to it."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [(keys, data), *(part for step, value in inner for part in parts(value, (*keys, step)))]


def begins_at(text: str, line: int, column: int) -> str:
    return "\n".join(text.split("\n")[line - 1 :])[column - 1 :]


@CALM
@given(JSON, st.sampled_from([None, 2, "\t"]), st.booleans())
def test_every_part_of_json_is_found_where_it_stands(
    one_folder: Path, data: Any, indent: int | str | None, ascii_only: bool
) -> None:
    path = one_folder / "any.json"
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    path.write_text(text, newline="")
    document = parse_json(path)
    assert document.data == data
    for keys, part in parts(data):
        found, _ = json.JSONDecoder().raw_decode(begins_at(text, *document.locate(keys, False)))
        assert found == part
        if keys and isinstance(keys[-1], str):
            name, _ = json.JSONDecoder().raw_decode(begins_at(text, *document.locate(keys, True)))
            assert name == keys[-1]


def test_an_alias_stands_for_what_it_names(folder: Path) -> None:
    loaded = batch(folder, "sweep:\n  -a: &v [1, 2]\n  -b: *v\n")
    assert len(loaded.plan) == 4


def test_the_parser_in_plain_python_reads_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "some.yaml"
    path.write_text(
        "a: [x, 'y z', \"ä\\n\"]\nb: &n {c: |\n    text\n  , d: ''}\n".replace("|\n    text\n  ", "text")
    )
    fast = parse_yaml(path)
    monkeypatch.delattr(yaml, "CBaseLoader", raising=False)
    plain = parse_yaml(path)
    assert fast.data == plain.data == {"a": ["x", "y z", "ä\n"], "b": {"c": "text", "d": ""}}
    for keys, _ in parts(fast.data):
        assert fast.locate(keys, False) == plain.locate(keys, False)
        assert fast.locate(keys, True) == plain.locate(keys, True)


# --- start ---


def test_what_is_not_used_is_not_loaded() -> None:
    """A batch in YAML pays for no TOML and no JSON, and importing the room costs nothing."""
    code = (
        "import sys, pisa_fab.specs; print(*[m for m in ('pydantic', 'yaml', 'tomllib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("written", "factor"),
    [("", 0.0), ("speculate: false\n", 0.0), ("speculate: true\n", 2.0), ("speculate: 1.5\n", 1.5)],
)
def test_how_long_is_too_long_is_a_factor(folder: Path, written: str, factor: float) -> None:
    assert batch(folder, written).speculate == factor
