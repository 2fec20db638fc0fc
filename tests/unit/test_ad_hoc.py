"""Options instead of a jobs file: what they mean, and that the file which is written means the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pisa_fab.errors import EXIT_INVALID, SpecError
from pisa_fab.model import Batch, Limits, ResultFormat
from pisa_fab.specs import ad_hoc_batch, load_batch
from pisa_fab.specs.option_values import read_sweep_option
from pisa_fab.specs.yaml_text import parse_yaml
from pisa_fab.specs.yaml_writing import block, comment, entry, flow

CALM = settings(deadline=None)


@pytest.fixture(autouse=True)
def _no_venv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return furnished(tmp_path)


@pytest.fixture(scope="session")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnished(tmp_path_factory.mktemp("adhoc"))


def furnished(path: Path) -> Path:
    (path / "fib.py").touch()
    (path / "data").mkdir()
    for name in ("b10.csv", "b9.csv"):
        (path / "data" / name).touch()
    (path / "names.txt").write_text("anna\nbob\n")
    (path / "points.csv").write_text("--x,--y\n1,2\n3,4\n")
    return path


def make_venv(path: Path) -> None:
    (path / "bin").mkdir(parents=True)
    (path / "bin" / "python").touch()


def ad_hoc(folder: Path, *sweep: str, **options: str) -> tuple[Batch, str]:
    if "command" not in options:
        options.setdefault("script", "fib.py")
    return ad_hoc_batch(sweep=sweep, workdir=folder, **options)


def save(batch: Batch, text: str) -> Batch:
    """Write the jobs file as a run does, and load it from there."""
    batch.output.mkdir(parents=True, exist_ok=True)
    batch.source.write_text(text, "utf-8")
    return load_batch(batch.output)


def facts(batch: Batch) -> dict[str, Any]:
    """Give all that a batch says, with its plan written out."""
    plan = batch.plan
    return {
        **{name: getattr(batch, name) for name in Batch.__slots__ if name != "plan"},
        "columns": plan.columns,
        "keys": list(plan.keys()),
        "jobs": [plan.job(index, index) for index in range(len(plan))],
    }


def argvs(batch: Batch) -> list[str]:
    return [" ".join(batch.plan.job(i, i).argv[2:]) for i in range(len(batch.plan))]


def mistake(folder: Path, *sweep: str, **options: str) -> SpecError:
    before = sorted(folder.rglob("*"))
    with pytest.raises(SpecError) as caught:
        ad_hoc(folder, *sweep, **options)
    assert caught.value.exit_code == EXIT_INVALID
    assert len(caught.value.message.splitlines()) == 1
    assert len(caught.value.hint.splitlines()) <= 1
    assert sorted(folder.rglob("*")) == before
    return caught.value


# --- the whole ---


def test_the_example_of_the_issue(folder: Path) -> None:
    batch, text = ad_hoc(folder, "-n=0..40", "--mode=fast,exact", output="fib_run")
    assert argvs(batch)[:3] == ["-n 0 --mode fast", "-n 0 --mode exact", "-n 1 --mode fast"]
    assert len(batch.plan) == 82
    assert (batch.workdir, batch.output) == (folder, folder / "fib_run")
    assert batch.source == folder / "fib_run" / "jobs.yaml"
    assert text.splitlines()[1:] == [
        "workdir: ..",
        "script: fib.py",
        "output: fib_run",
        "sweep:",
        "  -n: {from: 0, to: 40}",
        "  --mode: [fast, exact]",
    ]
    assert text.startswith("# yaml-language-server: $schema=file:///")
    assert not batch.output.exists()
    assert facts(save(batch, text)) == facts(batch)


def test_the_same_batch_in_a_jobs_file_has_the_same_jobs(folder: Path) -> None:
    (folder / "jobs.yaml").write_text("script: fib.py\noutput: r\nsweep: {-n: {from: 0, to: 4}}\n")
    assert ad_hoc(folder, "-n=0..4")[0].plan.keys() == load_batch(folder / "jobs.yaml").plan.keys()


def test_every_option_arrives(folder: Path) -> None:
    (folder / "pool.yaml").write_text("hosts: [a]\n")
    batch, text = ad_hoc(
        folder,
        "x=1,2",
        args="--name 'a b' {x} $HOME",
        results="regex:E = (?P<E>.*)",
        timeout="15m",
        retries="2",
        cluster="pool.yaml",
    )
    assert batch.plan.job(0, 0).argv == ("python3", "fib.py", "--name", "a b", "1", "$HOME")
    assert batch.results == ResultFormat("regex", "E = (?P<E>.*)")
    assert (batch.limits, batch.retries, batch.cluster) == (Limits(900.0), 2, folder / "pool.yaml")
    assert facts(save(batch, text)) == facts(batch)


def test_a_command_is_split_and_gives_its_name_to_the_output(folder: Path) -> None:
    batch, text = ad_hoc(folder, "x=a b,c", command="/bin/echo -n {x}")
    assert batch.plan.job(0, 0).argv == ("/bin/echo", "-n", "a b")
    assert batch.output == folder / "echo_run"
    assert facts(save(batch, text)) == facts(batch)


def test_a_batch_without_a_sweep_is_one_job(folder: Path) -> None:
    batch, text = ad_hoc(folder)
    assert len(batch.plan) == 1
    assert facts(save(batch, text)) == facts(batch)


@pytest.mark.parametrize("output", ["run", "deep/er/run", "../elsewhere/run", "{absolute}/run", "~/run"])
def test_paths_mean_the_same_from_the_run_directory(
    folder: Path, output: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    (folder / "here").mkdir()
    here = furnished(folder / "here")
    output = output.format(absolute=tmp_path_factory.mktemp("absolute"))
    batch, text = ad_hoc(here, "f=glob:data/*.csv", "g=lines:names.txt", args="{f} {g}", output=output)
    assert argvs(batch)[0] == "data/b9.csv anna"
    assert facts(save(batch, text)) == facts(batch)
    monkeypatch.chdir(batch.output)
    assert facts(load_batch(Path("jobs.yaml"))) == facts(batch)


def test_a_folder_that_was_moved_with_its_run_still_works(folder: Path) -> None:
    old = folder / "old"
    old.mkdir()
    batch, text = ad_hoc(furnished(old), "-n=1..3")
    save(batch, text)
    old.rename(folder / "new")
    moved = load_batch(folder / "new" / "fib_run")
    assert moved.workdir == folder / "new"
    assert moved.plan.keys() == batch.plan.keys()


def test_the_cluster_file_beside_is_remembered(folder: Path) -> None:
    assert ad_hoc(folder)[0].cluster is None
    (folder / "cluster.yaml").write_text("hosts: [a]\n")
    batch, text = ad_hoc(folder)
    assert batch.cluster == save(batch, text).cluster == folder / "cluster.yaml"


# --- the virtual environment ---


def test_a_venv_is_found_where_a_person_would_expect_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "fib.py").touch()

    def python(**options: str) -> str:
        batch, text = ad_hoc(folder, **{"script": "sub/fib.py", **options})
        assert facts(save(batch, text)) == facts(batch)
        return batch.plan.job(0, 0).argv[0]

    assert python() == "python3"
    make_venv(folder / "active")
    monkeypatch.setenv("VIRTUAL_ENV", str(folder / "active"))
    assert python() == "active/bin/python"
    make_venv(folder / ".venv")
    assert python() == ".venv/bin/python"
    make_venv(folder / "sub" / "venv")
    assert python() == "sub/venv/bin/python"
    make_venv(folder / "mine")
    assert python(venv="mine") == "mine/bin/python"


def test_an_active_venv_elsewhere_is_named_in_full_and_one_that_is_gone_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("VIRTUAL_ENV", str(elsewhere / "v"))
    assert ad_hoc(folder)[0].venv is None
    make_venv(elsewhere / "v")
    assert ad_hoc(folder)[0].venv == elsewhere / "v"


# --- one --sweep ---


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("-n=0..40", "-n", {"from": "0", "to": "40"}),
        ("-n=0..1..0.1", "-n", {"from": "0", "to": "1", "step": "0.1"}),
        ("-n=-5..5", "-n", {"from": "-5", "to": "5"}),
        ("-n=5..1..-2", "-n", {"from": "5", "to": "1", "step": "-2"}),
        ("-n=1.5..2.5..0.5", "-n", {"from": "1.5", "to": "2.5", "step": "0.5"}),
        ("--mode=fast,exact", "--mode", ["fast", "exact"]),
        ("--mode = fast, exact", "--mode", ["fast", "exact"]),
        ("--mode=fast", "--mode", "fast"),
        ("--n==1,2", "--n=", ["1", "2"]),
        ("--n==a=b", "--n=", "a=b"),
        ("-n=a=b", "-n", "a=b"),
        ("x=1", "x", "1"),
        ("x==1", "x", "=1"),
        ('-n="a,b",c', "-n", ["a,b", "c"]),
        ('-n="say ""hi"""', "-n", 'say "hi"'),
        ('-n=""', "-n", ""),
        ('-n="  a  ", b c ', "-n", ["  a  ", "b c"]),
        ('-n=5" disk', "-n", '5" disk'),
        ('-n="0..3"', "-n", "0..3"),
        ("-n=0..3,7,10..12..2", "-n", ["0", "1", "2", "3", "7", "10", "12"]),
        ("-n=../a,../b", "-n", ["../a", "../b"]),
        ("-n=007,1e3,yes,22:30", "-n", ["007", "1e3", "yes", "22:30"]),
        ("-n=http://a/b", "-n", "http://a/b"),
        ("-f=glob:data/{a,b}*.csv", "-f", {"glob": "data/{a,b}*.csv"}),
        ("-f=lines:my file", "-f", {"lines": "my file"}),
        ("-n=linspace:0, 1, 11", "-n", {"linspace": ["0", "1", "11"]}),
        ("-n=logspace:1,100,3", "-n", {"logspace": ["1", "100", "3"]}),
        ("--fast=flag", "--fast", {"flag": ["true", "false"]}),
        ("--fast=flag:true", "--fast", {"flag": ["true"]}),
        ('--mode="flag"', "--mode", "flag"),
        ('-n="glob:x"', "-n", "glob:x"),
        ("csv:a=b.csv", "csv", "a=b.csv"),
    ],
)
def test_one_option_of_the_sweep(text: str, key: str, value: object) -> None:
    assert read_sweep_option(text) == (key, value)


