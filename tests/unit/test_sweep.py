from __future__ import annotations

from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pisa_fab.numbering import assign_numbers
from pisa_fab.ranges import Linspace, Logspace, Steps, number
from pisa_fab.sweep import (
    Axis,
    Column,
    Kind,
    Plan,
    escaped,
    names_in,
)

CALM = settings(deadline=None)  # a busy machine is no failure

SCRIPT = ("script", "fib.py")
PREFIX = ("python3", "fib.py")

# What a value may be: any text without NUL that can be passed to a program.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
VALUES = st.lists(TEXTS, min_size=1, max_size=4)


def axis(**columns: list[str]) -> Axis:
    """Make an axis; `n_` is the option -n, `n__` the joined --n, `n` a variable."""

    def column(name: str) -> Column:
        if name.endswith("__"):
            return Column.of_key(f"--{name[:-2]}=")
        return Column.of_key(f"-{name[:-1]}" if name.endswith("_") else name)

    return Axis(tuple(map(column, columns)), tuple(columns.values()))


def plan(*axes: Axis, **more: Any) -> Plan:
    return Plan(SCRIPT, PREFIX, axes=axes, **more)


def argvs(plan: Plan) -> list[tuple[str, ...]]:
    return [plan.job(i, i).argv for i in range(len(plan))]


def rows(plan: Plan) -> list[tuple[str | None, ...]]:
    return [tuple(plan.job(i, i).arguments.values()) for i in range(len(plan))]


# --- the grid ---


def test_no_sweep_is_one_job() -> None:
    one = plan(words=["--precision", "12"])
    assert len(one) == 1
    assert one.columns == ()
    assert argvs(one) == [("python3", "fib.py", "--precision", "12")]


def test_the_last_axis_varies_fastest_and_options_follow_the_words() -> None:
    grid = plan(axis(n_=["1", "2"]), axis(mode__=["a", "b"]), words=["-v"])
    assert grid.columns == ("-n", "--mode")
    assert argvs(grid) == [
        (*PREFIX, "-v", "-n", "1", "--mode=a"),
        (*PREFIX, "-v", "-n", "1", "--mode=b"),
        (*PREFIX, "-v", "-n", "2", "--mode=a"),
        (*PREFIX, "-v", "-n", "2", "--mode=b"),
    ]


@CALM
@given(st.lists(VALUES, max_size=4))
def test_the_grid_is_the_product(values: list[list[str]]) -> None:
    grid = plan(*(axis(**{f"c{i}_": each}) for i, each in enumerate(values)))
    expected = list(product(*values))
    assert len(grid) == len(expected) == len(grid.keys())
    assert rows(grid) == expected
    for argv, row in zip(argvs(grid), expected, strict=True):
        words = [word for i, value in enumerate(row) for word in (f"-c{i}", value)]
        assert argv == (*PREFIX, *words)


@CALM
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5), VALUES)
def test_columns_of_one_axis_vary_together(pairs: list[tuple[str, str]], others: list[str]) -> None:
    first, second = map(list, zip(*pairs, strict=True))
    grid = plan(axis(a_=first, b_=second), axis(c_=others))
    assert rows(grid) == [(a, b, c) for (a, b), c in product(pairs, others)]


SMALL = st.sampled_from(["1", "2", "3"])
ENTRY = st.dictionaries(st.sampled_from(["-a", "-b", "-c"]), st.frozensets(SMALL, max_size=2), min_size=1)


@CALM
@given(
    st.lists(ENTRY, max_size=3), st.lists(st.dictionaries(st.sampled_from(["-a", "-c"]), SMALL), max_size=2)
)
def test_exclude_drops_what_matches_an_entry_and_include_comes_last(
    exclude: list[dict[str, frozenset[str]]], include: list[dict[str, str]]
) -> None:
    values = ["1", "2", "3"]
    grid = plan(axis(a_=values, b_=values[::-1]), axis(c_=values), exclude=exclude, include=include)
    combinations = [
        {"-a": a, "-b": b, "-c": c} for (a, b), c in product(zip(values, values[::-1], strict=True), values)
    ]
    expected: list[dict[str, str | None]] = [
        dict(row)
        for row in combinations
        if not any(all(row[name] in given for name, given in entry.items()) for entry in exclude)
    ]
    expected += [{name: entry.get(name) for name in ("-a", "-b", "-c")} for entry in include]
    assert len(grid) == len(expected) == len(set(grid.keys()))
    assert [grid.job(i, i).arguments for i in range(len(grid))] == expected


