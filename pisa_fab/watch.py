"""A run watched by a person while another process works on it: a picture on a terminal, lines elsewhere.

What `status` says once, again and again until the run is over. All that is shown comes from the journal and
the lock; nothing is changed, and whoever watches can leave and come back, on any PC, as often as they like.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from pisa_fab import lock
from pisa_fab.errors import EXIT_FAILED, EXIT_OK
from pisa_fab.events import AttemptEnded, Event, JobState
from pisa_fab.follow import HeadFollower, JournalFollower
from pisa_fab.history import History
from pisa_fab.invocation import as_typed
from pisa_fab.layout import Layout
from pisa_fab.model import job_name
from pisa_fab.names import listed
from pisa_fab.progress import PlainView, arguments, brief, duration, harmless, notable, plural, standing
from pisa_fab.status import ending, exit_code, past
from pisa_fab.why import Use, uses, waiting

LOOK_EVERY = 1.0  # seconds
LINE_EVERY = 5.0  # seconds between two lines where there is no terminal
MOST_NEWS = 10  # lines that one look may add
KEPT_NEWS = 5  # lines that are shown again when the terminal got another size
SILENT = 15.0  # seconds without a sign of life of the head after which that is said
ABSENT = 2  # looks in a row that find no head, after which it is believed
FEWEST_ROWS = 4  # of the table of hosts, however low the terminal is


def watch(layout: Layout, *, out: TextIO | None = None) -> int:
    """Show how a run goes until it is over, and give an exit code. Raises RunError.

    That of the run, see `status.exit_code`; 1 if nothing was submitted yet; 0 if the person leaves (Ctrl-C).
    """
    out = sys.stdout if out is None else out
    watched = Watched(layout)
    if watched.look():
        return finish(watched, out)
    console = Console(file=out, highlight=False, markup=False, emoji=False)
    lines = not out.isatty() or console.is_dumb_terminal
    shown = Lines(out) if lines else Picture(console)
    try:
        with shown:
            over = False
            while not over:
                shown.show(watched)
                time.sleep(LOOK_EVERY)
                over = watched.look()
            shown.show(watched)
    except KeyboardInterrupt:
        out.write(f"{layout.root.name}: the run goes on; look again with: {as_typed('status', '--watch')}\n")
        out.flush()
        return EXIT_OK
    return finish(watched, out)


def finish(watched: Watched, out: TextIO) -> int:
    """Say how a run ended that is over, and give its exit code."""
    history = watched.history
    if history.opened is None:
        out.write(f"{watched.layout.root.name}: not submitted yet\n")
        return EXIT_FAILED
    for line in ending(history, watched.layout):
        out.write(f"{harmless(line)}\n")
    out.flush()
    return exit_code(history)


class Watched:
    """A run that is looked at now and then.

    Attributes:
        layout: its paths.
        news: lines that the last look found, for a person.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.news: list[str] = []
        self._journal = JournalFollower(layout.journal, self._happened, spared=layout)
        self._head = HeadFollower(layout)
        self._begun = 0
        self._told_until = float("inf")  # what happened before somebody looked is no news
        self._told = PlainView()
        self._absent = 0

    @property
    def history(self) -> History:
        """What its journal amounts to."""
        return self._journal.history

    def look(self) -> bool:
        """Look, and say whether it is over."""
        self.news = []
        alive = self._head.look()
        self._journal.update()
        self._begun, self._told_until = self._journal.begun, self.history.last_at
        self._absent = 0 if alive else self._absent + 1
        if len(self.news) > MOST_NEWS:
            rest = len(self.news) - MOST_NEWS
            see = f"see all with: {as_typed('status', '--failed')}"
            self.news[MOST_NEWS:] = [f"... and {plural(rest, 'more line')}; {see}"]
        opened = self.history.opened
        if opened is None or self.history.closed is None:
            return self._absent >= (ABSENT if opened else 1)
        return not (alive and self._is_next())  # a head that has just begun has opened nothing yet

    def _is_next(self) -> bool:
        """Say whether the head that holds the run directory came after the one that closed the journal."""
        holder, opened = self._head.holder, self.history.opened
        if holder is None or opened is None:
            return True
        return (holder.head, holder.pid) != (opened.head, opened.pid) or holder.since > self.history.last_at

    def _happened(self, moment: float, event: Event) -> None:
        """Take note of an event, and of what to say of it, unless it was there before."""
        is_news = self._told.is_news(event)
        is_old = self._begun != self._journal.begun and moment <= self._told_until
        if is_news and not is_old and (line := notable(event) or self._failure(event)):
            self.news.append(line)

    def _failure(self, event: Event) -> str:
        """Say that a job has failed for good, if this event was that."""
        if not isinstance(event, AttemptEnded) or event.outcome.succeeded:
            return ""
        result = self.history.results.get(event.job)
        failed = self.history.scheduler.state(event.job) is JobState.FAILED
        if not failed or result is None or result.attempt != event.attempt:
            return ""
        how = f"{job_name(event.job)}: failed on {event.host}: {event.outcome.describe()}"
        what = arguments(self.history.records[event.job])
        return f"{how} ({what})" if what else how

    def at_work(self) -> str:
        """Say who works on it, and whether that shows signs of life."""
        if not self._head.alive:
            return past(self.history) if self.history.opened else "no head is at work"
        text = f"running on {lock.describe(self._head.holder)}"
        silence = self._head.silence
        return f"{text}; no sign of life for {duration(silence)}" if silence > SILENT else text

    def waiting(self) -> str:
        """Say how many jobs wait and why, "" if none does."""
        return waiting(self.history, head=self._head.alive, now=time.time())


