"""How many jobs each host may run now, why, and when that changes: for people, and as JSON for programs.

What the cluster file allows is the calendar's; what became of the hosts is in the history of the run that is
at work, if one is. Hosts of which the same can be said share a row.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Any

from pisa_fab.calendar import DAY, DAY_NAMES
from pisa_fab.calendar import describe as hours
from pisa_fab.history import History
from pisa_fab.model import Cluster, Host
from pisa_fab.names import folded
from pisa_fab.progress import duration, harmless, plural
from pisa_fab.why import use_of

GAP = "  "
LEAST = 8  # columns of a cell that is wrapped
NOTHING = "-"
TITLES = ("host", "slots", "runs", "paused", "why", "changes")
NUMBERS = ("slots", "runs", "paused")
OF_A_RUN = ("runs", "paused")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a host stands now.

    Attributes:
        host: of the cluster file.
        state: that of `why.Use`, `not called` by the run at work, or "" where no run is.
        slots: how many jobs it may run.
        running, paused: how many it runs, and how many it was given that stand still.
        why: why it may run so many.
        change: when something else is allowed by the calendar, in Unix time; None for never.
        changes: when the slots change, for people.
    """

    host: Host
    state: str
    slots: int
    running: int
    paused: int
    why: str
    change: float | None
    changes: str


def standings(cluster: Cluster, history: History | None, now: float) -> list[Standing]:
    """Say where each host of the cluster file stands. `history` is of the run at work, None if none is."""
    if history is not None and (history.opened is None or history.closed is not None):
        history = None
    return [standing(host, history, now) for host in cluster.hosts]


def standing(host: Host, history: History | None, now: float) -> Standing:
    """Say where a host stands. All times are Unix times."""
    view = None if history is None else history.hosts.get(host.name)
    allowed, change = host.calendar.at(now), host.calendar.change_after(now)
    if history is None or view is None or not view.state:
        state, why = ("", by_calendar(host, now)) if history is None else ("not called", "not called yet")
        return Standing(host, state, allowed.slots, 0, 0, why, change, coming(host, change, now))
    use = use_of(history, view, now)
    why, changes = by_calendar(host, now), coming(host, change, now)
    if use.state not in ("ready", "held"):
        why, changes = f"{use.state}: {use.reason}", UNTIL.get(use.state, "")
    elif view.held and use.slots < allowed.slots:
        why, changes = view.held, "when that ends"
    running = max(0, use.running - view.paused)
    return Standing(host, use.state, use.slots, running, view.paused, why, change, changes)


UNTIL = {"lost": "when it answers", "probed": "when a job succeeds"}


def by_calendar(host: Host, now: float) -> str:
    """Name what in the cluster file decides how many jobs a host may run."""
    if not host.windows:
        return "at all times"
    window = host.calendar.at(now).window
    return "outside the windows" if window is None else f"window {hours(host.windows[window])}"


def coming(host: Host, change: float | None, now: float) -> str:
    """Say what changes by the calendar, and when: `06:30, in 3 h 20 min: 3 slots`; "" for nothing."""
    if change is None:
        return ""
    before, after = host.calendar.at(now), host.calendar.at(change)
    what = plural(after.slots, "slot")
    if after.slots == before.slots:
        what = "nice as the jobs file says" if after.nice is None else f"nice {after.nice}"
    return f"{clock(host, change, now)}, in {duration(change - now)}: {what}"


def clock(host: Host, time: float, now: float) -> str:
    """Write a coming time on the wall clock of a host: `06:30`, `mon 06:30` or `2026-12-24 06:30`."""
    local = datetime.fromtimestamp(time, host.zone)
    if time - now < DAY:
        return f"{local:%H:%M}"
    if time - now < 6 * DAY:
        return f"{DAY_NAMES[local.weekday()]} {local:%H:%M}"
    return f"{local:%Y-%m-%d %H:%M}"


# -- for people ---------------------------------------------------------------------------------------------


def describe(cluster: Cluster, history: History | None, now: float, width: int) -> Iterator[str]:
    """Give the lines of a table, none longer than `width`, and one that sums it up."""
    found = standings(cluster, history, now)
    at_work = any(one.state for one in found)
    titles = [title for title in TITLES if at_work or title not in OF_A_RUN]
    rows: dict[tuple[str, ...], list[str]] = {}
    for one in found:
        cells = {
            "slots": str(one.slots),
            "runs": str(one.running),
            "paused": str(one.paused),
            "why": harmless(one.why),
            "changes": one.changes or NOTHING,
        }
        rows.setdefault(tuple(cells[title] for title in titles[1:]), []).append(one.host.name)
    yield from table(titles, [(folded(names), *cells) for cells, names in rows.items()], width)
    yield ""
    yield from textwrap.wrap(summary(found, at_work=at_work), width)


def summary(found: Sequence[Standing], *, at_work: bool) -> str:
    """Sum it up: `34 hosts may run 102 jobs at once now; 96 run, 2 stand still`."""
    slots = sum(one.slots for one in found)
    text = f"{plural(len(found), 'host')} may run {plural(slots, 'job')} at once now"
    if not at_work:
        return f"{text}; no run is at work"
    running, paused = sum(one.running for one in found), sum(one.paused for one in found)
    return f"{text}; {running} run, {paused} stand still"


def table(titles: Sequence[str], rows: Sequence[tuple[str, ...]], width: int) -> Iterator[str]:
    """Give a table line by line; texts are wrapped in their columns, numbers stand on the right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    texts = [index for index, title in enumerate(titles) if title not in NUMBERS]
    while sum(widths) + len(GAP) * (len(titles) - 1) > width:
        widest = max(texts, key=lambda index: widths[index])
        if widths[widest] <= LEAST:
            break
        widths[widest] -= 1
    for row in (titles, *rows):
        columns = [textwrap.wrap(cell, columns) for cell, columns in zip(row, widths, strict=True)]
        for cells in zip_longest(*columns, fillvalue=""):
            aligned = (
                cell.rjust(columns) if title in NUMBERS else cell.ljust(columns)
                for title, cell, columns in zip(titles, cells, widths, strict=True)
            )
            yield GAP.join(aligned).rstrip()


# -- for programs -------------------------------------------------------------------------------------------


def as_json(cluster: Cluster, history: History | None, now: float) -> str:
    """Give the same as one JSON object; times are Unix times."""
    found = standings(cluster, history, now)
    data = {
        "time": now,
        "at_work": any(one.state for one in found),
        "slots": sum(one.slots for one in found),
        "running": sum(one.running for one in found),
        "paused": sum(one.paused for one in found),
        "hosts": [as_json_object(one, now) for one in found],
    }
    return json.dumps(data, indent=1)


def as_json_object(one: Standing, now: float) -> dict[str, Any]:
    """Give where a host stands, and what the calendar allows it now and next."""
    calendar = one.host.calendar
    allowed, then = calendar.at(now), None if one.change is None else calendar.at(one.change)
    return {
        "host": one.host.name,
        "state": one.state or None,
        "slots": one.slots,
        "running": one.running,
        "paused": one.paused,
        "why": one.why,
        "allowed": {"slots": allowed.slots, "nice": allowed.nice},
        "change_at": one.change,
        "then": None if then is None else {"slots": then.slots, "nice": then.nice},
    }