def test_every_kind_of_values_arrives(folder: Path) -> None:
    batch, text = ad_hoc(
        folder,
        "--fast=flag",
        "-x=linspace:0,1,3",
        "--f==glob:data/*.csv",
        "-l=lines:names.txt",
        '-q="a b"',
        "-t=0..0.3..0.1",
    )
    assert len(batch.plan) == 2 * 3 * 2 * 2 * 4
    assert argvs(batch)[0] == "--fast -x 0.0 --f=data/b9.csv -l anna -q a b -t 0.0"
    assert facts(save(batch, text)) == facts(batch)


def test_a_table_gives_columns_that_vary_together(folder: Path) -> None:
    batch, text = ad_hoc(folder, "csv:points.csv", "-n=1,2")
    assert argvs(batch) == ["--x 1 --y 2 -n 1", "--x 1 --y 2 -n 2", "--x 3 --y 4 -n 1", "--x 3 --y 4 -n 2"]
    assert facts(save(batch, text)) == facts(batch)


# --- mistakes ---


@pytest.mark.parametrize(
    ("option", "problem", "tip"),
    [
        ("-n=0..", '"0.." is no range of numbers', "write 0..40"),
        ("-n=..5", '"..5" is no range of numbers', "0..1..0.1"),
        ("-n=a..b", '"a..b" is no range of numbers', "a text goes in quotes of its own: '\"a..b\"'"),
        ("-n=1,a..b", '"a..b" is no range of numbers', ""),
        ("-n=1...5", '"1...5" is no range of numbers', ""),
        ("-n=1..2..3..4", "is no range of numbers", ""),
        ("-n=5..1", "step must be negative", "write 5..1..-1"),
        ("-n=1..5..0", "step must not be 0", ""),
        ("-n=1..5..-1", "step must be positive", ""),
        ("-n=0..99999,x", '99999" has 100,000 values, too many beside others', "stand alone"),
        ("-n=0..1e99", "more values than can be counted", ""),
        ("-n", "has no values", 'write "-n=0..40"'),
        ("--fast", "has no values", '"--fast=flag" runs with it and without it'),
        ("-n=", "has no values", ""),
        ("--n==", "has no values", ""),
        ("=3", "has no name of an option or variable", 'write "-n=0..40"'),
        ("--=x", "has no name of an option or variable", ""),
        ("-n 3=4", "has no name of an option or variable", ""),
        ("-n=a,,b", "value 2 is empty", 'write "" for an empty text'),
        ("-n=a,", "value 2 is empty", ""),
        ('-n="a', "value 1 has a quote that is not closed", ""),
        ('-n="a"b', "value 1 has a quote that is not closed", ""),
        ("-n=line:x", '"line:" is no kind of values', 'did you mean "lines:"?'),
        ("-n=linspace:0,1", "linspace: is followed by first, last, how many", "write linspace:1,100,5"),
        ("-n=linspace:0,b,3", '"b" is not a number', ""),
        ("-n=logspace:0,1,3", "must be more than 0", "not their logarithms"),
        ("-n=glob:", "glob: is followed by nothing", "write glob:data/*.csv"),
        ("-n=glob:*.zip", 'no file matches "*.zip"', "looked for in"),
        ("-n=lines:no", '"no": no such file', "looked for"),
        ("csv:no.csv", '"no.csv": no such file', ""),
        ("csv:", "csv: is followed by nothing", ""),
        ("x=1,2", 'the variable "x" is never used', "write -x"),
        ("job=1", '"job" cannot be a variable', ""),
        ("a.b=1", '"a.b" cannot be the name of a variable', ""),
        ("x=flag", '"x" cannot be a flag', "such as --fast"),
        ("--x=flag:maybe", "must be true or false", ""),
        ("-n=\0", "has a NUL character", ""),
        ("-n=\udcff", "has bytes that are no UTF-8", "glob:"),
    ],
)
def test_a_mistake_in_the_sweep_is_shown_at_its_option(
    folder: Path, option: str, problem: str, tip: str
) -> None:
    for others in ((), ("--other=1",), ("csv:points.csv",)):
        error = mistake(folder, *others, option)
        assert error.message.startswith('--sweep "')
        assert error.message.split('"')[1][:2] == option[:2]
        assert problem in error.message
        assert tip in error.hint


