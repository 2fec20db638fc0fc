"""`hosts`: what each host may run now, why, and when that changes; every kind of host, any width."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from pisa_fab.calendar import Window
from pisa_fab.events import (
    AttemptStarted,
    Event,
    HostLost,
    HostQuarantined,
    HostReady,
    HostReleased,
    HostUnusable,
    JobRecord,
    JobsAdded,
    JobsPaused,
    RunClosed,
    RunOpened,
    SlotsChanged,
)
from pisa_fab.history import History
from pisa_fab.hosts import as_json, describe
from pisa_fab.model import Cluster, Host, Policy

ZONE = ZoneInfo("Europe/Berlin")
NIGHT = Window(begin=22 * 60, end=6 * 60 + 30, weekdays=frozenset(range(5)), slots=12)
PC = Host("pc01", slots=3, windows=(NIGHT,), zone=ZONE)


def at(text: str) -> float:
    """Give the Unix time of a time on the wall clock of the pool."""
    return datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()


EVENING = at("2026-11-24 23:10")  # a Tuesday


def history_of(*events: Event, now: float = EVENING) -> History:
    """Give what a run amounts to in which all this has just happened."""
    history = History()
    records = [JobRecord(f"{n:016x}", ("s.py", str(n)), {"-n": str(n)}) for n in range(20)]
    opened = RunOpened("1", "head", 1, range(20), Policy(retries=2))
    for event in (JobsAdded(0, records), opened, *events):
        history.apply(now, event, now)
    return history


def ready(host: str, slots: int = 12) -> HostReady:
    return HostReady(host, slots, "3.11", 4, host)


def lines(*hosts: Host, history: History | None = None, now: float = EVENING, width: int = 100) -> list[str]:
    """Give the table's rows without its head and its sum."""
    shown = list(describe(Cluster(hosts), history, now, width))
    assert all(len(line) <= width and line == line.rstrip() for line in shown)
    assert shown[0].split()[:2] == ["host", "slots"]
    return shown[1 : shown.index("")]


def row(host: Host, history: History | None = None, now: float = EVENING) -> list[str]:
    """Give the cells of the only row."""
    [line] = lines(host, history=history, now=now, width=200)
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


# -- the calendar alone ----------------------------------------------------------------------------------


def test_in_a_window() -> None:
    assert row(PC) == ["pc01", "12", "window mon-fri 22:00-06:30", "06:30, in 7 h 20 min: 3 slots"]


def test_outside_the_windows() -> None:
    assert row(PC, now=at("2026-11-24 21:00:00")) == [
        *("pc01", "3", "outside the windows", "22:00, in 60 min: 12 slots")
    ]


def test_without_windows() -> None:
    assert row(Host("pc01", slots=2)) == ["pc01", "2", "at all times", "-"]


def test_a_change_on_another_day_has_its_name_and_a_later_one_its_date() -> None:
    assert row(PC, now=at("2026-11-28 12:00"))[-1] == "mon 22:00, in 2 d 10 h: 12 slots"
    holiday = Window(dates=((datetime(2026, 12, 24).date(), datetime(2027, 1, 6).date()),), slots=1)
    closed = row(replace(PC, windows=(holiday,)))
    assert closed == ["pc01", "3", "outside the windows", "2026-12-24 00:00, in 29 d 1 h: 1 slot"]


def test_the_clock_is_that_of_the_pool_across_a_change_of_summer_time() -> None:
    host = replace(PC, windows=(replace(NIGHT, weekdays=frozenset(range(7))),))
    assert row(host, now=at("2026-10-25 00:30"))[-1] == "06:30, in 7 h 00 min: 3 slots"
    assert row(replace(host, zone=ZoneInfo("America/New_York")))[-1] == "22:00, in 4 h 50 min: 12 slots"


def test_a_change_of_nice_alone() -> None:
    host = Host("pc01", slots=3, windows=(replace(NIGHT, slots=None, nice=5),), zone=ZONE)
    assert row(host, now=at("2026-11-24 21:00"))[-1] == "22:00, in 60 min: nice 5"
    assert row(host)[-1] == "06:30, in 7 h 20 min: nice as the jobs file says"


def test_a_run_that_is_over_says_nothing_of_now() -> None:
    history = history_of(ready("pc01"), RunClosed("finished"))
    assert lines(PC, history=history) == lines(PC)
    assert list(describe(Cluster((PC,)), History(), EVENING, 80))[-1] == (
        "1 host may run 12 jobs at once now; no run is at work"
    )


# -- a run at work ---------------------------------------------------------------------------------------


