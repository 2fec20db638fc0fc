"""Forecasts of run times: how near they come, how many jobs keep their bounds, what they cost."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from math import exp, isfinite, log
from statistics import fmean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab import regression
from pisa_fab.forecast import Expected, Forecast, Work
from pisa_fab.terms import number, student95

Arguments = Mapping[str, str | None]
Jobs = list[tuple[dict[str, str | None], float]]
DICE = random.Random(20261122)


def noise(deviation: float) -> float:
    return exp(DICE.gauss(0, deviation))


def taught(
    jobs: Sequence[tuple[Arguments, float]], given: Callable[[Arguments], float] | None = None
) -> Forecast:
    forecast = Forecast(given)
    for arguments, seconds in jobs:
        forecast.learn(arguments, seconds)
    return forecast


def expected(forecast: Forecast, arguments: Arguments) -> Expected:
    found = forecast.expect(arguments)
    assert found is not None
    return found


# --- shapes: what batches are like ---


def fib() -> Jobs:
    """Flat while the interpreter starts, then exponential."""
    return [
        ({"-n": str(n), "--seed": str(s)}, (0.03 + 2e-6 * 1.618**n) * noise(0.08))
        for n in range(8, 36)
        for s in range(15)
    ]


def fib_in_two_modes() -> Jobs:
    """One mode is exponential, the other linear: the project's own example."""
    return [
        (
            {"-n": str(n), "--mode": mode},
            (0.03 + (1e-5 * 1.6**n if mode == "exact" else 1e-3 * n)) * noise(0.05),
        )
        for n in range(41)
        for mode in ("fast", "exact")
        for _ in range(4)
    ]


def grid() -> Jobs:
    """Something that every job does, and a product of powers."""
    return [
        ({"--w": str(w), "--h": f"{h:.1e}", "--seed": str(s)}, (1 + 1e-4 * w * h**2) * noise(0.1))
        for w in (10, 20, 40, 80, 160)
        for h in (10, 20, 40, 80)
        for s in range(12)
    ]


def powers() -> Jobs:
    return [
        ({"--n": f"{n:g}", "--eps": f"{eps:g}"}, 1e-4 * n**1.5 / eps**0.5 * noise(0.1))
        for n in (100, 200, 400, 800, 1600, 3200)
        for eps in (0.1, 0.03, 0.01, 1e-3)
        for _ in range(10)
    ]


def files() -> Jobs:
    """Each file takes its own time."""
    scale = {f"data/{i}.csv": exp(DICE.gauss(3, 1.5)) for i in range(25)}
    return [({"file": f, "--seed": str(s)}, scale[f] * noise(0.1)) for s in range(15) for f in scale]


def codes() -> Jobs:
    """Numbers that are names."""
    return [
        ({"--method": str(m), "--seed": str(s)}, (5, 80, 10, 2)[m] * noise(0.1))
        for s in range(60)
        for m in range(4)
    ]


def flags() -> Jobs:
    return [
        ({"--fast": f, "-k": str(k) if k else None}, (20 if f == "true" else 300) * (1 + k) * noise(0.15))
        for _ in range(50)
        for f in ("true", "false")
        for k in range(3)
    ]


SHAPES = [fib, fib_in_two_modes, grid, powers, files, codes, flags]


def irrelevant() -> Jobs:
    return [
        (
            {
                "a": str(DICE.random()),
                "b": str(DICE.randrange(5)),
                "c": DICE.choice("xyz"),
                "d": f"{DICE.random():.2e}",
                "e": DICE.choice(("u", "v")),
                "f": f"out/{i}",
            },
            20 * noise(0.2),
        )
        for i in range(400)
    ]


def constant() -> Jobs:
    return [({"--seed": str(i)}, 60 * noise(0.005)) for i in range(400)]


def heavy() -> Jobs:
    return [({"--seed": str(i)}, 10 * DICE.paretovariate(1.5)) for i in range(600)]