@pytest.mark.parametrize(
    ("options", "message", "tip"),
    [
        ({"script": "nope.py"}, '--script "nope.py": there is no file "nope.py"', "looked for"),
        ({"script": "-x.py"}, '--script "-x.py": "-x.py" would be taken for an option', "./-x.py"),
        ({"script": ""}, "--script: neither it nor --command says what to run", "--script fib.py"),
        ({"script": "fib.py", "command": "ls"}, '--command "ls": cannot be given together', "remove one"),
        ({"command": "''"}, '--command "\'\'": "command" begins with an empty text', ""),
        ({"command": "ls 'x"}, '--command "ls \'x": has a quote that is not closed', ""),
        ({"args": "'"}, '--args "\'": has a quote that is not closed', ""),
        ({"args": "{q}"}, '--args "{q}": unknown variable {q}', "{{q}}"),
        ({"venv": "data"}, '--venv "data": "data" is not a virtual environment', "python3 -m venv"),
        ({"output": "."}, '--output ".": "." is workdir', "a folder of its own"),
        ({"output": "names.txt"}, '--output "names.txt": "names.txt" is a file', ""),
        ({"timeout": "soon"}, '--timeout "soon": "timeout" must be a duration', "15m"),
        ({"retries": "-1"}, '--retries "-1": "retries" must be at least 0', ""),
        ({"results": "xml"}, '--results "xml": must be json, csv or regex:PATTERN', "regex:"),
        ({"results": "regex:("}, '--results "regex:(": "results" has a regex that is not valid', ""),
        ({"cluster": "pool.yaml"}, '--cluster "pool.yaml": there is no file', "looked for"),
        ({"args": "\udcff"}, '--args "\\udcff": has bytes that are no UTF-8', ""),
    ],
)
def test_a_mistake_in_an_option_is_shown_at_it(
    folder: Path, options: dict[str, str], message: str, tip: str
) -> None:
    error = mistake(folder, **options)
    assert error.message.startswith(message)
    assert tip in error.hint


