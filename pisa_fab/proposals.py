"""Pure: the arguments of a script -> what a first jobs file proposes to do with them, as its lines.

What the script needs is in it, so that the file is valid as it stands; all else is there as a comment, ready
to be used. The values are examples: a help text does not say which ones make sense.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

from pisa_fab.argparse_help import Option
from pisa_fab.ranges import number
from pisa_fab.specs.yaml_writing import Data, comment, entry, flow
from pisa_fab.sweep import BUILT_IN

_NUMBERS = {"n", "m", "k", "int", "integer", "num", "number", "count", "seed", "steps", "size", "float"}
_FILES = {"file", "filename", "path", "input", "infile", "data", "csv"}
_SWEEP = "                         # every combination; the last varies fastest"
_MOST_DIGITS = 12  # of a number that a person would write out
_HELP_LINES = 3  # of a description, as a comment


def lines_of_arguments(options: Iterable[Option]) -> list[str]:
    """Give the lines of `args` and `sweep`."""
    words: list[str] = []
    live: list[str] = []
    others: list[str] = []
    variables: set[str] = set()
    # Positional arguments stand in `args`, behind the options there that take several values.
    for option in sorted(options, key=lambda option: option.positional):
        names = [_variable(name, variables) for name in _names_of_values(option)]
        in_args = option.positional or len(option.metavar) > 1
        if not option.required:
            others += _comment_of(option, names, in_args=in_args)
        elif in_args:
            words += [*([option.name] if option.flags else []), *(f"{{{name}}}" for name in names)]
            for name in names:
                live += _live(option, name)
        else:
            live += _live(option, option.name)
    if words:
        lines = [*entry("args", words), ""]
    else:
        lines = ["# args: [--verbose]            # arguments that every job gets", ""]
    if live:
        return [*lines, f"sweep:{_SWEEP}", *live, *(line and f"  {line}" for line in others)]
    what = others or ["# -n: {from: 0, to: 40}      # both ends included", "# --mode: [fast, exact]"]
    return [*lines, f"# sweep:{_SWEEP[2:]}", *(line.replace("# ", "#   ", 1) for line in what)]


def _names_of_values(option: Option) -> Sequence[str]:
    """Give a name for each value, to be made the name of a variable."""
    if option.positional:
        names = ["choice" if name.startswith("{") else name for name in option.metavar]
    else:
        names = [option.name] * len(option.metavar)
    return [f"{name}_{at}" for at, name in enumerate(names, 1)] if len(names) > 1 else names


def _variable(name: str, taken: set[str]) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_").lower()
    if not re.match("[A-Za-z_]", name):
        name = f"value_{name}".rstrip("_")
    while name in taken or name in BUILT_IN:
        name += "_"
    taken.add(name)
    return name


def _live(option: Option, key: str) -> list[str]:
    lines = _described(option)
    value, *more = entry(key, examples(option), "  ")
    if not option.choices and not more:
        value = f"{value:<30} # needed: put your own values here"
    return [*(f"  {line}" for line in lines), value, *more]


def _comment_of(option: Option, names: Sequence[str], *, in_args: bool) -> list[str]:
    lines = ["", *_described(option)]
    if option.positional:
        return [
            *lines,
            *(f'# {name}: {flow(examples(option))}    # and "{{{name}}}" in args' for name in names),
        ]
    if in_args:
        return [*lines, f"# for every job, in args: {flow([option.name, *option.metavar])}"]
    return [*lines, *(f"# {line}" for line in entry(option.name, examples(option)))]


def _described(option: Option) -> list[str]:
    """Give the description as comment lines."""
    text = option.help
    if option.instead_of:
        text = f"Instead of {option.instead_of}. {text}"
    lines = comment(text, width=78)
    return lines if len(lines) <= _HELP_LINES else [*lines[:_HELP_LINES], "# ..."]


def examples(option: Option) -> Data:
    """Propose values: the choices, some beginning with the default, or merely some."""
    if not option.takes_value:
        return {"flag": ["true", "false"]}
    if option.choices:
        return list(option.choices)
    if option.default:
        return _beginning_with(option.default)
    words = set(re.split(r"[^a-z]+", " ".join((*option.metavar, option.name)).lower()))
    if words & _NUMBERS:
        return {"from": "1", "to": "4"}
    return ["first.csv", "second.csv"] if words & _FILES else ["1", "2", "3"]


def _beginning_with(default: str) -> Data:
    """Give five numbers in steps that fit their size: 16, 26, ... or 1.5, 2.0, ...; a text stays alone."""
    try:
        first = number(default)
    except ValueError:
        return [default]
    if abs(first.adjusted()) > _MOST_DIGITS:
        return [default]
    step = Decimal(1)
    is_whole = first == first.to_integral_value() and int(first.as_tuple().exponent) >= 0
    if abs(first) >= 10 or not is_whole:
        step = Decimal(1).scaleb(first.adjusted() if first else 0)
        step = step if is_whole else step / 2
    last = first + 4 * step
    ends = {"from": f"{first:f}", "to": f"{last:f}"}
    return ends if step == 1 else {**ends, "step": f"{step:f}"}