def two_kinds() -> Jobs:
    """Nothing says beforehand which jobs are the long ones."""
    return [({"--seed": str(i)}, (600 if DICE.random() < 0.1 else 10) * noise(0.05)) for i in range(600)]


def uneven() -> Jobs:
    """Short jobs scatter, long ones do not."""
    return [
        ({"n": str(n), "s": str(s)}, (0.1 * noise(0.7)) if n < 5 else 2.0**n * noise(0.03))
        for s in range(50)
        for n in range(10)
    ]


def looked_at(jobs: Jobs, lag: int = 8) -> tuple[float, float, float]:
    """Run jobs in a shuffled order, several at once; give the share that kept its bound, and two mean errors.

    The errors, of logarithms, are those of the forecast and of the mean of what had ended.
    """
    DICE.shuffle(jobs)
    forecast, kept, ours, means = Forecast(), 0, [], []
    total = 0.0
    for index, (arguments, seconds) in enumerate(jobs):
        if index >= lag:
            forecast.learn(*jobs[index - lag])
            total += jobs[index - lag][1]
        if index >= 60:
            found = expected(forecast, arguments)
            kept += seconds <= found.at_most
            ours.append(abs(log(found.seconds / seconds)))
            means.append(abs(log(total / (index - lag + 1) / seconds)))
    return kept / len(ours), fmean(ours), fmean(means)


@pytest.mark.parametrize("shape", [*SHAPES, irrelevant, constant, heavy, two_kinds, uneven])
def test_about_95_of_100_jobs_keep_their_bound(shape: Callable[[], Jobs]) -> None:
    DICE.seed(shape.__name__)
    kept, _, _ = looked_at(shape())
    assert kept >= 0.92


@pytest.mark.parametrize("shape", SHAPES)
def test_where_arguments_matter_the_error_is_a_fraction_of_that_of_the_mean(
    shape: Callable[[], Jobs],
) -> None:
    DICE.seed(shape.__name__)
    _, ours, mean = looked_at(shape())
    assert ours < 0.35 * mean
    assert ours < 0.35


def test_columns_that_do_not_matter_do_no_harm() -> None:
    DICE.seed(3)
    _, ours, mean = looked_at(irrelevant())
    assert ours < 1.05 * mean


@pytest.mark.parametrize("shape", [*SHAPES, heavy, two_kinds, uneven])
def test_the_sum_over_what_is_left_is_about_right(shape: Callable[[], Jobs]) -> None:
    DICE.seed(shape.__name__)
    jobs = shape()
    DICE.shuffle(jobs)
    half = len(jobs) // 2
    forecast = taught(jobs[:half])
    work = forecast.total(range(half, len(jobs)), lambda job: jobs[job][0])
    assert work is not None
    assert work.jobs == len(jobs) - half
    assert work.seconds == pytest.approx(sum(seconds for _, seconds in jobs[half:]), rel=0.4)


# --- beyond what was seen ---


def test_exponential_growth_is_carried_on() -> None:
    DICE.seed(1)
    forecast = taught([({"-n": str(n)}, 0.02 + 1e-6 * 1.618**n * noise(0.02)) for n in range(33)])
    for n, factor in ((34, 1.3), (38, 1.7)):
        found = expected(forecast, {"-n": str(n)})
        assert 1 / factor < found.seconds / (1e-6 * 1.618**n) < factor
        assert found.at_most > 1e-6 * 1.618**n


def test_a_power_law_is_carried_on_as_one_and_not_as_an_exponential() -> None:
    DICE.seed(2)
    sizes = [100 * 1.2**i for i in range(20)]
    forecast = taught([({"-n": f"{n:.6g}"}, 1e-3 * n**2 * noise(0.03)) for n in sizes])
    far = 30 * sizes[-1]
    assert expected(forecast, {"-n": f"{far:.6g}"}).seconds == pytest.approx(1e-3 * far**2, rel=0.4)


