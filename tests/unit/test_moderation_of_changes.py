"""`moderation`: hosts that leave, come back or are called while their cluster file changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pisa_fab.calendar import Window
from pisa_fab.events import Event, SlotsChanged
from pisa_fab.link import Message
from pisa_fab.model import Host
from pisa_fab.moderation import Moderation
from pisa_fab.scheduler import Scheduler

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
DAY = 86400.0
QUIET: Message = {"busy": "", "full": "", "paused": []}
BUSY: Message = {"busy": "ada is active at tty1", "full": "", "paused": []}
GONE = "no longer in the cluster file"


class Bench:
    """A moderation, what it journals and what it sends; its clock is set by hand."""

    def __init__(self, *hosts: Host) -> None:
        self.now = NOON
        self.events: list[Event] = []
        self.sent: list[tuple[str, Message]] = []
        self.scheduler = Scheduler()
        self.moderation = Moderation(
            self.scheduler,
            19,
            self.events.append,
            lambda name, message: self.sent.append((name, message)),
            lambda text: None,
            clock=lambda: self.now,
        )
        for host in hosts:
            self.moderation.take(host, self.now)

    def ready(self, name: str, state: Message = QUIET) -> int:
        """Let a host come to work; give its slots."""
        slots = self.moderation.came(name, state)
        self.moderation.settle(name, state)
        return slots


def test_a_host_that_is_taken_back_gets_its_slots_again() -> None:
    host = Host("pc01", slots=3)
    bench = Bench(host)
    assert bench.ready("pc01") == 3
    bench.moderation.dismiss("pc01", GONE)
    bench.moderation.settle("pc01", BUSY)
    bench.moderation.settle("pc01", QUIET)
    bench.moderation.take(replace(host, slots=2), bench.now)
    assert bench.events == [SlotsChanged("pc01", 0, GONE), SlotsChanged("pc01", 2, "")]


def test_a_host_that_is_to_go_gets_nothing_when_the_clock_is_set_back() -> None:
    bench = Bench(Host("pc01", slots=3))
    bench.ready("pc01")
    bench.moderation.look(bench.now)
    bench.moderation.dismiss("pc01", GONE)
    bench.now -= 3600
    bench.moderation.look(bench.now)
    assert bench.events == [SlotsChanged("pc01", 0, GONE)]


def test_a_file_that_changed_during_the_call_reaches_the_worker() -> None:
    bench = Bench(Host("pc01", slots=3))
    closing = Window(begin=13 * 60, end=14 * 60, slots=0)
    bench.moderation.take(Host("pc01", slots=3, windows=(closing,)), bench.now)
    assert bench.sent == []
    bench.ready("pc01")
    [(name, message)] = bench.sent
    assert name == "pc01"
    assert [slots for _, slots, _ in message["phases"]][:3] == [3, 0, 3]


def test_a_closing_that_is_weeks_away_is_known_when_it_comes_near() -> None:
    begin = datetime(2026, 12, 24, tzinfo=UTC)
    dates = ((begin.date(), (begin + timedelta(days=3)).date()),)
    bench = Bench(Host("pc01", slots=3, windows=(Window(dates=dates, slots=0),)))
    assert not bench.scheduler._horizons
    while bench.now < begin.timestamp() - 2 * DAY:
        bench.now += 3600
        bench.moderation.look(bench.now)
    assert "pc01" in bench.scheduler._horizons
