"""The program on the host: it starts jobs, watches them, reports how they ended, and leaves nothing behind.

Standard library only, Python 3.8 or newer: the head sends this source, and those of the modules that it
imports (`link.BAGGAGE`), over the SSH channel and it is run from there, so that nothing has to be installed
on a host and both ends always have the same version.
It decides nothing about a batch: which job runs where and whose result counts is the head's business. It
knows no file names of the run directory: they come with each message.

Two processes: the worker, and above it a guardian that does nothing but wait for the worker's end, whatever
that is, and then ends everything that it leaves. Both adopt what loses its parent below them (a "subreaper"
of Linux), so a job's grandchild is found although it has left its session.

The conversation is one JSON object a line. From the head:

    setup    the first, once a conversation. workdir, venv, nonce and the file that holds it, nice, threads,
             env, folders: of the attempts' files and of published outputs (out, err); lease, grace and
             lease_grace (seconds: between SIGTERM and SIGKILL of a job, by order and when the lease is over);
             place (a folder on the host's own disk, or null), digest (of this source), epoch (how many heads
             the run directory has had), mark (tells jobs of this run on this host from all others), memory
             (bytes that a job may use, or null), note (a file for people at the PC, or null), facts (for it),
             title (of our processes, for the same people), bounds (the first message of that kind)
    bounds   phases: [[in seconds, slots, nice], ...], the first in 0 seconds; at_edge and owner: what to do
             with jobs that are too many, and when somebody else needs the PC (the rules of `presence`)
    run      job, attempt, argv, env, timeout (seconds or null), the names of two files, out and err, in these
             folders or in a subfolder of them: `files` while it runs, `published` when it counts. It is begun
             when a slot is free; until then it waits here
    recall   most: give back so many of the jobs that wait here, the youngest first
    ack      ids: [[job, attempt, publish], ...]: these results are in the journal
    pong     at: the number of the `ping` that this answers
    stop     end every running job, or with ids: [[job, attempt], ...] these alone
    quit     end every running job and leave

From the worker: `ready` (python, cores, pid, machine, resumed, holds: [[job, attempt], ...], state),
`unusable` (reason) or `superseded`, once; `state` (busy: who else needs the PC; full: why nothing new may be
started; paused: [[job, attempt], ...]), also in `ready`, whenever that changes; `unusable` again when its
user stops it at the PC; `ended` (job, attempt, outcome), again in every new conversation until it is
acknowledged, and with others while no slot stands idle for want of orders; `published` (ids, with the next
message); `ping` (at); `notice` (text for the person; once: as true of other hosts); `bye`, the last one.
Nothing here ever blocks on the head: what it does not read is kept.

The lease. The worker says what its clock shows (`ping`), the head sends that number back. What counts is when
the worker sent what was answered, so an answer that was delayed on its way renews nothing. When a lease has
passed since, the worker ends its jobs and leaves; that the head then has none is what the head relies on.

Reattachment. A worker that has a place does not leave when its conversation ends and it has jobs or results
that nobody has acknowledged: it goes on until the lease is over. Its place is a folder that only this user
can enter, locked by worker and guardian for as long as either lives, with a socket that the worker listens
to. The next worker that is started finds the place locked, hands its conversation, as two descriptors, to
the earlier one, and becomes a relay: it holds nothing and waits, to end with the earlier one's exit status.

    guardian   the lock; the write end of a pipe, into which it writes the exit status as its last act
    worker     the lock, the socket, the conversation, the relay's connection, the read end of that pipe
    relay      its connection to the worker, a copy of that read end

Exit status 0 and SWEPT say that no worker of this run lives here any more. Whoever ends without knowing that,
such as a relay whose conversation was dropped, ends with UNKNOWN.
"""

from __future__ import annotations

import os
import select
import sys
import time

from pisa_fab.bounds import REQUEUE, Bounds, measures
from pisa_fab.execution import Attempt, Turns, rename
from pisa_fab.launcher import Launcher, RefusedError
from pisa_fab.lease import Lease
from pisa_fab.light import loads, signal
from pisa_fab.notes import Note, name_process, remove_notes, stop_order
from pisa_fab.place import (
    MARKER,
    MESSAGE_BYTES,
    SWEPT,
    UNKNOWN,
    NotVisibleError,
    Place,
    SupersededError,
    UnusableError,
    Visit,
    Wire,
    claim,
    end_strays,
    hear,
    line_of,
    machine,
    tell,
)
from pisa_fab.premises import inspect
from pisa_fab.presence import Presence
from pisa_fab.processes import (
    adopt_orphans,
    children,
    clock,
    descendants,
    end_descendants,
    kill_all,
    mark_of,
    send,
)
from pisa_fab.restraint import Confinement, stand_back, stray_sessions
from pisa_fab.template import Template

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    import _socket
    import resource
    from typing import Any

