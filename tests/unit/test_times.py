"""`expect` and `deadline` of a jobs file: what they come to for a job, and on a clock."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from pisa_fab.model import Batch
from pisa_fab.specs import load_batch
from pisa_fab.specs.times import LocalTime

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fib.py").touch()


def batch_of(body: str) -> Batch:
    path = Path("jobs.yaml")
    path.write_text(f"script: fib.py\noutput: run\n{body}\n")
    return load_batch(path)


def seconds_of(batch: Batch) -> list[float | None]:
    assert batch.expect is not None
    return [batch.expect.seconds(batch.plan.job(i, i).arguments) for i in range(len(batch.plan))]


def test_nothing_said_is_nothing_known() -> None:
    batch = batch_of("sweep: {-n: [1]}")
    assert (batch.expect, batch.deadline) == (None, None)


@pytest.mark.parametrize(
    ("written", "seconds"), [("90", 90.0), ("15m", 900.0), ("1.5 h", 5400.0), ("'1d'", 86400.0)]
)
def test_one_duration_holds_for_every_job(written: str, seconds: float) -> None:
    assert seconds_of(batch_of(f"expect: {written}\nsweep: {{-n: [1, 2]}}")) == [seconds] * 2


def test_a_column_says_it_for_each_job() -> None:
    batch = batch_of("sweep: [{-n: [1, 2, 3], t: [90, 15m, 2h]}, {-m: [a, b]}]\nexpect: '{t}'")
    assert seconds_of(batch) == [90.0, 90.0, 900.0, 900.0, 7200.0, 7200.0]


def test_a_column_that_is_only_expected_is_no_part_of_a_job() -> None:
    with_times = batch_of("sweep: [{-n: [1, 2], t: [90, 15m]}]\nexpect: '{t}'")
    without = batch_of("sweep: [{-n: [1, 2]}]")
    assert with_times.plan.keys() == without.plan.keys()
    assert with_times.plan.job(1, 1).argv == without.plan.job(1, 1).argv


def test_texts_and_several_columns_make_a_duration() -> None:
    batch = batch_of("sweep: {h: [1, 2], unit: [m, h]}\nargs: '{h}{unit}'\nexpect: '{h}.5{unit}'")
    assert seconds_of(batch) == [90.0, 5400.0, 150.0, 9000.0]


def test_what_is_included_has_its_time_too() -> None:
    batch = batch_of("sweep: {t: [9]}\nargs: '{t}'\nexpect: '{t} s'\ninclude: [{t: 12}]")
    assert seconds_of(batch) == [9.0, 12.0]


def test_a_huge_sweep_is_not_gone_through() -> None:
    body = "max_jobs: 100000000000\nsweep: {-n: {from: 1, to: 100000}, -m: {from: 1, to: 1000}, t: [5, 6]}"
    batch = batch_of(f"{body}\nexpect: '{{t}}m'")
    assert batch.expect is not None
    assert batch.expect.seconds({"-n": "1", "-m": "1", "t": "6"}) == 360.0


def unix(batch: Batch, now: datetime, zone: ZoneInfo = BERLIN) -> datetime:
    assert batch.deadline is not None
    return datetime.fromtimestamp(batch.deadline.unix(zone, now.timestamp()), UTC)


@pytest.mark.parametrize("written", ["2026-12-01 07:00", "'2026-12-01T07:00'", "2026-12-01 7:00"])
def test_a_date_and_a_time_is_one_moment_in_each_zone(written: str) -> None:
    batch = batch_of(f"deadline: {written}")
    assert str(batch.deadline) == "2026-12-01 07:00"
    for now in (datetime(2020, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)):
        assert unix(batch, now) == datetime(2026, 12, 1, 6, tzinfo=UTC)
        assert unix(batch, now, ZoneInfo("UTC")) == datetime(2026, 12, 1, 7, tzinfo=UTC)


def test_a_time_alone_is_the_next_time_that_it_is() -> None:
    batch = batch_of("deadline: 07:00")
    assert str(batch.deadline) == "07:00"
    evening = datetime(2026, 11, 22, 22, 30, tzinfo=BERLIN)
    assert unix(batch, evening) == datetime(2026, 11, 23, 6, tzinfo=UTC)
    night = datetime(2026, 11, 23, 6, 59, tzinfo=BERLIN)
    assert unix(batch, night) == datetime(2026, 11, 23, 6, tzinfo=UTC)
    just_then = datetime(2026, 11, 23, 7, 0, tzinfo=BERLIN)
    assert unix(batch, just_then) == datetime(2026, 11, 24, 6, tzinfo=UTC)


def test_over_a_change_of_the_clock_it_is_what_the_clock_shows() -> None:
    evening = datetime(2026, 3, 28, 22, tzinfo=BERLIN)
    assert unix(batch_of("deadline: 07:00"), evening) == datetime(2026, 3, 29, 5, tzinfo=UTC)
    # 2:30 is skipped in March, and comes twice in October.
    assert unix(batch_of("deadline: 2026-03-29 02:30"), evening) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert unix(batch_of("deadline: 2026-10-25 02:30"), evening) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def test_between_the_two_times_that_a_clock_shows_it_the_next_one_is_that_of_tomorrow() -> None:
    twice = LocalTime(None, 2, 30)
    between = datetime(2026, 10, 25, 0, 45, tzinfo=UTC).timestamp()
    assert datetime.fromtimestamp(twice.unix(BERLIN, between), UTC) == datetime(
        2026, 10, 26, 1, 30, tzinfo=UTC
    )
