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

from pisa_fab.caretaker import Caretaker
from pisa_fab.execution import Attempt
from pisa_fab.launcher import Launcher
from pisa_fab.lease import Lease
from pisa_fab.light import loads, signal
from pisa_fab.notes import name_process, remove_notes
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
from pisa_fab.processes import adopt_orphans, clock, end_descendants, send
from pisa_fab.restraint import Confinement, stand_back
from pisa_fab.template import Template
from pisa_fab.workload import Workload

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    import _socket
    from typing import Any

FAREWELL_PATIENCE = 5.0  # seconds that a head may take to read the last words
VISIBLE_PATIENCE = 5.0  # seconds for a new file to show on a network home
VISIBLE_INTERVAL = 0.2
LONGEST_WAIT = 1.0  # seconds; select counts no time asleep, so a suspended machine is noticed this much later
LINGER = 0.1  # seconds for which the end of a job is no news that is worth a message of its own


class Worker:
    """The loop: messages in, processes started and reaped, reports out."""

    def __init__(self, setup: dict[str, Any], wire: Wire, place: Place | None, status: int) -> None:
        self.wire: Wire | None = wire
        self.place = place
        self.status = status  # where relays can read the exit status that the guardian writes
        self.work = Workload(setup, self.say, self.say_end, self.refusal)
        self.caretaker = Caretaker(self.work, self.say, self.say_state, self.stop_working)
        self.lease = Lease(clock(), setup["lease"])
        self.lease_grace: float = setup["lease_grace"]
        self.digest: str = setup["digest"]
        self.epoch: int = setup["epoch"]
        self.mark: str = setup["mark"]
        self.published: list[tuple[int, int]] = []  # not worth a message of its own
        self.unconfirmed: list[tuple[float, tuple[int, int]]] = []  # published, and when that was said
        self.setup: dict[str, Any] | None = None  # while it is being carried out
        self.set_up_at = 0.0  # when to try again
        self.set_up_until = 0.0  # when to give up
        self.linger_until = 0.0  # when what there is to say has waited long enough
        self.told_to_leave = False  # by a signal

    @property
    def leaving(self) -> bool:
        """Whether nothing and nobody more is taken."""
        return self.work.is_closed

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
        while not self.leaving or self.work.running:
            readable = self.wait(wake_read)
            if wake_read in readable:
                os.read(wake_read, 4096)
                self.work.reap()
            self.converse(readable)
            self.work.attend_template(readable)
            self.attend_door(readable)
            self.attend_set_up()
            self.enforce()
            self.caretaker.attend()
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
        readers += self.work.template.readers() if self.work.template is not None else []
        if not self.leaving:
            if self.wire is not None:
                readers.append(self.wire.source)
                readers += [self.wire.relay] if self.wire.relay is not None else []
            if self.place is not None:
                readers += [self.place.listener, *self.place.callers]
        return select.select(readers, writers, [], self.patience())[0]

    def patience(self) -> float | None:
        """Give the seconds until something is due by time alone, None for never."""
        due = self.work.due()
        due.append(self.linger_until if self.lingers() else None)
        if not self.leaving:
            due.append(self.lease.ends_at)
            due.append(self.lease.next_ping if self.wire is not None and self.wire.is_set_up else None)
            due.append(self.set_up_at if self.setup is not None else None)
            due += self.caretaker.due()
        now = clock()
        due.append(now + LONGEST_WAIT if self.work.running else None)
        known = [moment for moment in due if moment is not None]
        return max(0.0, min(known) - now) if known else None

    def enforce(self) -> None:
        """Do what is due: leave, ask the head for a sign of life, end what has run for too long."""
        now = clock()
        if self.lease.is_over(now):
            self.leave(self.lease.ends_at + self.lease_grace)
        if self.told_to_leave:
            self.leave(now + self.work.grace)
        if self.wire is not None and self.wire.is_set_up and not self.leaving and self.lease.ping_due(now):
            self.say({"op": "ping", "at": now})
            self.lease.pinged(now)
        self.work.leftovers.look_if_due(now)
        self.work.end_overdue(now)

    def leave(self, kill_at: float) -> None:
        """Take nothing and nobody more, end every job; the loop goes on until the last one has ended."""
        self.setup = None
        if self.place is not None:
            self.place.close()
        self.work.close(kill_at)

    def stop_working(self, why: str) -> None:
        """Leave because the user wants it at this PC."""
        self.say({"op": "unusable", "reason": why})
        self.leave(clock() + self.work.grace)

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
        self.work.fill()

    def detach(self) -> None:
        """End the conversation; go on without one while there is something to tell the next head."""
        if self.wire is not None:
            self.wire.drop()
            hush()
        self.wire = None
        self.setup = None
        if self.place is None or not self.work.held():
            self.leave(clock() + self.work.grace)

    def handle(self, message: dict[str, Any]) -> None:
        """Carry out one message."""
        op = message["op"]
        if op == "run":
            self.work.take(Attempt(message, self.mark))
        elif op == "ack":
            self.published += self.work.acknowledge(message["ids"])
        elif op == "pong":
            self.lease.answered(message["at"])
            self.unconfirmed = [entry for entry in self.unconfirmed if entry[0] >= message["at"]]
        elif op == "stop":
            self.work.stop(message.get("ids"))
        elif op == "recall":
            self.work.give_back(message["most"], "it was wanted elsewhere")
        elif op == "quit":
            self.leave(clock() + self.work.grace)
        elif op == "bounds":
            self.caretaker.take_bounds(message)
            self.caretaker.regulate(clock())
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

    def say_end(self, attempt: Attempt) -> None:
        """Tell the head that an attempt has ended; that may wait a little for more of them."""
        if self.wire is not None and self.wire.is_set_up:
            linger_until = self.linger_until if self.wire.outgoing else clock() + LINGER
            self.say(attempt.ended)  # otherwise it follows `ready`
            self.linger_until = linger_until

    def say_state(self, state: dict[str, Any]) -> None:
        """Tell the head of other people here, and of what stands still, unless `ready` will."""
        if self.wire is not None and self.wire.is_set_up:
            self.say({"op": "state", **state})

    def refusal(self) -> tuple[str, str] | None:
        """Say why no job may begin now, as an ending and in words; None if there is no reason."""
        if self.leaving or self.lease.is_over(clock()):
            return "refused", "the worker is leaving"
        if not self.caretaker.may_run(clock()):
            return "stopped", "nothing may run here at the moment"
        return None

    def lingers(self) -> bool:
        """Say whether what there is to say may wait for more: there is work for every slot that gets free."""
        return len(self.work.queue) >= max(1, self.work.slots) and self.linger_until > clock()

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
        self.leave(clock() + self.work.grace)
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
                self.leave(now + self.work.grace)
            return
        self.setup = None
        folders, self.work.folders = self.work.folders, folders
        for descriptor in folders.values():
            os.close(descriptor)
        self.adjust(setup)
        self.caretaker.look(now)
        self.caretaker.regulate(now)
        if not self.leaving:
            self.announce()

    def adjust(self, setup: dict[str, Any]) -> None:
        """Take over what the head wants."""
        if self.work.held():
            self.lease.resize(clock(), setup["lease"])
        else:
            self.lease = Lease(clock(), setup["lease"])  # no head relies on the end of what has not begun
        self.lease_grace = setup["lease_grace"]
        work = self.work
        work.grace = setup["grace"]
        # Jobs stand back, the worker does not: it shares their session's part of the processor, which is tiny
        # while others need the rest, and behind their long turns it would be seconds late to let them stand.
        work.nice = max(os.getpriority(os.PRIO_PROCESS, 0), setup["nice"])
        stand_back(work.nice)
        work.turns.hurry()
        work.launcher = Launcher(setup)
        preload, memory = setup["preload"], setup["memory"]
        work.replace_template(None if preload is None else Template(preload, self.mark))
        self.caretaker.take_bounds(setup["bounds"])
        work.confinement = None if memory is None else Confinement(memory, nice=work.nice)
        self.caretaker.take_note(setup["note"], setup["facts"])

    def announce(self) -> None:
        """Tell the head what there is, and again what it has not acknowledged."""
        if self.wire is None:
            return
        self.say(
            {
                "op": "ready",
                "python": sys.version.split()[0],
                "cores": os.cpu_count() or 1,
                "pid": os.getpid(),
                "machine": machine(),
                "resumed": self.wire.relay is not None,
                "holds": [attempt.id for attempt in self.work.held()],
                "state": self.caretaker.state(),
            }
        )
        self.wire.is_set_up = True
        for attempt in self.work.reported.values():
            self.say(attempt.ended)


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
    worker.caretaker.remove_note()
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