FAREWELL_PATIENCE = 5.0  # seconds that a head may take to read the last words
VISIBLE_PATIENCE = 5.0  # seconds for a new file to show on a network home
VISIBLE_INTERVAL = 0.2
LONGEST_WAIT = 1.0  # seconds; select counts no time asleep, so a suspended machine is noticed this much later
LOOK_INTERVAL = 1.0  # seconds between two looks at other people, and at the memory of jobs
IDLE_INTERVAL = 5.0  # the same while nothing runs and nobody's coming changes that
OUTSIDE = "no more may run at this hour"
IGNORE = "ignore"  # the rule for a PC that nobody else uses
WORTH_TELLING = 0.001  # seconds that a job waited for its slot
LINGER = 0.1  # seconds for which the end of a job is no news that is worth a message of its own
SWEEPS = 3  # further looks at processes that cannot be told whose they are
SWEEP_INTERVAL = 0.3  # seconds between them
SWEEP_BREAK = 0.05  # seconds between two of them while one job ends after the other


class Worker:
    """The loop: messages in, processes started and reaped, reports out."""

    def __init__(self, setup: dict[str, Any], wire: Wire, place: Place | None, status: int) -> None:
        self.wire: Wire | None = wire
        self.place = place
        self.status = status  # where relays can read the exit status that the guardian writes
        self.lease = Lease(clock(), setup["lease"])
        self.grace: float = setup["grace"]
        self.lease_grace: float = setup["lease_grace"]
        self.digest: str = setup["digest"]
        self.epoch: int = setup["epoch"]
        self.mark: str = setup["mark"]
        self.running: dict[int, Attempt] = {}  # by pid
        self.queue: dict[tuple[int, int], Attempt] = {}  # by id: those that wait for a slot, in their order
        self.reported: dict[tuple[int, int], Attempt] = {}  # by id, until the head has acknowledged it
        self.published: list[tuple[int, int]] = []  # not worth a message of its own
        self.unconfirmed: list[tuple[float, tuple[int, int]]] = []  # published, and when that was said
        self.launcher = Launcher(setup)
        self.folders: dict[str, int] = {}
        self.setup: dict[str, Any] | None = None  # while it is being carried out
        self.set_up_at = 0.0  # when to try again
        self.set_up_until = 0.0  # when to give up
        self.has_unmarked = False  # whether there are processes that cannot be told whose they are
        self.sweeps = 0  # how often to look at them again
        self.sweep_at = self.swept_at = 0.0
        self.bounds = Bounds(0.0, [(0.0, 1, 0)], "finish")
        self.presence: Presence | None = None  # once set up
        self.owner: dict[str, Any] = {}  # the rules of `presence`
        self.busy_since: float | None = None  # since when somebody else needs this PC
        self.confinement: Confinement | None = None  # if jobs have a memory limit
        self.note: Note | None = None
        self.complained = ""  # of the note, to the head
        self.nice = 0  # of its jobs, at least
        self.turns = Turns()
        self.template: Template | None = None  # if jobs are to be made by one
        self.looked_at = self.look_at = 0.0
        self.regulated_at = 0.0
        self.regulated_slots = 0  # which held then
        self.linger_until = 0.0  # when what there is to say has waited long enough
        self.told: tuple[object, ...] = ()  # what the head knows of busy, full and paused
        self.told_to_leave = False  # by a signal
        self.leaving = False

    # -- the loop -------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Work until the head says `quit`, the lease is over, or the conversation is and nothing is held."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self.note_order)
        self.obey()
        while not self.leaving or self.running:
            readable = self.wait(wake_read)
            if wake_read in readable:
                os.read(wake_read, 4096)
                self.reap()
            self.converse(readable)
            self.attend_template(readable)
            self.attend_door(readable)
            self.attend_set_up()
            self.enforce()
            self.look_around()
            if self.wire is not None and not self.lingers() and not self.wire.flush():
                self.detach()
        self.say_farewell()

    def note_order(self, *_: object) -> None:
        """Have the loop leave: what a signal interrupts may be in the middle of anything."""
        self.told_to_leave = True

    def wait(self, wake: int) -> list[Any]:
        """Wait until there is something to do; give what can be read."""
        readers: list[Any] = [wake]
        has_news = self.wire is not None and self.wire.outgoing and not self.lingers()
        writers = [self.wire.sink] if self.wire is not None and has_news else []
        readers += self.template.readers() if self.template is not None else []
        if not self.leaving:
            if self.wire is not None:
                readers.append(self.wire.source)
                readers += [self.wire.relay] if self.wire.relay is not None else []
            if self.place is not None:
                readers += [self.place.listener, *self.place.callers]
        return select.select(readers, writers, [], self.patience())[0]

    def patience(self) -> float | None:
        """Give the seconds until something is due by time alone, None for never."""
        due = [attempt.deadline() for attempt in self.running.values()]
        due.append(self.sweep_at if self.sweeps else None)
        due.append(self.linger_until if self.lingers() else None)
        due.append(self.template.deadline() if self.template is not None else None)
        if not self.leaving:
            due.append(self.lease.ends_at)
            due.append(self.lease.next_ping if self.wire is not None and self.wire.is_set_up else None)
            due.append(self.set_up_at if self.setup is not None else None)
            if self.presence is not None:
                due += [self.look_at, self.bounds.change_after(self.regulated_at)]
        now = clock()
        due.append(now + LONGEST_WAIT if self.running else None)
        known = [moment for moment in due if moment is not None]
        return max(0.0, min(known) - now) if known else None

    def enforce(self) -> None:
        """Do what is due: leave, ask the head for a sign of life, end what has run for too long."""
        now = clock()
        if self.lease.is_over(now):
            self.leave(self.lease.ends_at + self.lease_grace)
        if self.told_to_leave:
            self.leave(now + self.grace)
        if self.wire is not None and self.wire.is_set_up and not self.leaving and self.lease.ping_due(now):
            self.say({"op": "ping", "at": now})
            self.lease.pinged(now)
        if self.sweeps and now >= self.sweep_at:
            self.sweep(self.sweeps - 1)
        for attempt in self.running.values():
            deadline = attempt.deadline()
            if deadline is None or now < deadline:
                continue
            if attempt.ending:
                attempt.kill()
            else:
                attempt.end("timeout", now + self.grace)

    def leave(self, kill_at: float) -> None:
        """Take nothing and nobody more, end every job; the loop goes on until the last one has ended."""
        self.leaving = True
        self.setup = None
        if self.place is not None:
            self.place.close()
        self.give_back(len(self.queue), "the worker is leaving")
        self.withdraw()
        if self.template is not None:
            self.template.end()
        for attempt in self.running.values():
            attempt.end("stopped", kill_at)

    # -- the conversation -----------------------------------------------------------------------------------

    def converse(self, readable: list[Any]) -> None:
        """Read what the head sent and act on every whole line of it."""
        if self.wire is None:
            return
        if self.wire.source in readable:
            goes_on = self.wire.read()
            self.obey()
            if not goes_on:
                self.detach()
        elif self.wire.relay in readable:
            self.detach()  # the relay never says anything: it is gone, and the head will think we are

    def obey(self) -> None:
        """Act on the messages that have come."""
        for message in self.wire.messages() if self.wire is not None else []:
            self.handle(message)
        self.fill()

    def detach(self) -> None:
        """End the conversation; go on without one while there is something to tell the next head."""
        if self.wire is not None:
            self.wire.drop()
            hush()
        self.wire = None
        self.setup = None
        if self.place is None or not (self.queue or self.unfinished() or self.reported):
            self.leave(clock() + self.grace)

    def handle(self, message: dict[str, Any]) -> None:
        """Carry out one message."""
        op = message["op"]
        if op == "run":
            self.take(Attempt(message, self.mark))
        elif op == "ack":
            self.acknowledge(message["ids"])
        elif op == "pong":
            self.lease.answered(message["at"])
            self.unconfirmed = [entry for entry in self.unconfirmed if entry[0] >= message["at"]]
        elif op == "stop":
            self.stop(message.get("ids"))
        elif op == "recall":
            self.give_back(message["most"], "it was wanted elsewhere")
        elif op == "quit":
            self.leave(clock() + self.grace)
        elif op == "bounds":
            self.take_bounds(message)
            self.regulate(clock())
            self.look_at = 0.0  # by other rules the same may be too little, or enough
        elif op == "setup":
            self.setup = message
            self.set_up_at = clock()
            self.set_up_until = self.set_up_at + VISIBLE_PATIENCE
        else:
            raise ValueError(f"the head said {op!r}, which this worker does not know")

    def say(self, message: dict[str, Any]) -> None:
        """Tell the head, if there is one, and before it what could wait for a message."""
        self.linger_until = 0.0
        if self.wire is None:
            return
        if self.published and self.wire.is_set_up:
            done, self.published = self.published, []
            self.unconfirmed += [(clock(), id) for id in done]
            self.wire.put({"op": "published", "ids": done})
        self.wire.put(message)

    def lingers(self) -> bool:
        """Say whether what there is to say may wait for more: there is work for every slot that gets free."""
        return len(self.queue) >= max(1, self.regulated_slots) and self.linger_until > clock()

    def say_farewell(self) -> None:
        """Write what is left, as long as the head reads it."""
        self.say({"op": "bye"})
        while self.wire is not None and self.wire.outgoing:
            if not select.select([], [self.wire.sink], [], FAREWELL_PATIENCE)[1] or not self.wire.flush():
                return

    # -- being taken up again -------------------------------------------------------------------------------

    def attend_door(self, readable: list[Any]) -> None:
        """Let newcomers in and hear what they have to say; none of them is waited for."""
        if self.place is None or self.leaving:
            return
        for caller in [caller for caller in self.place.callers if caller in readable]:
            self.place.callers.remove(caller)
            self.answer(caller)
        if self.place.listener is not None and self.place.listener in readable:
            self.place.accept()

    def answer(self, caller: _socket.socket) -> None:
        """Take the conversation that a newcomer brings, or say why not."""
        descriptors: list[int] = []
        try:
            text, descriptors = hear(caller)
            message = loads(text.encode("utf-8"))
            data = message["data"].encode("ascii")
            answer = self.judge(message["digest"], message["epoch"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            answer = ""  # not one of ours, or gone in the middle of it
        if answer == "taken" and len(descriptors) == 2 and tell(caller, answer, self.status):
            self.take_up(message["epoch"], Wire(descriptors[0], descriptors[1], data, caller))
            return
        if answer in ("other", "superseded"):
            tell(caller, answer)
        for descriptor in descriptors:
            os.close(descriptor)
        caller.close()

    def judge(self, digest: str, epoch: int) -> str:
        """Say what to answer a newcomer; leave if its head needs another version of this program."""
        if epoch < self.epoch:
            return "superseded"
        if digest == self.digest:
            return "taken"
        self.leave(clock() + self.grace)
        return "other"

    def take_up(self, epoch: int, wire: Wire) -> None:
        """Go on with another conversation; its first message is `setup`."""
        if self.wire is not None:
            self.wire.drop()
            hush()
        self.wire = wire
        self.epoch = epoch
        self.published = [id for _, id in self.unconfirmed] + self.published
        self.unconfirmed = []
        self.obey()

    # -- set-up ---------------------------------------------------------------------------------------------

    def attend_set_up(self) -> None:
        """Look whether this host can do the work, as often as a network home may need, and say so."""
        now = clock()
        if self.setup is None or now < self.set_up_at:
            return
        setup = self.setup
        try:
            folders = inspect(setup)
        except UnusableError as error:
            self.set_up_at = now + VISIBLE_INTERVAL
            is_late = now >= self.set_up_until or self.lease.is_over(now)
            if is_late or not isinstance(error, NotVisibleError):
                self.say({"op": "unusable", "reason": str(error)})
                self.leave(now + self.grace)
            return
        self.setup = None
        folders, self.folders = self.folders, folders
        for descriptor in folders.values():
            os.close(descriptor)
        self.adjust(setup)
        self.look(now)
        self.regulate(now)
        if not self.leaving:
            self.announce()

    def adjust(self, setup: dict[str, Any]) -> None:
        """Take over what the head wants."""
        if self.queue or self.unfinished() or self.reported:
            self.lease.resize(clock(), setup["lease"])
        else:
            self.lease = Lease(clock(), setup["lease"])  # no head relies on the end of what has not begun
        self.grace = setup["grace"]
        self.lease_grace = setup["lease_grace"]
        # Jobs stand back, the worker does not: it shares their session's part of the processor, which is tiny
        # while others need the rest, and behind their long turns it would be seconds late to let them stand.
        self.nice = max(os.getpriority(os.PRIO_PROCESS, 0), setup["nice"])
        stand_back(self.nice)
        self.turns.hurry()
        self.launcher = Launcher(setup)
        self.prepare_template(setup["preload"])
        self.take_bounds(setup["bounds"])
        self.confinement = None
        if setup["memory"] is not None:
            self.confinement = Confinement(setup["memory"], nice=self.nice)
        if setup["note"] is not None:
            self.note = self.note or Note(setup["note"], setup["facts"])
            self.note.update(setup["facts"])

    def prepare_template(self, order: dict[str, Any] | None) -> None:
        """Have jobs made by a template, if they are to be; one that another head wanted is ended."""
        waiting = [] if self.template is None else self.template.withdraw()
        if self.template is not None:
            self.template.end()
        self.template = None if order is None else Template(order, self.mark)
        self.queue = {**{attempt.id: attempt for attempt in waiting}, **self.queue}  # `regulate` fills slots

    def announce(self) -> None:
        """Tell the head what there is, and again what it has not acknowledged."""
        if self.wire is None:
            return
        held = [*self.unfinished(), *self.queue.values(), *self.reported.values()]
        self.say(
            {
                "op": "ready",
                "python": sys.version.split()[0],
                "cores": os.cpu_count() or 1,
                "pid": os.getpid(),
                "machine": machine(),
                "resumed": self.wire.relay is not None,
                "holds": [attempt.id for attempt in held],
                "state": self.state(),
            }
        )
        self.wire.is_set_up = True
        for attempt in self.reported.values():
            self.say(attempt.ended)

    # -- other people ---------------------------------------------------------------------------------------

    def take_bounds(self, message: dict[str, Any]) -> None:
        """Take over how many jobs may run and when, and what other people may expect."""
        self.bounds = Bounds(clock(), message["phases"], message["at_edge"])
        self.owner = message["owner"]
        if self.presence is None:
            self.presence = Presence(self.owner)
        else:
            self.presence.adjust(self.owner)

    def look_around(self) -> None:
        """Look who else needs this PC, about once a second, and let jobs stand still or go on."""
        if self.presence is None or self.leaving:
            return
        now = clock()
        change = self.bounds.change_after(self.regulated_at)
        if now >= self.look_at:
            self.look(now)
            self.regulate(now)
        elif change is not None and now >= change:
            self.regulate(now)

    def look(self, now: float) -> None:
        """Look at the machine and at what the jobs use; leave if the user said so at this PC."""
        assert self.presence is not None
        self.looked_at = now
        is_watchful = self.running or self.owner["policy"] != IGNORE
        self.look_at = now + (LOOK_INTERVAL if is_watchful else IDLE_INTERVAL)
        guardian = os.getppid()
        jobs = descendants(os.getpid())
        self.presence.look(now, [os.getpid(), *([guardian] if guardian > 1 else []), *jobs])
        self.busy_since = (self.busy_since or now) if self.presence.busy else None
        stray_sessions([os.getpid(), *jobs], self.nice)
        if self.confinement is not None:
            for attempt in self.running.values():
                if not attempt.ending and self.confinement.is_over(attempt.processes()):
                    attempt.ending = "memory"
                    attempt.kill()
        folder = os.path.dirname(self.note.wanted) if self.note is not None else ""
        order = stop_order(os.geteuid(), folder) if folder else ""
        if order:
            self.say({"op": "unusable", "reason": order})
            self.leave(now + self.grace)

    def regulate(self, now: float) -> None:
        """Let no more jobs run than may, none while somebody else needs this PC, and as many as may."""
        if self.presence is None or self.leaving:
            return
        self.regulated_at = now
        slots, nice = self.bounds.at(now)
        nice = max(nice, self.nice)
        if self.presence.busy or slots < self.regulated_slots:
            self.give_back(len(self.queue), "fewer may run here now")
        self.regulated_slots = slots
        attempts = [attempt for attempt in self.running.values() if not attempt.ending]
        stand = [attempt.paused_at is not None for attempt in attempts]
        busy, owner = bool(self.presence.busy), self.owner["policy"]
        if self.busy_since is not None and now >= self.busy_since + self.owner["give_back"]:
            owner = REQUEUE
        steps = measures(stand, slots, self.bounds.at_edge, busy=busy, owner=owner)
        for place in steps.end:
            attempts[place].end("stopped", now + self.grace)
        for place in steps.go_on:
            attempts[place].go_on(now)
        for place in steps.pause:
            attempts[place].pause(now)
        for attempt in attempts:
            if attempt.paused_at is not None:
                attempt.pause(now)  # what was just being started
            elif nice > attempt.nice:
                attempt.stand_back(nice)
        self.fill()
        self.tell_state(now)

    def state(self) -> dict[str, Any]:
        """Give what the head has to know of other people and of what stands still."""
        assert self.presence is not None
        paused = [attempt.id for attempt in self.running.values() if attempt.paused_at is not None]
        self.told = (bool(self.presence.busy), bool(self.presence.full), *paused)
        return {"busy": self.presence.busy, "full": self.presence.full, "paused": paused}

    def tell_state(self, now: float) -> None:
        """Tell the head and the note what has changed."""
        before = self.told
        state = self.state()
        if self.wire is not None and self.wire.is_set_up and self.told != before:
            self.say({"op": "state", **state})
        if self.note is not None:
            paused = len(state["paused"])
            why = state["busy"] or state["full"] or (OUTSIDE if paused else "")
            self.note.say(len(self.running) - paused, paused, self.bounds.at(now)[0], why, time.time())
            if self.note.trouble and self.note.trouble != self.complained:
                self.say({"op": "notice", "text": self.note.trouble})
            self.complained = self.note.trouble

    # -- jobs -----------------------------------------------------------------------------------------------

    def take(self, attempt: Attempt) -> None:
        """Take an order: start it, let it wait for a slot, or say that it cannot be begun."""
        if attempt.id in self.reported or attempt.id in self.queue or self.is_begun(attempt.id):
            return  # said twice
        if not self.may_begin(attempt):
            return
        self.queue[attempt.id] = attempt
        if len(self.running) < self.regulated_slots:  # as far as it is seen at once; `obey` looks again
            self.fill()

    def is_begun(self, id: tuple[int, int]) -> bool:
        """Say whether an attempt runs here, or is being made."""
        return any(attempt.id == id for attempt in self.unfinished())

    def fill(self) -> None:
        """Start what waits, as long as there is a slot for it."""
        if not self.queue or self.leaving:
            return
        slots, nice = self.bounds.at(clock())
        while self.queue and len(self.unfinished()) < slots:
            self.start(self.queue.pop(next(iter(self.queue))), max(nice, self.nice))

    def give_back(self, most: int, why: str) -> None:
        """Report that waiting jobs will not be begun here, the youngest first."""
        for id in list(reversed(self.queue))[:most]:
            attempt = self.queue.pop(id)
            attempt.began = clock()
            self.report(attempt, "stopped", tail="not started: " + why)

    def start(self, attempt: Attempt, nice: int) -> None:
        """Start an attempt that stands back so far, or report at once that it could not be started."""
        attempt.began = clock()
        try:
            attempt.pid = self.launcher.start(attempt, self.folders["attempts"], self.template)
        except RefusedError as error:
            self.refuse(attempt, f"cannot start {attempt.argv[0]}: {error}")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            self.report(attempt, "not started", tail=f"cannot start {attempt.argv[0]}: {why}")
        else:
            if attempt.pid:
                self.take_charge(attempt, nice)

    def may_begin(self, attempt: Attempt) -> bool:
        """Say whether an attempt may begin now; report that it may not."""
        if self.leaving or self.lease.is_over(clock()):
            self.report(attempt, "refused", tail="not started: the worker is leaving")
            return False
        assert self.presence is not None
        if self.presence.busy or not self.bounds.at(clock())[0]:
            self.report(attempt, "stopped", tail="not started: nothing may run here at the moment")
            return False
        return True

    def take_charge(self, attempt: Attempt, nice: int) -> None:
        """Hold the process of an attempt to what jobs are held to."""
        self.running[attempt.pid] = attempt
        self.look_at = min(self.look_at, max(attempt.began, self.looked_at + LOOK_INTERVAL))
        if self.confinement is not None:
            self.confinement.confine(attempt.pid)
        self.turns.give(attempt.pid, nice)  # what it has started meanwhile: `regulate`

    def unfinished(self) -> list[Attempt]:
        """Give the attempts that run, and those that a template is to make."""
        running = list(self.running.values())
        if self.template is None:
            return running
        return running + [request.attempt for request in self.template.waiting.values()]

    def attend_template(self, readable: list[Any]) -> None:
        """Take charge of what the template has made; start plainly what it cannot make."""
        if self.template is None:
            return
        self.template.folder = self.folders.get("attempts", -1)
        for attempt, pid in self.template.attend(readable):
            attempt.pid, attempt.began = pid, clock()
            nice = max(self.bounds.at(attempt.began)[1], self.nice)
            if self.may_begin(attempt) and pid:
                self.take_charge(attempt, nice)
                self.template.let_go(attempt)
            elif pid:
                self.template.drop(attempt)
            elif attempt.id not in self.reported:
                self.start(attempt, nice)
        while self.template.news:
            self.say({"op": "notice", "text": self.template.news.pop(0), "once": True})
        self.fill()

    def withdraw(self, ids: list[list[int]] | None = None) -> None:
        """Report these attempts, or all, as stopped that a template was to make."""
        for attempt in self.template.withdraw(ids) if self.template is not None else []:
            self.report(attempt, "stopped", tail="not started: it was stopped before")

    def refuse(self, attempt: Attempt, why: str) -> None:
        """Report that nothing can be started here at the moment, and give back what waits."""
        self.report(attempt, "refused", tail=why)
        self.give_back(len(self.queue), "nothing can be started here at the moment")

    def stop(self, ids: list[list[int]] | None) -> None:
        """End these attempts, or all."""
        for id in [id for id in self.queue if ids is None or list(id) in ids]:
            self.report(self.queue.pop(id), "stopped", tail="not started: it was to be stopped")
        self.withdraw(ids)
        for attempt in self.running.values():
            if ids is None or list(attempt.id) in ids:
                attempt.end("stopped", clock() + self.grace)

    def reap(self) -> None:
        """Report every job that has ended, and sweep up what it left behind."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return  # nothing runs, and nothing was left
            if ended is None:
                self.sweep_soon()
                return
            attempt = self.running.pop(ended.si_pid, None)
            if attempt is not None:
                # Before the pid is given back: afterwards the group's number could be somebody else's.
                send(-attempt.pid, signal.SIGKILL)
            _, status, usage = os.wait4(ended.si_pid, 0)
            if attempt is not None:
                self.fill()
                self.conclude(attempt, status, usage)
            elif self.template is not None:
                self.template.ended(ended.si_pid)

    def sweep_soon(self) -> None:
        """Sweep now, or in a moment where jobs end so fast that it would have to be done all the time."""
        now = clock()
        if now >= self.swept_at + SWEEP_BREAK:
            self.sweep(SWEEPS)
        elif self.sweeps < SWEEPS + 1:
            self.sweeps, self.sweep_at = SWEEPS + 1, self.swept_at + SWEEP_BREAK

    def sweep(self, again: int) -> None:
        """Kill what was left behind, and look again if something is there that cannot be told whose it is.

        A process that is just executing another program shows no environment for a moment.
        """
        kill_all(self.strays)
        self.swept_at = clock()
        self.sweeps = again if self.has_unmarked else 0
        self.sweep_at = self.swept_at + SWEEP_INTERVAL

    def strays(self) -> list[int]:
        """Give what jobs that have ended left outside their process groups.

        It has become a child of ours when its parent ended. What cannot be told whose it is, because it has
        cleared its environment, is left alone as long as a job runs that may need it.
        """
        others = [pid for pid in children(os.getpid()) if pid not in self.running]
        if not others:
            self.has_unmarked = False
            return []
        wanted = {attempt.mark for attempt in self.running.values()}
        wanted |= self.template.marks() if self.template is not None else set()
        marks = {pid: mark_of(pid) for pid in others}
        self.has_unmarked = not all(marks.values())
        left = [pid for pid in others if marks[pid] not in wanted and (marks[pid] or not self.running)]
        return left + descendants(*left)

    def conclude(self, attempt: Attempt, status: int, usage: resource.struct_rusage) -> None:
        """Report how a process ended."""
        exited = os.WIFEXITED(status)
        code = os.WEXITSTATUS(status) if exited else None
        number = None if exited else os.WTERMSIG(status)
        succeeded = code == 0 and not attempt.ending
        tail = "" if succeeded else self.last_words(attempt)
        if self.confinement is not None:
            peak = usage.ru_maxrss * 1024
            if not succeeded and not attempt.ending and self.confinement.ran_out(attempt.pid, peak, tail):
                attempt.ending = "memory"
            self.confinement.release(attempt.pid)
        self.report(
            attempt,
            attempt.ending or ("exited" if exited else "signalled"),
            tail=tail,
            exit_code=code,
            signal=number,
            user=round(usage.ru_utime, 4),
            system=round(usage.ru_stime, 4),
            memory=usage.ru_maxrss * 1024,
        )

    def last_words(self, attempt: Attempt) -> str:
        """Give the end of its standard error; what it could not write because the disk is full, we say."""
        folder = self.folders["attempts"]
        tail = attempt.tail(folder)
        room = os.fstatvfs(folder)
        if not tail and (room.f_bavail == 0 or (room.f_files and room.f_favail == 0)):
            return "(nothing on its standard error, and there is no room left for its output)"
        return tail

    def report(self, attempt: Attempt, ending: str, **details: object) -> None:
        """Tell the head that an attempt has ended, and keep that until it is acknowledged."""
        now = clock()
        outcome: dict[str, object] = {"ending": ending, "seconds": round(now - attempt.began, 4)}
        if attempt.began - attempt.given >= WORTH_TELLING:
            outcome["waited"] = round(attempt.began - attempt.given, 4)
        if attempt.stood_still(now):
            outcome["paused"] = round(attempt.stood_still(now), 4)
        if self.confinement is not None and ending == "memory":
            outcome["limit"] = self.confinement.limit
        outcome.update(details)
        attempt.ended = {"op": "ended", "job": attempt.job, "attempt": attempt.number, "outcome": outcome}
        self.reported[attempt.id] = attempt
        if self.wire is not None and self.wire.is_set_up:
            linger_until = self.linger_until if self.wire.outgoing else now + LINGER
            self.say(attempt.ended)  # otherwise it follows `ready`
            self.linger_until = linger_until

    def acknowledge(self, ids: list[tuple[int, int, bool]]) -> None:
        """Forget results that the head has, and give the files of those that count the job's own names."""
        for job, number, publish in ids:
            attempt = self.reported.pop((job, number), None)
            if attempt is None or not publish:
                continue
            folders = self.folders
            try:
                rename(attempt.out, folders["attempts"], attempt.published_out, folders["out"])
                rename(attempt.err, folders["attempts"], attempt.published_err, folders["err"])
            except OSError as error:
                self.say({"op": "notice", "text": f"job {job}: cannot publish its output: {error}"})
            else:
                self.published.append((job, number))


def hush() -> None:
    """Give up standard error: sshd keeps a connection open for as long as anybody has it."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)


# -- the processes -------------------------------------------------------------------------------------------


def main(token: str) -> int:
    """Say where the conversation begins, and be guardian, worker or relay; give the exit status."""
    # Taken off the standard streams, so that nothing else can write into it.
    source, sink = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.write(sink, f"{MARKER} {token}\n".encode("ascii"))
    data = b""
    while b"\n" not in data:
        piece = os.read(source, MESSAGE_BYTES)
        if not piece:
            return UNKNOWN
        data += piece
    setup = loads(data[: data.index(b"\n")])
    name_process(setup["title"])
    place = None
    if setup["place"] is not None and sys.platform == "linux":
        visit = Visit(setup, data, source, sink)
        try:
            place = claim(setup["place"], setup["grace"], visit)
            if place is None:
                return visit.relay()
            end_strays(setup["mark"])
        except (UnusableError, OSError) as error:
            os.write(sink, line_of({"op": "unusable", "reason": str(error)}))
            return UNKNOWN
        except SupersededError:
            os.write(sink, line_of({"op": "superseded"}))
            return UNKNOWN
    return split(setup, Wire(source, sink, data), place)


def split(setup: dict[str, Any], wire: Wire, place: Place | None) -> int:
    """Become guardian and worker, and give the exit status of either."""
    adopt_orphans()
    reader, writer = os.pipe()
    guardian = os.getpid()
    pid = os.fork()
    if pid:
        wire.drop()  # the worker alone holds the conversation: its end is the end of that
        return guard(pid, place, writer, setup["note"])
    os.close(writer)
    os.setsid()
    adopt_orphans()
    worker = Worker(setup, wire, place, reader)
    if place is not None:
        try:
            place.listen()  # not before the fork: a newcomer is told who called this
        except OSError as error:
            os.write(wire.sink, line_of({"op": "unusable", "reason": f"cannot listen: {error}"}))
            return 0
    worker.serve()
    end_descendants()
    if worker.note is not None:
        worker.note.remove()
    if place is not None and os.getppid() != guardian:
        place.remove()
    return 0


def guard(worker: int, place: Place | None, writer: int, note: str | None) -> int:
    """Wait for the worker's end, end what it left, and give the exit status: 0 if it left in order."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, frame: send(worker, number))
    pid = 0
    while pid != worker:
        pid, ending = os.wait()
    end_descendants()
    if note is not None:
        remove_notes(note)
    status = 0 if ending == 0 else SWEPT
    if place is not None:
        place.remove()
    os.write(writer, bytes([status]))
    return status


if __name__ == "__main__":
    # Nothing is left to be done, and taking the interpreter down in order takes milliseconds.
    os._exit(main(sys.argv[1]))