def test_a_key_that_is_given_twice_names_the_first(folder: Path) -> None:
    error = mistake(folder, "-n=1", "--x=1", "--x==2")
    assert error.message == '--sweep "--x==2": "--x=" is in the sweep twice'
    assert error.hint == 'the first is --sweep "--x=1"; values are joined by commas'


def test_a_huge_sweep_is_taken_for_a_mistake(folder: Path) -> None:
    error = mistake(folder, "-n=0..5000000")
    assert error.message.startswith("--sweep: the sweep has 5,000,001 combinations")


# --- properties ---

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
VALUES = TEXT.map(lambda text: '"' + text.replace('"', '""') + '"')
KINDS = st.sampled_from(
    ["0..3", "1..2..0.5", "fast,exact", "7", "a, b c", "linspace:0,1,3", "flag", "lines:names.txt", "../x"]
)


@CALM
@given(st.lists(st.one_of(st.lists(VALUES, min_size=1, max_size=3).map(",".join), KINDS), max_size=3), TEXT)
def test_the_file_gives_the_same_jobs_with_the_same_numbers(
    one_folder: Path, values: list[str], word: str
) -> None:
    import shlex

    sweep = [f"--o{at}={value}" for at, value in enumerate(values)]
    batch, text = ad_hoc(one_folder, *sweep, args=shlex.join([word.replace("{", "(")]))
    assert facts(save(batch, text)) == facts(batch)


