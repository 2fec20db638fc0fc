"""The loop: what the links say goes into the journal and the scheduler, what that decides goes to the links.

The only place that reads the clock and obeys signals. It decides nothing itself: the scheduler says which
job runs where and which result counts, `roster` which host is called when, and the head carries it out, when
the event is safe on the disk. While the disk is full nothing is carried out, and everything is kept.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from queue import Empty
from typing import Protocol

from pisa_fab import messages, requests
from pisa_fab.contact import Trouble
from pisa_fab.errors import PisaError, RunError
from pisa_fab.events import (
    Accept,
    AttemptEnded,
    CancelAsked,
    Event,
    HostLost,
    HostReleased,
    HostUnusable,
    RunClosed,
    Stop,
)
from pisa_fab.history import History
from pisa_fab.invocation import as_typed
from pisa_fab.link import Closed, Message, Said, Wake
from pisa_fab.model import Cluster, Host
from pisa_fab.moderation import Moderation
from pisa_fab.news import News
from pisa_fab.processes import clock
from pisa_fab.prospects import Prospects
from pisa_fab.roster import Connection, MakeLinks, Roster, patience_of
from pisa_fab.run import Run
from pisa_fab.signals import Signals

PARTING_PATIENCE = 3.0  # seconds that workers may take to leave when they have nothing left to do
FLIGHT_PATIENCE = 0.5  # seconds for the last words when there is no time to wait for answers
LOOK_EVERY = 1.0  # seconds between two looks at the clock while nothing is said
REREAD_EVERY = 5.0  # seconds between two looks whether the cluster file has changed


class View(Protocol):
    """What a person sees of a run (see `progress`)."""

    def happened(self, event: Event) -> None:
        """Show an event, if it is worth it."""

    def refresh(self, history: History, now: float) -> None:
        """Show where the run stands."""

    def say(self, text: str) -> None:
        """Show a line."""


class ClusterFile(Protocol):
    """The cluster file, looked at again (see `commands`)."""

    def news(self, *, anyway: bool) -> Cluster | None:
        """Give what it says, if it has changed or `anyway` is true. Raises PisaError."""


class Head:
    """One run: from the first connection to the last word of the journal."""

    def __init__(
        self,
        run: Run,
        cluster: Cluster,
        make_links: MakeLinks,
        view: View,
        file: ClusterFile | None = None,
        prospects: Prospects | None = None,
    ) -> None:
        self.run = run
        self.prospects = prospects
        self.cluster = cluster
        self.file = file
        self.view = view
        self.scheduler = run.history.scheduler
        self.news = News(self.scheduler.lasts)
        self.reread_at = clock()
        self.roster = Roster(make_links, self.news.inbox, cluster.lease, patience_of(cluster), self.setup)
        self.outgoing: dict[str, list[Message]] = defaultdict(list)
        self.moderation = Moderation(
            self.scheduler,
            run.batch.limits.nice,
            self.record,
            lambda name, message: self.outgoing[name].append(message),
            view.say,
        )
        self.acks: dict[str, list[tuple[int, int, bool]]] = defaultdict(list)
        self.unpublished: dict[tuple[int, int], str] = {}
        self.signals = Signals()
        self.stop_reason = ""
        self.stop_at = 0.0
        self.no_room = ""  # what the disk says, while it takes nothing
        self.requests_at = float("-inf")  # when requests were looked for last
        self.requests = requests.Requests(run.layout)
        self.alone = False  # whether it was said that no host is left
        self.notices = messages.Notices(view.say)

    # -- the loop ---------------------------------------------------------------------------------------

    def work(self) -> str:
        """Run the batch and say how it ended, in the words of `RunClosed`. Raises RunError."""
        with self.signals.caught(lambda: self.news.inbox.put(Wake())):
            self.join(self.cluster.hosts, clock())
            try:
                while (reason := self.ended()) is None:
                    self.turn()
                self.part()
            finally:
                self.roster.close()
            self.record(RunClosed(reason))
            self.view.refresh(self.run.history, clock())
            self.run.sync()
        return reason

    def turn(self) -> None:
        """Wait for news, then do everything that follows from it."""
        news = self.wait()
        # First of all: another head may have taken over while this PC stood still.
        self.run.beat(clock())
        for item in news:
            self.absorb(item)
        now = clock()
        self.roster.look(now)
        self.obey_signals()
        self.look_around(now)
        if self.moderation.has_space(now, self.cluster, self.run) and not self.no_room:
            self.decide(now)
            self.take_back(now)
            self.look_for_common_failure()
        if self.save():
            self.deliver()
            self.requests.answer()
        self.view.refresh(self.run.history, now)

    def wait(self) -> list[Said | Closed | Wake]:
        """Wait until something is said or due; give all that has been said."""
        now = clock()
        due = [LOOK_EVERY, self.roster.wake_at() - now]
        wake_at = self.scheduler.wake_at()
        if wake_at is not None and not (self.no_room or self.moderation.is_tight):
            due.append(wake_at - now)
        return self.news.wait(max(0.0, min(due)))

    def ended(self) -> str | None:
        """Say how the run has ended, None while it goes on."""
        if self.scheduler.finished and not self.no_room:
            return "finished"
        if self.stop_reason and (self.is_at_rest() or self.signals.interrupts > 1 or clock() > self.stop_at):
            return self.stop_reason
        if self.roster.nobody_is_left(clock()):
            return "no host"
        return None

    def is_at_rest(self) -> bool:
        """Say whether nothing runs any more; what was decided and never told to a worker does not."""
        untold = [
            message for pieces in self.outgoing.values() for message in pieces if message["op"] == "run"
        ]
        return len(self.scheduler.running) + len(self.scheduler.seconds) <= len(untold)

    def record(self, event: Event, now: float | None = None) -> None:
        """Journal an event, show it, and prepare what the worker has to be told of it."""
        for action in self.run.record(event, clock() if now is None else now):
            attempt = (action.job, action.attempt)
            if isinstance(action, Stop):
                self.outgoing[action.host].append({"op": "stop", "ids": [attempt]})
                continue
            if isinstance(action, Accept) and action.publish:
                self.unpublished[attempt] = action.host
            # A result that comes twice may be one whose acknowledgement was lost.
            self.acks[action.host].append((*attempt, self.unpublished.get(attempt) == action.host))
        self.view.happened(event)

    def save(self) -> bool:
        """Bring the journal to the disk; say so when there is no room, and when there is again."""
        problem = self.run.try_sync()
        if problem and not self.no_room:
            journal = self.run.layout.journal
            self.view.say(f"{journal}: {problem}: nothing is started until there is room; what runs goes on")
        elif self.no_room and not problem:
            self.view.say("there is room again: it goes on")
        self.no_room = problem
        return not problem

    def deliver(self) -> None:
        """Send what this turn has prepared, one piece a host: first what gives it work."""
        for name, ids in self.acks.items():
            self.outgoing[name].append({"op": "ack", "ids": ids})
        self.acks.clear()
        for name, pieces in self.outgoing.items():
            self.roster.send(name, pieces)
        self.outgoing.clear()

    def decide(self, now: float) -> None:
        """Ask the scheduler what to do next, and prepare it."""
        for event in self.run.decide(now):
            self.view.happened(event)
            if isinstance(event, messages.Start):
                self.outgoing[event.host].append(messages.order(self.run, event))

    def take_back(self, now: float) -> None:
        """Want back what waits on a host for a slot while others have one."""
        for name, most in self.scheduler.recalls(now):
            self.outgoing[name].append({"op": "recall", "most": most})

    def setup(self, host: Host) -> Message:
        """Give the first message to a worker."""
        return messages.setup(self.run, host, self.cluster, self.moderation.bounds(host))

    # -- what was said ----------------------------------------------------------------------------------

    def absorb(self, item: Said | Closed | Wake) -> None:
        """Take in one piece of news."""
        if isinstance(item, Closed):
            self.close(self.roster[item.host], item)
        elif isinstance(item, Said):
            connection = self.roster[item.host]
            connection.contact.heard(clock())
            for message in item.messages:
                self.hear(connection, message)

    def hear(self, connection: Connection, message: Message) -> None:
        """Take in one message of a worker."""
        name = connection.name
        op = message["op"]
        if op == "ended":
            outcome = messages.outcome_of(message["outcome"])
            self.record(AttemptEnded(message["job"], message["attempt"], name, outcome))
        elif op == "ping" and connection.ready:
            # At once, whatever the disk does: it decides nothing, and a lease hangs on it.
            connection.contact.answered(clock())
            connection.link.send([{"op": "pong", "at": message["at"]}])
        elif op == "published":
            for job, attempt in message["ids"]:
                self.unpublished.pop((job, attempt), None)
        elif op == "ready":
            self.welcome(connection, message)
        elif op == "state":
            self.moderation.settle(name, message)
        elif op == "unusable":
            connection.unusable = message["reason"]
            self.moderation.hold(name, connection.unusable)
        elif op == "superseded":
            raise RunError(
                f"{self.run.layout.root}: another head has taken over this run; this one stops",
                f"watch the other with: {as_typed('status')}",
            )
        elif op == "notice":
            self.notices.pass_on(name, message)
        elif op != "bye":
            raise ValueError(f"the worker on {name} said {op!r}, which this head does not know")

    def welcome(self, connection: Connection, message: Message) -> None:
        """Take in a worker that is ready: a new one, or that of before."""
        self.roster.came(connection, clock())
        self.alone = False
        if not message["resumed"]:
            self.publish_for(connection.name)
        slots = self.moderation.came(connection.name, message["state"])
        self.record(messages.ready_of(connection.name, slots, message))
        self.moderation.settle(connection.name, message["state"])

    def close(self, connection: Connection, closed: Closed) -> None:
        """Note that a conversation is over: a host lost, or one that did not come to work."""
        name = connection.name
        reason = connection.unusable or closed.reason
        if not connection.ready:
            for_person = connection.unusable or closed.trouble is Trouble.PERSON
            is_news = reason != connection.told and (for_person or not connection.was_ready)
            if is_news and not connection.leaving:
                connection.told = reason
                self.record(HostUnusable(name, reason))
        elif closed.ended and (connection.leaving or connection.unusable):
            self.record(HostReleased(name, connection.leaving or reason))
        else:
            # The lease of its worker was renewed last by a ping that was heard then, or earlier.
            answered_at = connection.contact.answered_at
            self.record(HostLost(name, reason, worker_ended=closed.ended), answered_at)
        if closed.ended:
            self.publish_for(name)
        self.moderation.left(name)
        self.roster.closed(connection, closed, clock())

    def publish_for(self, name: str) -> None:
        """Publish what a worker that has ended was told to publish and did not confirm."""
        for (job, attempt), host in list(self.unpublished.items()):
            if host == name:
                self.run.publish(job, attempt)
                del self.unpublished[(job, attempt)]

    # -- what is due ------------------------------------------------------------------------------------

    def look_around(self, now: float) -> None:
        """See to what nobody says: nobody left, a changed cluster file, hosts to go."""
        if self.roster.is_alone and not self.alone:
            self.alone = True
            self.view.say("no host is left; all are called again now and then")
        is_asked = self.signals.take_hangups()
        if is_asked:
            self.roster.hurry(now)
        if self.file is not None and (is_asked or now >= self.reread_at + REREAD_EVERY):
            self.reread(self.file, now, anyway=is_asked)
        self.moderation.look(now)
        if self.prospects is not None:
            self.prospects.look(time.time(), self.view.say)
        if now >= self.requests_at + LOOK_EVERY:
            self.requests_at = now
            self.obey_requests()
        self.roster.send_home(lambda name: not self.scheduler.load(name)[0])

    def look_for_common_failure(self) -> None:
        """Stop when the first jobs have all failed in the same way, so that the others need not, too."""
        if len(self.scheduler.ready_hosts) < 2 and self.roster.awaits_first_answer:
            return  # the next host may show that it is the first one that fails, not the jobs
        found = self.run.history.common_failure()
        if found is not None:
            self.stop("hopeless", found.describe())

    def reread(self, file: ClusterFile, now: float, *, anyway: bool) -> None:
        """Let hosts join, leave and change their slots as the cluster file says now."""
        self.reread_at = now
        try:
            cluster = file.news(anyway=anyway)
        except PisaError as error:
            self.view.say(f"{error}\n  the hosts stay as they are until that is mended")
            return
        if cluster is None:
            return
        self.cluster = replace(cluster, lease=self.cluster.lease)  # that of the journal's policy
        named = {host.name: host for host in cluster.hosts}
        new = [host for host in cluster.hosts if host.name not in self.roster.connections]
        self.view.say(f"the cluster file was read again: {len(named)} hosts, {len(new)} of them new")
        for connection in self.roster:
            host = named.get(connection.name)
            if host is None and not connection.leaving:
                self.roster.dismiss(connection, "no longer in the cluster file")
                self.moderation.dismiss(connection.name, connection.leaving)
            elif host is not None and (connection.leaving or host != connection.host):
                connection.host = host
                self.roster.take_back(connection, now)
                self.moderation.take(host, now)
        self.join(new, now)

    def join(self, hosts: Sequence[Host], now: float) -> None:
        """Take hosts in."""
        for host in hosts:
            self.moderation.take(host, now)
        self.roster.join(hosts, now)

    def obey_requests(self) -> None:
        """Do what other processes ask; the answer is given when it is safe."""
        for path, request in self.requests.new():
            if request is None:
                self.view.say(f"{path}: is no request that this head understands")
            elif request.jobs is None:
                text = f"{request.by} cancelled the run; running jobs are ended, everything is kept"
                self.stop("interrupted", text)
            else:
                known = tuple(job for job in request.jobs if job in self.run.history.records)
                self.record(CancelAsked(known, request.by))

    # -- stopping ---------------------------------------------------------------------------------------

    def obey_signals(self) -> None:
        """Begin to stop when asked to."""
        if self.signals.interrupts and self.stop_reason != "interrupted":
            self.stop("interrupted", "running jobs are ended, everything is kept; submit again to go on")

    def stop(self, reason: str, text: str) -> None:
        """Start nothing more and end what runs; everything is kept."""
        if self.stop_reason:
            return
        self.stop_reason = reason
        self.stop_at = clock() + messages.STOP_GRACE + PARTING_PATIENCE
        self.scheduler.drain()
        self.view.say(f"stopping: {text}")
        for connection in self.roster:
            if connection.ready:
                connection.link.send([{"op": "stop"}])

    def part(self) -> None:
        """Send the workers home, wait a moment for them, and publish what they could not."""
        if not self.save():
            lease = f"{self.cluster.lease:.0f} s"
            self.view.say(
                f"workers keep the results that found no room for {lease}: submit again before that"
            )
            return
        self.deliver()
        for connection in self.roster:
            connection.contact.dismiss()
            if connection.contact.up:
                connection.link.send([{"op": "quit"}])
        deadline = clock() + (PARTING_PATIENCE if self.signals.interrupts < 2 else FLIGHT_PATIENCE)
        while self.roster.any_ready:
            try:
                item = self.news.inbox.get(timeout=max(0.0, deadline - clock()))
            except Empty:
                break
            if isinstance(item, Closed):
                self.roster.closed(self.roster[item.host], item, clock())
            else:
                self.absorb(item)
        for job, attempt in self.unpublished:
            self.run.publish(job, attempt)