def test_an_option_that_an_included_combination_leaves_out_is_not_there() -> None:
    grid = plan(axis(a_=["1"]), axis(b__=["2"]), include=[{"--b": "9"}])
    assert argvs(grid)[1] == (*PREFIX, "--b=9")
    assert grid.job(1, 1).arguments == {"-a": None, "--b": "9"}


def test_a_flag_is_there_or_not_and_its_column_says_which() -> None:
    grid = plan(Axis((Column("--fast", Kind.FLAG),), (["true", "false"],)))
    assert argvs(grid) == [(*PREFIX, "--fast"), PREFIX]
    assert rows(grid) == [("true",), ("false",)]


def test_a_sweep_of_a_million_millions_is_measured_without_being_expanded() -> None:
    steps = Steps(Decimal(1), Decimal(10**6), Decimal(1))
    grid = plan(Axis((Column.of_key("-a"),), (steps,)), Axis((Column.of_key("-b"),), (steps,)))
    assert len(grid) == grid.size == 10**12


def test_the_size_may_be_more_than_len_can_say() -> None:
    steps = Steps(Decimal(1), Decimal(10**15), Decimal(1))
    grid = plan(Axis((Column.of_key("-a"),), (steps,)), Axis((Column.of_key("-b"),), (steps,)))
    assert grid.size == 10**30
    with pytest.raises(OverflowError):
        len(grid)


def test_an_axis_too_long_for_a_table_renders_the_same() -> None:
    steps = Steps(Decimal(0), Decimal(70_000), Decimal(1))
    grid = plan(Axis((Column.of_key("-n"),), (steps,)))
    assert grid.job(69_999, 5).argv == (*PREFIX, "-n", "69999")


@pytest.mark.parametrize("index", [-1, 2, 100])
def test_an_index_outside_is_an_error(index: int) -> None:
    with pytest.raises(IndexError):
        plan(axis(n_=["1", "2"])).job(index, 0)


# --- templates ---


def test_templates_are_filled_in_words_and_environment() -> None:
    grid = plan(
        axis(f=["a b", "c"]),
        words=["in/{f}.txt", "{job}-{f}", "{output}/x"],
        env={"NAME": "{f}{job}"},
        output="/home/me/run",
    )
    job = grid.job(0, 7)
    assert job.argv == (*PREFIX, "in/a b.txt", "0007-a b", "/home/me/run/x")
    assert job.env == {"NAME": "a b0007"}


def test_other_braces_and_percent_signs_are_literal() -> None:
    words = ['{"n": 3, "m": [{}]}', "{{n}}", "{ n }", "{1}", "100%", "%s", "{{", "}}"]
    grid = plan(axis(n=["5"]), words=words, env={"X": "%d={n}"})
    assert grid.job(0, 0).argv[2:] == ('{"n": 3, "m": [{}]}', "{n}", *words[2:])
    assert grid.job(0, 0).env == {"X": "%d=5"}


def test_a_value_is_never_a_template() -> None:
    grid = plan(axis(n=["{m}%s"]), axis(m=["{job}"]), axis(o_=["{{n}}"]), words=["{n}{m}"])
    assert argvs(grid) == [(*PREFIX, "{m}%s{job}", "-o", "{{n}}")]


@CALM
@given(st.text("{}ab1-_", max_size=12))
def test_an_escaped_text_renders_to_itself(text: str) -> None:
    assert not names_in(escaped(text))
    assert plan(words=[escaped(text)]).job(0, 0).argv == (*PREFIX, text)