@pytest.mark.parametrize("shape", ["even", "lognormal", "two kinds"])
def test_a_sum_makes_no_trend_of_chance(shape: str) -> None:
    """Times that do not depend on the number, of which the first are known, say what 5,000 jobs take."""
    dice = random.Random(8)
    draw: Callable[[], float] = {
        "even": lambda: dice.uniform(0.1, 2),
        "lognormal": lambda: dice.lognormvariate(0, 1),
        "two kinds": lambda: dice.choice([0.05, 2.0]),
    }[shape]
    mean = sum(draw() for _ in range(20_000)) / 20_000
    for known, factor in ((20, 20.0), (100, 3.0), (2500, 1.2)):
        for _ in range(40 if known < 1000 else 4):
            forecast = taught([({"-n": str(n)}, draw()) for n in range(known)])
            work = forecast.total(range(known, 5000), lambda job: {"-n": str(job)})
            assert work is not None
            assert 1 / factor < work.seconds / mean / (5000 - known) < factor


@pytest.mark.parametrize("power", [1, 2])
def test_a_sum_does_not_make_exponential_growth_of_a_slower_one(power: int) -> None:
    """What counts from 0 has no logarithm there, so its slope is that of an exponential."""
    seconds = [0.01 * (n + 1) ** power for n in range(200)]
    forecast = taught([({"-n": str(n)}, seconds[n]) for n in range(50)])
    work = forecast.total(range(50, 200), lambda job: {"-n": str(job)})
    assert work is not None
    assert 0.5 < work.seconds / sum(seconds[50:]) < 5
    hunches = [expected(forecast, {"-n": str(n)}).hunch for n in range(50, 200)]
    assert hunches == sorted(hunches)  # for beginning with the longest it is carried on all the same


def test_nothing_is_expected_to_take_absurdly_long_or_short() -> None:
    forecast = taught([({"-n": str(n)}, 2.0**n) for n in range(20)])
    longest = 2.0**19
    found = expected(forecast, {"-n": "1e300"})
    assert longest < found.seconds <= 10_001 * longest
    assert found.at_most <= 1001 * found.seconds
    assert expected(forecast, {"-n": "-1e300"}).seconds >= 0.99e-3


def test_the_further_from_what_was_seen_the_wider_the_bound() -> None:
    DICE.seed(4)
    forecast = taught([({"-n": str(n)}, 10 * noise(0.1)) for n in range(-20, 21) for _ in range(3)])
    widths = [
        found.at_most / found.seconds
        for n in (0, 20, 40, 80)
        for found in [expected(forecast, {"-n": str(n)})]
    ]
    assert widths[0] < 1.4
    assert widths[0] <= widths[1] < widths[2] < widths[3]


def test_a_value_that_was_never_seen_has_a_wide_bound() -> None:
    DICE.seed(5)
    jobs = files()
    found, known = (expected(taught(jobs), {"file": f, "--seed": "3"}) for f in ("data/x.csv", "data/3.csv"))
    assert found.at_most / found.seconds > 3 * known.at_most / known.seconds
    same = [({"mode": "a", "n": str(i)}, 5.0) for i in range(50)]
    assert expected(taught(same), {"mode": "b", "n": "3"}).at_most > 15.0


# --- few and many ---


def test_little_is_nothing_and_few_are_vague() -> None:
    forecast = Forecast()
    widths = []
    for done in range(200):
        found = forecast.expect({"-n": "1"})
        assert (found is None) == (done < 3)
        if found is not None:
            assert found.seconds == pytest.approx(60.0, rel=0.01)
            widths.append(found.at_most / 60.0)
        forecast.learn({"-n": "1"}, 60.0)
    assert widths[0] > 1.5
    assert widths[10] < 1.5
    assert widths[-1] < 1.1


def test_a_forecast_is_the_same_whenever_it_is_asked() -> None:
    DICE.seed(6)
    jobs = grid() * 3
    DICE.shuffle(jobs)
    often, once = Forecast(), Forecast()
    for arguments, seconds in jobs:
        often.learn(arguments, seconds)
        often.expect(arguments)
        once.learn(arguments, seconds)
    assert [often.expect(arguments) for arguments, _ in jobs] == [once.expect(a) for a, _ in jobs]


