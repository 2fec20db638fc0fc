"""How the reports of `check` look: a table with what is wrong and what helps below it, or one JSON object.

What is wrong is decided in `diagnosis`.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from pisa_fab.diagnosis import Entry, HostReport, problems, short_names, size_text, warnings
from pisa_fab.errors import EXIT_FAILED, EXIT_NO_HOST, EXIT_OK
from pisa_fab.invocation import as_typed
from pisa_fab.names import listed
from pisa_fab.progress import harmless, plural

GAP = 2  # columns between two cells
NO_LIMIT = 1000  # columns, where nobody sees the end of a line
NOTHING = "-"
LEFT, RIGHT = "<", ">"
DROPPED = ("key", "clock", "quota", "ms", "people", "load")  # what goes first where there is no room

Cell = tuple[str, str]  # a text, and its style in the words of rich


@dataclass(frozen=True)
class Column:
    """A column of the table: how a report becomes a cell.

    Attributes:
        title, align: of the column.
        cell: gives the cell.
        least: how narrow it may be made, 0 if it may not.
    """

    title: str
    align: str
    cell: Callable[[HostReport], Cell]
    least: int = 0


def plain(text: str) -> Cell:
    """Give a cell without a style, or an empty one."""
    return (text, "") if text else (NOTHING, "dim")


def verdict(report: HostReport) -> Cell:
    """Say whether a host can work."""
    return report.verdict, "green" if report.can_work else "bold red"


def connect_time(report: HostReport) -> Cell:
    """Say how long it took to connect."""
    return plain("" if report.connect_ms is None else f"{report.connect_ms:.0f}")


def key(report: HostReport) -> Cell:
    """Name the kind of the host's key as ssh-keygen does: `ed25519`, `rsa`, `ecdsa`."""
    return plain(report.key.removeprefix("ssh-").removeprefix("sk-").split("-")[0])


def python(report: HostReport) -> Cell:
    """Give the version of Python."""
    return (report.python, "yellow") if report.has_other_python else plain(report.python)


def sees(report: HostReport) -> Cell:
    """Say whether the host and we see each other's files."""
    if report.sees is None:
        return plain("")
    return ("yes", "") if report.sees else ("no", "bold red")


def free(report: HostReport) -> Cell:
    """Say how much disk is free."""
    if report.free is None:
        return plain("")
    return size_text(report.free), "yellow" if report.has_full_disk else ""


def quota(report: HostReport) -> Cell:
    """Say how much of the quota is used."""
    if report.quota_used is None or report.quota_limit is None:
        return plain("")
    text = f"{size_text(report.quota_used)}/{size_text(report.quota_limit)}"
    return text, "yellow" if report.has_used_quota else ""


def load(report: HostReport) -> Cell:
    """Give load and number of cores."""
    if report.load is None or report.cores is None:
        return plain("")
    return f"{report.load:.1f}/{report.cores}", "yellow" if report.is_busy else ""


def people(report: HostReport) -> Cell:
    """Say who is logged in: how many, and their names."""
    if not report.people:
        return plain("" if report.people is None else "0")
    names = ",".join(report.people)
    return plain(names if len(report.people) == 1 else f"{len(report.people)}: {names}")


def clock_offset(report: HostReport) -> Cell:
    """Say how far the clock is off."""
    if report.clock_offset is None:
        return plain("")
    offset = report.clock_offset
    text = f"{offset:+.1f}" if abs(offset) < 999 else f"{offset:+.0f}"
    return "0" if abs(offset) < 0.05 else text, "yellow" if report.has_wrong_clock else ""


COLUMNS = (
    Column("verdict", LEFT, verdict),
    Column("ms", RIGHT, connect_time),
    Column("key", LEFT, key),
    Column("Python", LEFT, python),
    Column("sees", LEFT, sees),
    Column("free", RIGHT, free),
    Column("quota", RIGHT, quota),
    Column("load", RIGHT, load),
    Column("clock", RIGHT, clock_offset),
    Column("people", LEFT, people, least=6),
)


# -- the table ----------------------------------------------------------------------------------------------


def table(reports: Sequence[HostReport], width: int) -> Iterator[list[Cell]]:
    """Give the lines of the table, in pieces with a style each; no line is longer than `width`."""
    names = short_names([report.host for report in reports])
    host = Column("host", LEFT, lambda report: (names[report.host], ""), least=8)
    columns = [host, *(column for column in COLUMNS if column.title != "quota" or any_quota(reports))]
    cells = {column.title: [column.cell(report) for report in reports] for column in columns}
    widths = {title: max(len(title), *(len(text) for text, _ in cells[title])) for title in cells}
    fit(columns, widths, width)
    shown = [column for column in columns if column.title in widths]
    yield line([(column.title, "bold") for column in shown], shown, widths)
    for number in range(len(reports)):
        yield line([cells[column.title][number] for column in shown], shown, widths)


def any_quota(reports: Sequence[HostReport]) -> bool:
    """Say whether there is a quota anywhere."""
    return any(report.quota_limit is not None for report in reports)