@CALM
@given(TEXTS, TEXTS, VALUES)
def test_any_text_around_a_variable_stays(before: str, after: str, values: list[str]) -> None:
    assume("{" not in before + after and "}" not in before + after)
    grid = plan(axis(v=values), words=[before + "{v}" + after])
    assert argvs(grid) == [(*PREFIX, before + value + after) for value in values]


# --- keys ---


@CALM
@given(st.lists(VALUES, min_size=1, max_size=3))
def test_keys_are_distinct_and_have_16_hex_digits(values: list[list[str]]) -> None:
    keys = plan(*(axis(**{f"c{i}_": each}) for i, each in enumerate(values))).keys()
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


@CALM
@given(st.lists(TEXTS, max_size=3), st.lists(TEXTS, max_size=3))
def test_different_command_lines_have_different_keys(first: list[str], second: list[str]) -> None:
    def key(words: list[str]) -> str:
        return plan(words=[escaped(word) for word in words]).keys()[0]

    assert (key(first) == key(second)) == (first == second)


def test_words_and_environment_cannot_be_mistaken_for_each_other() -> None:
    assert plan(words=["A=1"]).keys() != plan(env={"A": "1"}).keys()
    assert plan(env={"A": "", "B": "1"}).keys() != plan(env={"A": "B=1"}).keys()
    assert Plan(("command",), words=["script", "a"]).keys() != Plan(("script", "a")).keys()


def test_a_script_and_its_twin_as_a_command_differ() -> None:
    assert Plan(("script", "a.py")).keys() != Plan(("script", "b.py")).keys()


@CALM
@given(VALUES, st.lists(TEXTS, max_size=3), VALUES)
def test_an_extended_grid_keeps_the_keys_of_the_old_points(
    values: list[str], more: list[str], others: list[str]
) -> None:
    # A value that comes twice moves from one occurrence to the next, so the new ones are new.
    more = [value for value in more if value not in values]
    old = plan(axis(a_=values), axis(b_=others))
    new = plan(axis(a_=values + more), axis(b_=others))
    assert new.keys()[: len(old)] == old.keys()
    slower = plan(axis(a_=others), axis(b_=values))
    longer = plan(axis(a_=others), axis(b_=values + more))
    assert set(slower.keys()) <= set(longer.keys())


def test_the_kth_identical_combination_has_its_own_key_that_stays() -> None:
    two, three = plan(axis(n_=["1", "1"])).keys(), plan(axis(n_=["1", "1", "2", "1"])).keys()
    assert len(set(three)) == 4
    assert list(three[:2]) == list(two)
    assert plan(axis(n_=["1"])).keys()[0] == two[0]


def test_interpreter_output_and_number_are_not_in_the_key() -> None:
    words = ["{job}", "{output}"]
    one = Plan(SCRIPT, ("python3", "fib.py"), words, output="/a")
    two = Plan(SCRIPT, ("venv/bin/python", "fib.py"), words, output="/b")
    assert one.keys() == two.keys() != Plan(SCRIPT, PREFIX, ["{{job}}", "{{output}}"]).keys()
    assert one.job(0, 3).key == one.job(0, 4).key == one.keys()[0]


def test_keys_do_not_change_with_the_version() -> None:
    """A run directory of an older version must find its jobs again: these keys are for ever."""
    grid = plan(axis(n_=["1", "é", "1"]), words=["a b", "{job}"], env={"X": "{output}"})
    assert list(grid.keys()) == ["0e82597501832f85", "a7c76f5badf13e19", "a8ec0042306bd6af"]


def test_a_file_name_that_is_not_utf8_has_a_key_and_arrives_as_it_is() -> None:
    name = b"caf\xe9.txt".decode("utf-8", "surrogateescape")
    grid = plan(axis(f_=[name]))
    assert grid.job(0, 0).argv[-1] == name
    assert len(grid.keys()[0]) == 16


# --- values that are computed ---

DECIMALS = st.decimals(-100, 100, places=2) | st.integers(-100, 100).map(Decimal)