def test_a_million_jobs_are_learned_from_some_hundreds_of_them() -> None:
    forecast, entries = Forecast(), []
    modes = ("a", "b")
    for index in range(200_000):
        mode = modes[index % 2]
        forecast.learn({"mode": mode, "i": str(index)}, 10.0 if mode == "a" else 100.0)
        entries.append(len(forecast._sample) + len(forecast._newest))
    assert max(entries) <= 384 + 96
    assert min(entries[1000:]) >= 192 + 96  # and does not keep step with the modes:
    assert [expected(forecast, {"mode": m, "i": "1"}).seconds for m in modes] == [
        pytest.approx(10.0, rel=0.02),
        pytest.approx(100.0, rel=0.02),
    ]


@pytest.mark.parametrize("jobs", [1_000_000, 1_200_000, 1_202_000])
def test_the_sum_over_a_million_jobs_looks_at_some_hundreds_not_in_step_with_the_sweep(jobs: int) -> None:
    forecast = taught([({"-n": str(n)}, float(n)) for n in (1, 2, 3, 4) for _ in range(50)])
    asked = []

    def arguments(job: int) -> Arguments:
        asked.append(job)
        return {"-n": str(job % 4 + 1)}

    work = forecast.total(range(jobs), arguments)
    assert work is not None
    assert work.seconds == pytest.approx(2.5 * jobs, rel=0.03)
    assert 4.0 <= work.longest < 5.0
    assert len(asked) == len(set(asked)) == 600
    assert min(asked) < 4000
    assert max(asked) > jobs - 4000


def test_no_work_is_none_and_unknown_work_is_unknown() -> None:
    assert Forecast().total((), lambda job: {}) == Work(0.0, 0.0, 0)
    assert Forecast().total((1, 2), lambda job: {}) is None


def test_the_newest_jobs_are_always_heeded() -> None:
    forecast = taught([({"v": "old"}, 10.0) for _ in range(20_000)])
    for _ in range(1100):
        forecast.learn({"v": "new"}, 1000.0)
    assert expected(forecast, {"v": "new"}).seconds == pytest.approx(1000.0, rel=0.1)
    assert expected(forecast, {"v": "old"}).seconds == pytest.approx(10.0, rel=0.1)


def test_a_job_that_runs_longer_than_expected_still_needs_a_while() -> None:
    forecast = taught([({}, 100.0)] * 50)
    left = [forecast.left({}, ran) for ran in (0.0, 60.0, 1000.0)]
    assert left == [pytest.approx(100.0, rel=0.02), pytest.approx(40.0, rel=0.05), pytest.approx(100.0)]
    assert Forecast().left({}, 5.0) is None


# --- what the jobs file says ---


def by_column(arguments: Arguments) -> float:
    return float(arguments["t"] or 0)


def test_what_is_given_holds_until_a_few_jobs_have_succeeded() -> None:
    forecast = Forecast(by_column)
    assert forecast.expect({"t": "90"}) == Expected(90.0, 90.0, 90.0)
    assert forecast.left({"t": "90"}, 60.0) == pytest.approx(30.0)
    for _ in range(4):
        forecast.learn({"t": "90"}, 9.0)
    assert forecast.expect({"t": "90"}) == Expected(90.0, 90.0, 90.0)
    forecast.learn({"t": "90"}, 9.0)
    assert expected(forecast, {"t": "90"}).seconds == pytest.approx(9.0, rel=0.1)


def test_a_guess_that_is_wrong_by_a_factor_is_good_for_sizes_that_were_not_seen() -> None:
    DICE.seed(7)
    times = {f"part {i}": 10 * 1.7**i for i in range(20)}
    jobs = [({"part": part, "t": f"{t:.3f}"}, 3 * t * noise(0.1)) for part, t in times.items()]
    forecast = taught(jobs[:12], by_column)
    for arguments, seconds in jobs[12:]:
        found = expected(forecast, arguments)
        assert found.seconds == pytest.approx(seconds, rel=0.5)