def fit(columns: Sequence[Column], widths: dict[str, int], width: int) -> None:
    """Make columns narrower that may be, then drop some, until a line is no longer than `width`."""
    for dropped in ("", *DROPPED):
        widths.pop(dropped, None)
        for column in reversed(columns):
            excess = sum(widths.values()) + GAP * (len(widths) - 1) - width
            if excess > 0 and column.least and column.title in widths:
                natural = widths[column.title]
                widths[column.title] = max(min(natural, column.least), natural - excess)
        if sum(widths.values()) + GAP * (len(widths) - 1) <= width:
            return


def line(cells: Sequence[Cell], columns: Sequence[Column], widths: dict[str, int]) -> list[Cell]:
    """Put cells into a line."""
    pieces: list[Cell] = []
    for (text, style), column in zip(cells, columns, strict=True):
        width = widths[column.title]
        short = text if len(text) <= width else text[: width - 1] + "…"
        blanks = " " * (width - len(short))
        if pieces:
            pieces.append((" " * GAP, ""))
        pieces += [(short, style), (blanks, "")] if column.align == LEFT else [(blanks, ""), (short, style)]
    while pieces and not pieces[-1][0].strip():
        pieces.pop()
    return pieces


# -- what is below it ---------------------------------------------------------------------------------------


def remarks(reports: Sequence[HostReport], width: int) -> Iterator[list[Cell]]:
    """Give a few lines for each trouble and each warning: what it is, and what helps."""
    names = short_names([report.host for report in reports])
    for kind, style, entries in (("", "bold red", problems), ("warning: ", "yellow", warnings)):
        for entry in entries(reports):
            yield []
            who = kind + listed([names[host] for host in entry.hosts])
            head, *rest = wrapped(f"{who}: {entry.what}", width)
            yield [(head[: len(who) + 1], style), (head[len(who) + 1 :], "")]
            yield from ([(text, "")] for text in rest)
            yield [(f"  tip: {remedy(entry)}", "dim")]  # in one piece: a command in it is to be pasted


def wrapped(text: str, width: int) -> list[str]:
    """Break a text between words into lines; what is longer than a line, such as a path, is left whole."""
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def remedy(entry: Entry) -> str:
    """Say what helps, with commands that can be pasted."""
    words = {
        "{install}": as_typed("check", "--install-key"),
        "{accept}": as_typed("check", "--accept-new"),
        "{host}": shlex.quote(entry.hosts[0]),
    }
    text = entry.remedy
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text


def closing(reports: Sequence[HostReport]) -> str:
    """Say how many hosts can work: `32 of 34 hosts can work; 96 slots`."""
    able = [report for report in reports if report.can_work]
    slots = plural(sum(report.slots for report in able), "slot")
    return f"{len(able)} of {plural(len(reports), 'host')} can work; {slots}"


# -- all of it ----------------------------------------------------------------------------------------------


def picture(reports: Sequence[HostReport], width: int) -> Iterator[list[Cell]]:
    """Give every line, in pieces with a style each; nothing that a host has said steers a terminal."""
    style = {EXIT_OK: "bold green", EXIT_FAILED: "bold yellow"}.get(exit_code(reports), "bold red")
    for pieces in (*table(reports, width), *remarks(reports, width), [], [(closing(reports), style)]):
        yield [(harmless(text), style) for text, style in pieces]


def lines(reports: Sequence[HostReport], width: int = NO_LIMIT) -> Iterator[str]:
    """Give every line as plain text."""
    return ("".join(text for text, _ in pieces) for pieces in picture(reports, width))


def show(reports: Sequence[HostReport], *, as_json: bool) -> None:
    """Print it: in colours on a terminal, plain elsewhere, or as JSON."""
    if as_json:
        print(json_text(reports))
        return
    if not sys.stdout.isatty():
        for text in lines(reports):
            print(text)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for pieces in picture(reports, shutil.get_terminal_size().columns):
        console.print(Text.assemble(*pieces), soft_wrap=True)


def json_text(reports: Sequence[HostReport]) -> str:
    """Give all of it as one JSON object."""
    able = [report for report in reports if report.can_work]
    data = {
        "hosts": [asdict(report) | {"can_work": report.can_work} for report in reports],
        "problems": [as_json_object(entry) for entry in problems(reports)],
        "warnings": [as_json_object(entry) for entry in warnings(reports)],
        "can_work": len(able),
        "slots": sum(report.slots for report in able),
    }
    return json.dumps(data, indent=1)


def as_json_object(entry: Entry) -> dict[str, object]:
    """Give an entry for programs."""
    return {"hosts": entry.hosts, "what": entry.what, "remedy": remedy(entry)}


def exit_code(reports: Sequence[HostReport]) -> int:
    """Give the exit code: whether all, some or none of the hosts can work."""
    able = sum(report.can_work for report in reports)
    if able == len(reports):
        return EXIT_OK
    return EXIT_FAILED if able else EXIT_NO_HOST