@CALM
@given(
    st.recursive(TEXT, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3)),
    TEXT,
)
def test_what_is_written_as_yaml_is_read_as_the_same(one_folder: Path, value: Any, key: str) -> None:
    path = one_folder / "any.yaml"
    path.write_text(
        "\n".join(["top:", *comment(key, "  "), *entry(key, value, "  ")]) + "\n", "utf-8", newline=""
    )
    assert parse_yaml(path).data == {"top": {key: value}}


@CALM
@given(TEXT)
def test_a_text_outside_of_brackets_is_read_as_the_same(one_folder: Path, text: str) -> None:
    path = one_folder / "any.yaml"
    path.write_text(f"a: {block(text)}\nb:\n  - {block(text)}\n", "utf-8", newline="")
    assert parse_yaml(path).data == {"a": text, "b": [text]}


def test_yaml_is_written_as_a_person_would() -> None:
    assert flow({"from": "0", "to": "40"}) == "{from: 0, to: 40}"
    assert flow(["fast", "a b", "it's", 'say "x"', "", "-n", "..", "-"]) == (
        '[fast, "a b", "it\'s", \'say "x"\', "", -n, .., "-"]'
    )
    assert [block("pc[01-34]"), block("b:22"), block("[::1]")] == ["pc[01-34]", "b:22", '"[::1]"']
    lines = entry("-n", [str(n) for n in range(100)], "  ")
    assert len(lines) > 2
    assert all(len(line) <= 104 for line in lines)
    assert yaml.load("\n".join(lines), Loader=yaml.BaseLoader) == {"-n": [str(n) for n in range(100)]}
