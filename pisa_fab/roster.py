"""The hosts of a run as the head deals with them: a link and a `Contact` each.

Carries out what `contact` says is due: calls hosts that are not there, gives up links that have gone silent,
and lets hosts join and leave. What workers say and what becomes of jobs is `head`'s business.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pisa_fab.contact import Contact, Trouble
from pisa_fab.link import Closed, Inbox, Link, Message
from pisa_fab.messages import margin_of
from pisa_fab.model import Cluster, Host

CALLED_AT_ONCE = 8  # hosts, of which the first have jobs while the last are called, and not all come late
CALL_INTERVAL = 0.02  # seconds between two looks whether more can be called
PATIENCE_LEASES = 10  # how long a run waits for a host when it has none left, if nothing else is said


class Links(Protocol):
    """What the head needs of a pool."""

    def links(self) -> dict[str, Link]:
        """Give the links by the names of their hosts."""

    def begin(self, inbox: Inbox) -> None:
        """Serve them all in the background."""

    def close(self) -> None:
        """Close them all."""


MakeLinks = Callable[[Sequence[Host]], Links]


@dataclass(slots=True)
class Connection:
    """Where the head stands with a host.

    Attributes:
        host: as the cluster file has it.
        link, contact: the means, and when to use them.
        unusable: why its worker could not do the work, while that conversation lasts, or "".
        told: the reason that a person was told last, so that nobody reads it twice.
        was_ready: whether it has been at work in this run.
        leaving: why it is to get no more jobs and then to go, or "".
    """

    host: Host
    link: Link
    contact: Contact
    unusable: str = ""
    told: str = ""
    was_ready: bool = False
    leaving: str = ""

    @property
    def name(self) -> str:
        """The host's name."""
        return self.host.name

    @property
    def ready(self) -> bool:
        """Whether a worker is at work."""
        return self.contact.ready


class Roster:
    """All hosts, by name.

    `setup` gives the first message for a host; `patience` is for how many seconds a run waits for a host when
    it has none left.
    """

    def __init__(
        self,
        make_links: MakeLinks,
        inbox: Inbox,
        lease: float,
        patience: float,
        setup: Callable[[Host], Message],
    ) -> None:
        self.make_links = make_links
        self.inbox = inbox
        self.lease = lease
        self.patience = patience
        self.setup = setup
        self.connections: dict[str, Connection] = {}
        self.pools: list[Links] = []
        self.contact_at: float | None = None  # when a host was at work last
        self._look_at = float("-inf")  # nothing is due before

    def __getitem__(self, name: str) -> Connection:
        return self.connections[name]

    def __iter__(self) -> Iterator[Connection]:
        return iter(self.connections.values())

    @property
    def any_ready(self) -> bool:
        """Whether any host is at work."""
        return any(connection.ready for connection in self)

    @property
    def awaits_first_answer(self) -> bool:
        """Whether a host is called for the first time, now or soon, and has neither come nor failed to."""
        contacts = (connection.contact for connection in self)
        return any(
            (contact.up or contact.call_at is not None) and not contact.ready and contact.tries == 0
            for contact in contacts
        )

    @property
    def is_alone(self) -> bool:
        """Whether hosts were at work, and none is any more."""
        return self.contact_at is not None and not self.any_ready

    @property
    def leaving(self) -> list[Connection]:
        """The hosts that are to go."""
        return [connection for connection in self if connection.leaving]

    def join(self, hosts: Sequence[Host], now: float) -> None:
        """Take hosts in; `look` calls them."""
        pool = self.make_links(hosts)
        links = pool.links()
        self.pools.append(pool)
        for host in hosts:
            contact = Contact(self.lease, call_at=now)
            self.connections[host.name] = Connection(host, links[host.name], contact)
        pool.begin(self.inbox)
        self._look_at = now

    def dismiss(self, connection: Connection, reason: str) -> None:
        """Call a host no more; one that is not at work is gone at once, any other when it is told to quit."""
        connection.leaving = reason
        connection.contact.dismiss()
        if connection.contact.up and not connection.ready:
            connection.link.abort(reason)

    def send_home(self, is_idle: Callable[[str], bool]) -> None:
        """Let those workers quit that are to go and have nothing left to do."""
        for connection in self.leaving:
            if connection.ready and is_idle(connection.name):
                connection.link.send([{"op": "quit"}])

    def take_back(self, connection: Connection, now: float) -> None:
        """Let a host stay that was to leave."""
        connection.leaving = ""
        if not connection.contact.up:
            connection.contact.call_at = now
            self._look_at = now

    def hurry(self, now: float) -> None:
        """Call all that are not there at once: somebody may have switched them on."""
        for connection in self:
            connection.contact.hurry(now)
        self._look_at = now

    def send(self, name: str, messages: list[Message]) -> None:
        """Give a host messages, if it is there."""
        connection = self.connections.get(name)
        if connection is not None and connection.contact.up:
            connection.link.send(messages)

    # -- what comes in ------------------------------------------------------------------------------------

    def came(self, connection: Connection, now: float) -> None:
        """Note that a host is at work."""
        connection.contact.came(now)
        connection.was_ready, connection.told = True, ""
        self.contact_at = self._look_at = now

    def closed(self, connection: Connection, closed: Closed, now: float) -> None:
        """Note the end of a conversation, and when to begin the next."""
        trouble = Trouble.PERSON if connection.unusable else closed.trouble
        connection.contact.closed(now, trouble, random.random())
        connection.unusable = ""
        if closed.final or connection.leaving:
            connection.contact.dismiss()
        self._look_at = now

    # -- what is due --------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Call who is to be called, and give up who has gone silent."""
        if self.any_ready:
            self.contact_at = now
        if now < self._look_at:
            return
        coming, is_full = sum(connection.contact.is_coming(now) for connection in self), False
        for connection in self:
            contact = connection.contact
            if contact.is_due(now) and coming >= CALLED_AT_ONCE:
                is_full = True
            elif contact.is_due(now):
                coming += 1
                contact.called(now)
                connection.link.call([self.setup(connection.host)])
            elif problem := contact.problem(now):
                connection.link.abort(problem)
        due = (connection.contact.wake_at() for connection in self)
        self._look_at = min((moment for moment in due if moment is not None), default=float("inf"))
        if is_full:
            self._look_at = now + CALL_INTERVAL

    def wake_at(self) -> float:
        """Say when `look` may find something."""
        return self._look_at

    def nobody_is_left(self, now: float) -> bool:
        """Say whether to wait no longer for a host: none came at all, or none has come back for too long."""
        if self.any_ready:
            return False
        if self.contact_at is None:
            return all(connection.contact.has_failed or connection.leaving for connection in self)
        return now > self.contact_at + self.patience

    def close(self) -> None:
        """Close every link."""
        for pool in self.pools:
            pool.close()


def patience_of(cluster: Cluster) -> float:
    """Give how many seconds a run waits for a host when it has none left."""
    patience = PATIENCE_LEASES * cluster.lease if cluster.patience is None else cluster.patience
    return max(patience, cluster.lease + margin_of(cluster.lease))