def test_a_guess_that_is_wrong_for_some_is_put_right_for_them() -> None:
    DICE.seed(8)
    jobs: Jobs = [
        ({"k": k, "t": "60"}, (60 if k == "a" else 600) * noise(0.1)) for _ in range(40) for k in "ab"
    ]
    forecast = taught(jobs, by_column)
    assert expected(forecast, {"k": "a", "t": "60"}).seconds == pytest.approx(60, rel=0.15)
    assert expected(forecast, {"k": "b", "t": "60"}).seconds == pytest.approx(600, rel=0.15)


def test_a_guess_for_some_jobs_only_is_used_for_them_while_nothing_is_known() -> None:
    def sometimes(arguments: Arguments) -> float | None:
        return 50.0 if arguments["k"] == "a" else None

    forecast = Forecast(sometimes)
    assert forecast.expect({"k": "b"}) is None
    for _ in range(20):
        forecast.learn({"k": "a"}, 5.0)
        forecast.learn({"k": "b"}, 500.0)
    assert expected(forecast, {"k": "a"}).seconds == pytest.approx(5.0, rel=0.1)
    assert expected(forecast, {"k": "b"}).seconds == pytest.approx(500.0, rel=0.1)


# --- anything ---

VALUES = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.integers(-(10**30), 10**30).map(str),
    st.floats().map(str),
    st.sampled_from(["true", "false", "1e308", "-1e308", "1e-320", "0", "١٢", "1_000", "inf", "nan", ""]),
)
ROWS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(["a", "b", "-c"]), VALUES),
        st.floats(min_value=-1, max_value=1e9) | st.sampled_from([0.0, float("nan"), float("inf"), 1.0]),
    ),
    max_size=40,
)


@given(ROWS, st.dictionaries(st.sampled_from(["a", "b", "-c", "d"]), VALUES))
def test_whatever_is_learned_a_forecast_is_a_number_that_makes_sense(
    jobs: list[tuple[dict[str, str | None], float]], asked: dict[str, str | None]
) -> None:
    forecast = taught(jobs)
    seen = [seconds for _, seconds in jobs if seconds >= 0 and isfinite(seconds)]
    assert forecast.learned == len(seen)
    for arguments in [asked, *(arguments for arguments, _ in jobs)]:
        found = forecast.expect(arguments)
        assert (found is None) == (len(seen) < 3)
        if found is not None:
            assert 0 < found.seconds <= found.at_most
            assert found.seconds <= 20 * 10_001 * max(0.001, *seen)
            assert found.at_most <= 1001 * found.seconds


def test_numbers_are_read_as_python_does() -> None:
    texts = ("1e3", "0.1", "-.5", "07", " 4 ", "", "x", "nan", "inf", "1e999", None)
    assert [number(text) for text in texts] == [1000.0, 0.1, -0.5, 7.0, 4.0, *[None] * 6]


@pytest.mark.parametrize(
    ("freedom", "value"), [(3, 2.353), (5, 2.015), (10, 1.812), (30, 1.697), (1e9, 1.645)]
)
def test_the_quantiles_are_those_of_the_tables(freedom: float, value: float) -> None:
    assert student95(freedom) == pytest.approx(value, rel=0.01)


def test_what_is_found_is_what_made_the_times() -> None:
    DICE.seed(9)
    jobs = powers()
    model = regression.fit([arguments for arguments, _ in jobs], [log(seconds) for _, seconds in jobs])
    assert {(term.column, term.logarithmic) for term in model.terms[:2]} == {("--n", True), ("--eps", True)}
    errors = [model.estimate(arguments).log - log(seconds) for arguments, seconds in jobs]
    assert median(map(abs, errors)) < 0.1