class Lines:
    """Lines for a file or a pipe: what goes wrong at once, where it stands now and then if it moved."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self._said: object = None
        self._due = float("-inf")

    def __enter__(self) -> Lines:
        """Begin to show."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Stop showing."""

    def show(self, watched: Watched) -> None:
        """Show what is new."""
        lines = watched.news
        history = watched.history
        stands = (watched.at_work().partition(";")[0], history.scheduler.counts(), watched.waiting())
        if self._said is None:
            lines = [f"{watched.layout.root.name}: {watched.at_work()}", *lines]
        if stands != self._said and time.monotonic() >= self._due:
            self._said, self._due = stands, time.monotonic() + LINE_EVERY
            lines = [*lines, f"{time.strftime('%H:%M:%S')} {standing(history)}"]
        for line in lines:
            self.out.write(f"{harmless(line)}\n")
        self.out.flush()


class Picture:
    """A picture at the end of a terminal that is drawn anew; what goes wrong scrolls above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = self._begin()
        self._size = console.size
        self._recent: deque[str] = deque(maxlen=KEPT_NEWS)

    def _begin(self) -> Live:
        return Live(
            console=self.console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Picture:
        """Begin to show."""
        self._live.start()
        return self

    def __exit__(self, *problem: object) -> None:
        """Leave the last picture standing and give the terminal back."""
        self._live.stop()

    def show(self, watched: Watched) -> None:
        """Draw the picture anew."""
        news = watched.news
        if self.console.size != self._size:
            # The terminal has broken the lines in another way: where the old picture begins is not known.
            self._size = self.console.size
            self._live.stop()
            self.console.clear()
            self._live = self._begin()
            self._live.start()
            news = [*self._recent, *news]
        for line in news:
            self.console.print(Text(harmless(line)), soft_wrap=True)
        self._recent.extend(watched.news)
        self._live.update(picture(watched, self._size.height), refresh=True)


def picture(watched: Watched, height: int) -> RenderableType:
    """Put together what is shown in so many lines: who is at work, how far it is, what waits, the hosts."""
    history = watched.history
    scheduler = history.scheduler
    total = len(scheduler.jobs)
    bar = Progress(
        BarColumn(bar_width=None),
        TextColumn("{task.fields[standing]}", markup=False),
        auto_refresh=False,
        expand=True,
    )
    bar.add_task("", total=total, completed=total - scheduler.unfinished, standing=brief(history))
    name = f"{watched.layout.root.name}: {watched.at_work()}"
    parts: list[RenderableType] = [Text(name, no_wrap=True, overflow="ellipsis"), bar]
    if text := watched.waiting():
        parts.append(Text(harmless(text), no_wrap=True, overflow="ellipsis"))
    room = max(FEWEST_ROWS, height - len(parts) - 4)
    found = uses(history, time.time())
    if found:
        parts += [Text(), table_of(rows_of(found, room))]
    return Group(*parts, Text())  # a line for the ^C, which the terminal writes where the cursor stands


def rows_of(found: Sequence[Use], room: int) -> list[tuple[str, ...]]:
    """Give a row for each host or, where there is no room for so many, one for all that are well.

    Others get a row each as long as there is room; the last row says of the rest that there are some.
    """
    if len(found) <= room:
        return [row_of(use) for use in found]
    well = [use for use in found if use.state == "ready"]
    others = [use for use in found if use.state != "ready"]
    rows = [group_of(well, "ready")] if len(well) > 1 else [row_of(use) for use in well]
    left = room - len(rows)
    if len(others) <= left:
        return rows + [row_of(use) for use in others]
    rows += [row_of(use) for use in others[: left - 1]]
    return [*rows, group_of(others[left - 1 :], "not ready")]


def row_of(use: Use) -> tuple[str, ...]:
    """Give the cells of one host; slots are those that it has now."""
    host = use.host
    return (host.name, use.state, str(use.slots), str(use.running), str(host.done), use.reason)


def group_of(found: Sequence[Use], state: str) -> tuple[str, ...]:
    """Give the cells of several hosts."""
    numbers = (
        sum(use.slots for use in found),
        sum(use.running for use in found),
        sum(use.host.done for use in found),
    )
    names = listed([use.host.name for use in found])
    return (plural(len(found), "host"), state, *map(str, numbers), names)


def table_of(rows: Sequence[tuple[str, ...]]) -> Table:
    """Put rows under their headings; what is too long for the terminal is cut."""
    table = Table(box=None, pad_edge=False, expand=True, header_style="", padding=(0, 2, 0, 0))
    table.add_column("host", no_wrap=True, overflow="ellipsis", min_width=8, max_width=24)
    table.add_column("state", no_wrap=True)
    for heading in ("slots", "running", "done"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        style = "" if row[1] == "ready" else "yellow"
        table.add_row(*(Text(harmless(cell), style=style) for cell in row))
    return table