@CALM
@given(DECIMALS, DECIMALS, st.decimals("0.05", 50, places=2) | st.integers(1, 50).map(Decimal))
def test_steps_are_exact_and_never_pass_the_end(start: Decimal, stop: Decimal, step: Decimal) -> None:
    step = step if stop >= start else -step
    expected, value = [], start
    while (value <= stop) if step > 0 else (value >= stop):
        expected.append(value)
        value += step
    steps = Steps(start, stop, step)
    assert [Decimal(text) for text in steps] == expected
    places = max(-int(start.as_tuple().exponent), -int(step.as_tuple().exponent))
    assert all(len(text.partition(".")[2]) == places for text in steps)


@pytest.mark.parametrize(
    ("start", "stop", "step", "expected"),
    [
        ("0.1", "0.3", "0.1", ["0.1", "0.2", "0.3"]),
        ("0", "40", "13", ["0", "13", "26", "39"]),
        ("0", "1", "0.25", ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        ("1", "-1", "-1", ["1", "0", "-1"]),
        ("-0.5", "0.5", "0.5", ["-0.5", "0.0", "0.5"]),
        ("1e3", "3e3", "1e3", ["1000", "2000", "3000"]),
        ("1e-3", "2e-3", "5e-4", ["0.0010", "0.0015", "0.0020"]),
        ("5", "5", "1", ["5"]),
        ("0", "0.999", "1", ["0"]),
    ],
)
def test_steps_are_written_as_one_would(start: str, stop: str, step: str, expected: list[str]) -> None:
    assert list(Steps(number(start), number(stop), number(step))) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "0x10", "nan", "inf", "1_000", "1e999", "1e-999", "٣", "1 2", "1e9999"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number|too large or too small"):
        number(text)


@pytest.mark.parametrize(
    ("start", "stop", "count", "expected"),
    [
        ("0", "1", 11, ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]),
        ("0", "1", 4, ["0.0", "0.3333333333333333", "0.6666666666666666", "1.0"]),
        ("1", "-1", 3, ["1.0", "0.0", "-1.0"]),
        ("0.1", "0.3", 3, ["0.1", "0.2", "0.3"]),
    ],
)
def test_linspace_is_evenly_spaced_and_short(start: str, stop: str, count: int, expected: list[str]) -> None:
    assert list(Linspace(number(start), number(stop), count)) == expected


@pytest.mark.parametrize(
    ("start", "stop", "count", "expected"),
    [
        ("1", "1000", 4, ["1.0", "10.0", "100.0", "1000.0"]),
        ("0.01", "100", 5, ["0.01", "0.1", "1.0", "10.0", "100.0"]),
        ("8", "1", 4, ["8.0", "4.0", "2.0", "1.0"]),
    ],
)
def test_logspace_goes_from_value_to_value(start: str, stop: str, count: int, expected: list[str]) -> None:
    assert list(Logspace(number(start), number(stop), count)) == expected


def test_computed_values_behave_as_a_sequence() -> None:
    steps = Steps(Decimal(0), Decimal(4), Decimal(1))
    assert (steps[-1], steps[1:3], len(steps), "3" in steps) == ("4", ["1", "2"], 5, True)
    with pytest.raises(IndexError):
        steps[5]


# --- numbers ---


def test_the_first_numbers_are_a_range() -> None:
    assert assign_numbers(["a", "b"], {}, 0) == range(2)


@CALM
@given(st.lists(st.text("abcdef", min_size=1, max_size=2), unique=True), st.data())
def test_known_keys_keep_their_numbers_and_new_ones_get_new_ones(
    keys: list[str], data: st.DataObject
) -> None:
    chosen = st.lists(st.sampled_from(keys), unique=True) if keys else st.just([])
    known = {key: i for i, key in enumerate(data.draw(chosen))}
    numbers = list(assign_numbers(keys, known, 1000))
    assert len(set(numbers)) == len(keys)
    assert all(number == known[key] for key, number in zip(keys, numbers, strict=True) if key in known)
    new = [number for key, number in zip(keys, numbers, strict=True) if key not in known]
    assert new == list(range(1000, 1000 + len(new)))
