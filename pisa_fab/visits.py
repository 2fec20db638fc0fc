"""Visits to all hosts at once: `probe` is started on each, asked, and left; none can hold up the others.

What is asked is the business of `check` and `authorize`. A visit knows at every moment what it is waiting
for, so that of a host that hangs it can be said where.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from queue import Empty, SimpleQueue
from typing import Protocol

from pisa_fab import probe
from pisa_fab.contact import Trouble
from pisa_fab.link import (
    Dialogue,
    Link,
    LinkError,
    Message,
    Stream,
    bootstrap,
    start_program,
)
from pisa_fab.model import Host
from pisa_fab.names import listed
from pisa_fab.processes import clock

BUSY_WAIT = (0.3, 1.2)  # seconds before a host is called again whose SSH server refuses for the moment
TELL_AFTER = 4.0  # seconds after which the person is told whom we are waiting for, and again
MISTAKE = "a mistake in pisa_fab, whose traceback is shown"


class Links(Protocol):
    """What is needed of a group of links (see `pool.LinkGroup`)."""

    def visit(self, visitor: Callable[[Link], None]) -> None:
        """Have every link visited in a thread of its own, and return at once."""

    def close(self) -> None:
        """Close them all."""


class Access(Protocol):
    """What knows how to reach hosts over SSH (see `pool.Access`)."""

    def links(self, hosts: Sequence[Host]) -> Links:
        """Make the links to these hosts; nothing is opened yet."""


@dataclass
class Visit:
    """One host's visit, written by its own thread and read by another when it is over, or has been given up.

    Attributes:
        host: whom it is paid.
        step: what is being done, as in `no answer while connecting`.
        reason: why it has failed, "" while it has not.
        connect_ms: how long it took to connect and log in.
        key: the kind of key that the host showed.
        accepted: the key, if it was new and has been saved, or "".
        found: all that the probe has said.
        is_over: whether it has come to its end.
    """

    host: Host
    step: str = "connecting"
    reason: str = MISTAKE
    connect_ms: float | None = None
    key: str = ""
    accepted: str = ""
    found: Message = field(default_factory=dict)
    is_over: bool = False


Talk = Callable[[Visit, Dialogue], None]


def pay(
    links: Links, hosts: Sequence[Host], talk: Talk, timeout: float, told: Callable[[str], None]
) -> list[Visit]:
    """Visit all hosts, for `timeout` seconds at most, and give their visits as they are then.

    `talk` is what is done on a host, in a thread of its own. Afterwards the links are closed. `told` hears of
    keys that were accepted, and now and then whom we are waiting for.
    """
    visits = {host.name: Visit(host) for host in hosts}
    done: SimpleQueue[str] = SimpleQueue()
    until = clock() + timeout
    links.visit(lambda link: go(link, visits[link.name], talk, until, done))
    waiting = dict.fromkeys(visits)
    tell_at = clock() + TELL_AFTER
    try:
        while waiting and (left := until - clock()) > 0:
            try:
                name = done.get(timeout=max(0.0, min(left, tell_at - clock())))
            except Empty:
                if clock() >= tell_at:
                    tell_at += TELL_AFTER
                    told(f"waiting for {listed(waiting)}")
                continue
            del waiting[name]
            if visits[name].accepted:
                told(f"{name}: its host key is accepted and saved: {visits[name].accepted}")
        # Those that hang are written to by their threads when their links are closed.
        return [replace(visit, found=dict(visit.found)) for visit in visits.values()]
    finally:
        links.close()


def go(link: Link, visit: Visit, talk: Talk, until: float, done: SimpleQueue[str]) -> None:
    """Pay one visit, and say when it is over, however it ended."""
    try:
        dialogue = start(link, visit, until)
        talk(visit, dialogue)
        dialogue.say({"op": "leave"})
        visit.reason = ""
    except LinkError as error:
        visit.reason = str(error)
    except (OSError, EOFError):
        visit.reason = f"connection lost while {visit.step}"
    finally:
        visit.key, visit.accepted = link.server_key, link.accepted
        visit.is_over = True
        link.disconnect()
        done.put(visit.host.name)


def start(link: Link, visit: Visit, until: float) -> Dialogue:
    """Start the probe on a host. Raises LinkError, OSError."""
    token = secrets.token_hex(8)
    source = probe_source()
    stream = connect(link, visit, bootstrap(link.python(), len(source), token, "probe"), until)
    visit.step = f"starting {link.python()}"
    marker = f"{probe.MARKER} {token}\n".encode("ascii")
    return Dialogue(stream, start_program(stream, source, marker, link.python()))


def connect(link: Link, visit: Visit, command: str, until: float) -> Stream:
    """Connect, again if the host refuses for the moment only. Raises LinkError."""
    while True:
        began = clock()
        try:
            stream = link.connect(command)
        except LinkError as error:
            link.disconnect()
            wait = random.uniform(*BUSY_WAIT)
            if error.trouble is not Trouble.BUSY or clock() + wait > until:
                raise
        else:
            visit.connect_ms = (clock() - began) * 1000
            visit.key = link.server_key
            return stream
        time.sleep(wait)


@cache
def probe_source() -> bytes:
    """Give the source of the program that is started on every host."""
    return resources.files("pisa_fab").joinpath("probe.py").read_bytes()
