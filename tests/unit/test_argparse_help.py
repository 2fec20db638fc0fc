"""What argparse prints, of every Python there is here, and what others print that looks like it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisa_fab.argparse_help import Option, parse

SCRIPT = """
import argparse

parser = argparse.ArgumentParser(
    description="Simulate:\\nfile names go first.", epilog="examples:\\n  sim.py --like-this 3\\n",
    formatter_class=argparse.RawDescriptionHelpFormatter,
)
parser.add_argument("file", help="what is read,\\n- a list\\n- of things")
parser.add_argument("pair", nargs=2)
parser.add_argument("out", nargs="?", default="x", help="what is written (default: %(default)s)")
parser.add_argument("more", nargs="*")
parser.add_argument("-n", "--number", type=int, default=3, help="how many, default: %(default)s")
parser.add_argument("--mode", choices=["fast", "exact"], default="fast", help="speed (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="be fast")
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--two", nargs=2, metavar=("A", "B"), type=float, required=True)
parser.add_argument("--list", nargs="+", help="some")
parser.add_argument("--opt", nargs="?")
parser.add_argument("--level", choices=[1, 2, 3], type=int, required=True)
parser.add_argument("--hidden", help=argparse.SUPPRESS)
model = parser.add_argument_group("model", "About the model.")
model.add_argument("--a-very-long-name-of-an-option", metavar="A_LONG_NAME", default=1.5, type=float,
                   help="a long text " * 12 + "(default: %(default)s)")
either = parser.add_mutually_exclusive_group(required=True)
either.add_argument("--x", type=float)
either.add_argument("--y", type=float)
neither = parser.add_mutually_exclusive_group()
neither.add_argument("-q", action="store_true")
neither.add_argument("-v", "--verbose", action="count", default=0)
parser.add_argument("--version", action="version", version="1")
parser.parse_args()
"""


def pythons() -> list[str]:
    """Give an interpreter of each version that is here, 3.8 and newer."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)  # HOME is another one in tests
    found = []
    for minor in range(8, 20):
        known = [*map(str, sorted(home.glob(f".pyenv/versions/3.{minor}.*/bin/python3")))]
        known += [path for path in [shutil.which(f"python3.{minor}")] if path]
        found += [path for path in known if "shims" not in path][:1]
    return found or [sys.executable]


def run_help(python: str, script: Path, columns: int) -> str:
    env = {**os.environ, "COLUMNS": str(columns), "PYTHON_COLORS": "0"}
    done = subprocess.run(
        [python, str(script), "--help"], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("python", pythons())
def test_the_help_of_argparse_is_understood(python: str, columns: int, tmp_path: Path) -> None:
    script = tmp_path / "sim.py"
    script.write_text(SCRIPT)
    found = {option.name: option for option in parse(run_help(python, script, columns))}
    assert list(found) == [
        *("--number", "--mode", "--fast", "--seed", "--two", "--list", "--opt", "--level", "--x", "--y"),
        *("-q", "--verbose", "--a-very-long-name-of-an-option", "file", "pair", "out", "more"),
    ]
    needed = {name for name, option in found.items() if option.required}
    assert needed == {"--seed", "--two", "--level", "--x", "file", "pair"}
    assert found["--number"] == Option(("-n", "--number"), ("NUMBER",), (), "how many, default: 3", "3")
    assert found["--mode"].choices == ("fast", "exact")
    assert found["--mode"].default == "fast"
    assert found["--level"].choices == ("1", "2", "3")
    assert found["--fast"] == Option(("--fast",), (), (), "be fast")
    assert found["--two"].metavar == ("A", "B")
    assert (found["--list"].metavar, found["--list"].many) == (("LIST",), True)
    assert (found["--opt"].metavar, found["--opt"].many) == (("OPT",), False)
    assert (found["--y"].instead_of, found["--x"].instead_of) == ("--x", "")
    assert not found["-q"].takes_value
    assert not found["--verbose"].takes_value
    long = found["--a-very-long-name-of-an-option"]
    assert (long.metavar, long.default) == (("A_LONG_NAME",), "1.5")
    assert long.help == "a long text " * 12 + "(default: 1.5)"
    assert found["file"].help == "what is read, - a list - of things"
    assert (found["pair"].metavar, found["pair"].many) == (("pair", "pair"), False)
    assert (found["out"].default, found["out"].positional) == ("x", True)
    assert found["more"].many


SUBCOMMANDS = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--verbose", action="store_true")
commands = parser.add_subparsers(dest="what", help="what to do", required=True)
commands.add_parser("run", help="to run it").add_argument("-n")
commands.add_parser("plot", help="to plot it")
parser.parse_args()
"""


@pytest.mark.parametrize("python", pythons())
def test_subcommands_are_choices(python: str, tmp_path: Path) -> None:
    script = tmp_path / "sim.py"
    script.write_text(SUBCOMMANDS)
    verbose, what = parse(run_help(python, script, 80))
    assert verbose.name == "--verbose"
    assert (what.choices, what.required, what.many) == (("run", "plot"), True, False)


@pytest.mark.parametrize("python", pythons())
def test_a_parser_without_arguments_has_none(python: str, tmp_path: Path) -> None:
    script = tmp_path / "sim.py"
    script.write_text(
        "import argparse\nargparse.ArgumentParser(description='-n is no option').parse_args()\n"
    )
    assert parse(run_help(python, script, 80)) == []


COLOURED = """\x1b[1;34musage: \x1b[0m\x1b[1;35msim.py\x1b[0m [\x1b[32m-h\x1b[0m] \
\x1b[36m--seed \x1b[33mSEED\x1b[0m [\x1b[36m--mode \x1b[33m{a,b}\x1b[0m]

\x1b[1;34moptions:\x1b[0m
  \x1b[1;32m-h\x1b[0m, \x1b[1;36m--help\x1b[0m   show this help message and exit
  \x1b[1;36m--seed\x1b[0m \x1b[1;33mSEED\x1b[0m
  \x1b[1;36m--mode\x1b[0m \x1b[1;33m{a,b}\x1b[0m  the mode
"""


def test_colours_do_no_harm() -> None:
    seed, mode = parse(COLOURED)
    assert (seed.name, seed.required) == ("--seed", True)
    assert (mode.choices, mode.required, mode.help) == (("a", "b"), False, "the mode")


def test_control_characters_are_left_out() -> None:
    (option,) = parse("usage: a.py [-x X]\r\n\r\noptions:\r\n  -x X\thow\0 \x07many\x0c (default: 3)\r\n")
    assert (option.help, option.default) == ("how many (default: 3)", "3")


CLICK = """Usage: sim.py [OPTIONS] FILE [EXTRA]...

  Simulate something.

Options:
  -n, --number INTEGER            How many.  [default: 3; required]
  --ratio FLOAT RANGE             [0<=x<=1]
  --mode [fast|exact]             Speed.
  --shout / --no-shout            Loudly.
  --point <FLOAT FLOAT>...        Two of them.
  --help                          Show this message and exit.
"""


def test_what_click_prints_is_understood_where_it_is_alike() -> None:
    found = {option.name: option for option in parse(CLICK)}
    assert list(found)[:4] == ["--number", "--ratio", "--mode", "--shout"]
    assert found["--number"].required
    assert found["--number"].default == "3"
    assert found["--ratio"].metavar == ("FLOAT",)
    assert found["--mode"].choices == ("fast", "exact")
    assert not found["--shout"].takes_value
    assert found["FILE"].required
    assert found["FILE"].positional


DOCOPT = """Naval Fate.

Usage:
  naval_fate.py ship new <name>...
  naval_fate.py ship <name> move <x> <y> [--speed=<kn>]
  naval_fate.py (-h | --help)

Options:
  -h --help     Show this screen.
  --speed=<kn>  Speed in knots [default: 10].
  --moored      Moored (anchored) mine.
"""


def test_what_docopt_prints_is_understood_where_it_is_alike() -> None:
    speed, moored = parse(DOCOPT)
    assert (speed.flags, speed.takes_value, speed.default) == (("--speed",), True, "10")
    assert (moored.flags, moored.takes_value, moored.required) == (("--moored",), False, False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42\n",
        "usage:",
        "Usage: \n",
        "usage: x.py [[[ ( | ] ) -a -b",
        "usage: a.py -n\n\noptions:\n  -\n  --\n",
    ],
)
def test_what_is_no_help_gives_nothing_or_little(text: str) -> None:
    assert all(isinstance(option, Option) for option in parse(text))


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([*"[](){}|<> \n", "...", "-n", "--x", "usage: a.py ", "options:\n", "  ", "X"]))
)
def test_nothing_that_is_printed_can_break_it(parts: list[str]) -> None:
    for option in parse("usage: a.py " + "".join(parts)):
        assert option.name