def test_a_host_at_work() -> None:
    history = history_of(ready("pc01"), AttemptStarted(0, 1, "pc01"), AttemptStarted(1, 1, "pc01"))
    assert row(PC, history) == [
        *("pc01", "12", "2", "0", "window mon-fri 22:00-06:30", "06:30, in 7 h 20 min: 3 slots")
    ]


def test_somebody_else_needs_it() -> None:
    history = history_of(
        ready("pc01"),
        AttemptStarted(0, 1, "pc01"),
        AttemptStarted(1, 1, "pc01"),
        SlotsChanged("pc01", 0, "somebody is active at tty2"),
        JobsPaused("pc01", (0,)),
    )
    assert row(PC, history) == ["pc01", "0", "1", "1", "somebody is active at tty2", "when that ends"]


def test_what_holds_a_host_is_not_said_where_the_calendar_gives_it_no_more() -> None:
    history = history_of(ready("pc01"), SlotsChanged("pc01", 3, "load of others"))
    assert row(PC, history, at("2026-11-24 21:00"))[-2] == "outside the windows"


@pytest.mark.parametrize(
    ("events", "slots", "why", "changes"),
    [
        ([], "12", "not called yet", "06:30, in 7 h 20 min: 3 slots"),
        ([SlotsChanged("pc01", 3, "")], "12", "not called yet", "06:30, in 7 h 20 min: 3 slots"),
        ([ready("pc01"), HostLost("pc01", "silent")], "0", "lost: silent", "when it answers"),
        ([HostUnusable("pc01", "no venv")], "0", "unusable: no venv", "-"),
        ([ready("pc01"), HostReleased("pc01", "not named")], "0", "released: not named", "-"),
        ([HostUnusable("pc01", "\x1b[2J")], "0", "unusable: \N{REPLACEMENT CHARACTER}[2J", "-"),
    ],
)
def test_a_host_that_does_not_work(events: list[Event], slots: str, why: str, changes: str) -> None:
    assert row(PC, history_of(*events)) == ["pc01", slots, "0", "0", why, changes]


def test_a_host_that_is_not_trusted() -> None:
    cells = row(PC, history_of(ready("pc01"), HostQuarantined("pc01", "fails all jobs")))
    assert cells[:4] == ["pc01", "0", "0", "0"]
    assert cells[4].startswith("quarantined: fails all jobs; tried again in ")


# -- many hosts ------------------------------------------------------------------------------------------


def test_34_hosts_fit_a_screen() -> None:
    pool = [replace(PC, name=f"pc{n:02d}") for n in range(1, 35)]
    history = history_of(*(ready(host.name) for host in pool[:30]), HostLost("pc07", "silent"))
    shown = list(describe(Cluster(tuple(pool)), history, EVENING, 80))
    assert [line.split("  ")[0] for line in shown[1:] if line[:2] == "pc"] == [
        *("pc[01-06,08-30]", "pc07", "pc[31-34]")
    ]
    assert len(shown) <= 10
    assert shown[-1] == "34 hosts may run 396 jobs at once now; 0 run, 0 stand still"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_cut_off_where_there_is_little_room(width: int) -> None:
    hosts = [Host(f"pc{n}.physik.example.org", slots=n, windows=(NIGHT,), zone=ZONE) for n in range(3)]
    reason = "no such venv here: /home/anna/a/rather/long/path/to/some/environment"
    history = history_of(ready("pc0.physik.example.org"), HostUnusable("pc1.physik.example.org", reason))
    whole = lines(*hosts, history=history, width=1000)
    shown = lines(*hosts, history=history, width=width)
    assert len(whole) == 3
    assert sorted("".join(shown).replace(" ", "")) == sorted("".join(whole).replace(" ", ""))


# -- for programs ----------------------------------------------------------------------------------------


def test_json_says_it_all() -> None:
    history = history_of(
        ready("pc01"),
        AttemptStarted(0, 1, "pc01"),
        SlotsChanged("pc01", 1, "somebody is active at tty2"),
        JobsPaused("pc01", (0,)),
    )
    data = json.loads(as_json(Cluster((PC, Host("pc02"))), history, EVENING))
    first, second = data.pop("hosts")
    assert data == {"time": EVENING, "at_work": True, "slots": 2, "running": 0, "paused": 1}
    assert first == {
        "host": "pc01",
        "state": "ready",
        "slots": 1,
        "running": 0,
        "paused": 1,
        "why": "somebody is active at tty2",
        "allowed": {"slots": 12, "nice": None},
        "change_at": at("2026-11-25 06:30"),
        "then": {"slots": 3, "nice": None},
    }
    assert (second["state"], second["why"], second["then"]) == ("not called", "not called yet", None)
    assert json.loads(as_json(Cluster((PC,)), None, EVENING))["hosts"][0]["state"] is None
