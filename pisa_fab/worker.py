"""The program on the host: it starts jobs, watches them, reports how they ended, and leaves nothing behind.

One file, standard library only, Python 3.8 or newer: the head sends this source over the SSH channel and it
is run from there, so that nothing has to be installed on a host and both ends always have the same version.
It decides nothing about a batch: which job runs where and whose result counts is the head's business. It
knows no file names: they come with each message.

Two processes: the worker, and above it a guardian that does nothing but wait for the worker's end, whatever
that is, and then ends everything that it leaves. Both adopt what loses its parent below them (a "subreaper"
of Linux), so a job's grandchild is found although it has left its session.

The conversation is one JSON object a line. From the head:

    setup    workdir, venv, nonce and the file that holds it, nice, threads, lease and grace (seconds), env,
             folders: of the attempts' files and of published outputs (out, err)
    run      job, attempt, argv, env, timeout (seconds or null), the names of two files, out and err: `files`
             while it runs, `published` when it counts
    ack      ids: [[job, attempt, publish], ...]: these results are in the journal
    stop     end every running job
    ping     nothing but a sign of life
    quit     end every running job and leave

From the worker: `ready` or `unusable` (once), `ended` (an attempt's outcome), `published` (ids, with the next
message), `pong`, `bye` (the last one), `notice` (a text for the person). Nothing here ever blocks on the
head: what it does not read is kept.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import select
import shutil
import signal
import struct
import sys
import time

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    import resource
    from typing import Any

MARK = "PISA_MARK"  # the variable in the environment of a job's processes that says whose they are
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
SWEPT = 75  # exit status of a guardian whose worker was killed: its jobs have been ended
MARKER = "pisa_fab worker"  # the head skips everything before this and the token behind it
TAIL_BYTES = 4096
TAIL_LINES = 8
FAREWELL_PATIENCE = 5.0  # seconds that a head may take to read the last words
NONCE_PATIENCE = 5.0  # seconds for a new file to show on a network home
SLICE_NANOSECONDS = 100_000_000  # the longest that Linux grants
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # numbers of a system call that Python does not wrap
# What numeric libraries ask for the size of their thread pools.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def clock() -> float:
    """Give seconds on a monotonic clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def take_long_slices() -> None:
    """Ask for few, long turns of the processor, for this process and all that it starts.

    A scheduler that knows the length of turns (EEVDF, Linux 6.12) lets programs with short ones go first,
    which is what people sit in front of. And jobs that share a core throw each other out of its caches less
    often (docs/performance.md). Where it is not known nothing changes.
    """
    call = SCHED_SETATTR.get(platform.machine())
    release = [int(part) for part in platform.release().split(".")[:2] if part.isdigit()]
    if call is None or release < [6, 12]:
        return
    import ctypes

    nice = os.getpriority(os.PRIO_PROCESS, 0)
    # struct sched_attr of sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period.
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, SLICE_NANOSECONDS, 0, 0)
    ctypes.CDLL(None).syscall(call, 0, attributes, 0)


def adopt_orphans() -> None:
    """Become the parent of every process below this one that loses its own. Does nothing but on Linux."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except AttributeError:
        return


def children() -> list[int]:
    """Give the processes whose parent this one is."""
    me = os.getpid()
    try:
        file = os.open(f"/proc/{me}/task/{me}/children", os.O_RDONLY)
    except OSError:
        return [pid for pid in processes() if parent_of(pid) == me]  # a kernel without that file
    try:
        return [int(pid) for pid in os.read(file, 1 << 16).split()]
    finally:
        os.close(file)


def processes() -> list[int]:
    """Give all processes that can be seen, none where there is no /proc."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def parent_of(pid: int) -> int:
    """Give a process's parent, 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def send(pid: int, number: int) -> None:
    """Send a process a signal, if it is still there and we may."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


class UnusableError(Exception):
    """The host cannot do the work; the message says why."""


class Attempt:
    """One execution of a job: its process, its files, and how it is being ended, if it is."""

    def __init__(self, message: dict[str, Any], folders: dict[str, str]) -> None:
        self.job: int = message["job"]
        self.number: int = message["attempt"]
        self.argv: list[str] = message["argv"]
        self.env: dict[str, str] = message["env"]
        self.timeout: float | None = message["timeout"]
        self.out, self.err = [folders["attempts"] + os.sep + name for name in message["files"]]
        out, err = message["published"]
        self.published_out = folders["out"] + os.sep + out
        self.published_err = folders["err"] + os.sep + err
        self.pid = 0
        self.began = clock()
        self.ending = ""  # "timeout" or "stopped" once it is being ended
        self.kill_at: float | None = None  # when SIGTERM has had its time

    @property
    def id(self) -> tuple[int, int]:
        """Job and attempt number, by which the head knows it."""
        return (self.job, self.number)

    @property
    def mark(self) -> str:
        """What the environment of all its processes holds, by which they are told from other jobs'."""
        return f"{self.job}.{self.number}"

    def deadline(self) -> float | None:
        """Give the time at which something has to be done about it, None for never."""
        if self.ending:
            return self.kill_at
        return None if self.timeout is None else self.began + self.timeout

    def signal(self, number: int) -> None:
        """Send a signal to everything in the job's session that has not left its process group."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # gone already, or nothing but set-user-id programs left in it

    def end(self, why: str, grace: float) -> None:
        """Ask it to end, and note when to stop asking."""
        if not self.ending:
            self.ending = why
            self.kill_at = clock() + grace
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)

    def tail(self) -> str:
        """Give the last lines of its standard error."""
        try:
            with open(self.err, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError as error:
            return f"(its standard error cannot be read: {error.strerror})"
        return "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])


class Worker:
    """The loop: messages in, processes started and reaped, reports out."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        self.incoming = b""
        self.outgoing = bytearray()
        self.running: dict[int, Attempt] = {}  # by pid
        self.reported: dict[tuple[int, int], Attempt] = {}  # by id, until the head has acknowledged it
        self.published: list[list[int]] = []  # not worth a message of its own
        self.environment: dict[str, str] = {}
        self.folders: dict[str, str] = {}
        self.programs: dict[tuple[str, str], str] = {}  # (name, PATH) -> file
        self.lease: float | None = None
        self.grace = 5.0
        self.heard_at = clock()
        self.leaving = False

    # -- the loop -------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Work until the head says `quit`, is gone, or has been silent for a lease."""
        os.set_blocking(self.source, False)
        os.set_blocking(self.sink, False)
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: self.leave())
        while not self.leaving or self.running:
            readers = [wake_read] if self.leaving else [self.source, wake_read]
            writers = [self.sink] if self.outgoing else []
            readable, _, _ = select.select(readers, writers, [], self.patience())
            if wake_read in readable:
                os.read(wake_read, 4096)
                self.reap()
            if self.source in readable:
                self.receive()
            self.enforce()
            self.flush()
        self.say_farewell()

    def say_farewell(self) -> None:
        """Write what is left, as long as the head reads it."""
        self.say({"op": "bye"})
        while self.outgoing and select.select([], [self.sink], [], FAREWELL_PATIENCE)[1]:
            self.flush()

    def patience(self) -> float | None:
        """Give the seconds until something is due by time alone, None for never."""
        due = [attempt.deadline() for attempt in self.running.values()]
        if self.lease is not None and not self.leaving:
            due.append(self.heard_at + self.lease)
        known = [moment for moment in due if moment is not None]
        return max(0.0, min(known) - clock()) if known else None

    def enforce(self) -> None:
        """End what has run for too long, kill what did not end when asked, leave when the head is silent."""
        now = clock()
        if self.lease is not None and now >= self.heard_at + self.lease:
            self.leave()
        for attempt in list(self.running.values()):
            deadline = attempt.deadline()
            if deadline is None or now < deadline:
                continue
            if attempt.ending:
                attempt.signal(signal.SIGKILL)
                attempt.kill_at = now + 1.0
            else:
                attempt.end("timeout", self.grace)

    def leave(self) -> None:
        """Take nothing more, end every job; the loop goes on until the last one has ended."""
        self.leaving = True
        for attempt in self.running.values():
            attempt.end("stopped", self.grace)

    # -- the conversation -----------------------------------------------------------------------------------

    def receive(self) -> None:
        """Read what the head sent and act on every whole line of it."""
        try:
            data = os.read(self.source, 1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.leave()  # the head is gone, or the link is
            return
        self.heard_at = clock()
        *lines, self.incoming = (self.incoming + data).split(b"\n")
        for line in lines:
            self.handle(json.loads(line))

    def handle(self, message: dict[str, Any]) -> None:
        """Carry out one message."""
        op = message["op"]
        if op == "run":
            self.start(Attempt(message, self.folders))
        elif op == "ack":
            self.acknowledge(message["ids"])
        elif op == "ping":
            self.say({"op": "pong"})
        elif op == "stop":
            for attempt in self.running.values():
                attempt.end("stopped", self.grace)
        elif op == "quit":
            self.leave()
        elif op == "setup":
            self.set_up(message)
        else:
            raise ValueError(f"the head said {op!r}, which this worker does not know")

    def say(self, message: dict[str, Any]) -> None:
        """Put a message into the outgoing buffer, and before it what could wait for one."""
        if self.published:
            done, self.published = self.published, []
            self.say({"op": "published", "ids": done})
        self.outgoing += json.dumps(message).encode("ascii") + b"\n"

    def flush(self) -> None:
        """Write as much as the pipe takes."""
        if not self.outgoing:
            return
        try:
            written = os.write(self.sink, self.outgoing)
        except BlockingIOError:
            return
        except OSError:
            written = len(self.outgoing)  # nobody listens any more; the end of input says so too
            self.leave()
        del self.outgoing[:written]

    # -- set-up ---------------------------------------------------------------------------------------------

    def set_up(self, message: dict[str, Any]) -> None:
        """Look whether this host can do the work, and say so."""
        try:
            self.inspect(message)
        except UnusableError as error:
            self.say({"op": "unusable", "reason": str(error)})
            self.leave()
            return
        self.lease = message["lease"]
        self.grace = message["grace"]
        self.folders = message["folders"]
        current = os.getpriority(os.PRIO_PROCESS, 0)
        if message["nice"] > current:
            os.setpriority(os.PRIO_PROCESS, 0, message["nice"])
        if message["nice"] > 0:
            take_long_slices()
        self.environment = self.environment_of_jobs(message)
        self.say(
            {
                "op": "ready",
                "python": platform.python_version(),
                "cores": os.cpu_count() or 1,
                "pid": os.getpid(),
            }
        )

    def inspect(self, message: dict[str, Any]) -> None:
        """Raise UnusableError unless workdir, run directory and venv are what the head sees."""
        try:
            os.chdir(message["workdir"])
        except OSError as error:
            folder = message["workdir"]
            raise UnusableError(f"no such folder here: {folder} ({error.strerror})") from error
        self.await_nonce(message["nonce_file"], message["nonce"])
        if message["venv"] is not None:
            python = os.path.join(message["venv"], "bin", "python")
            if not os.access(python, os.X_OK):
                raise UnusableError("no such venv here: " + message["venv"])

    def await_nonce(self, path: str, nonce: str) -> None:
        """Wait for the file that proves that this host sees the run directory.

        A network file system may show a new file only after seconds, and `open` may say that it is not there
        when a listing of its folder, which asks the server again, already has it.
        """
        patience = clock() + NONCE_PATIENCE
        while True:
            try:
                os.listdir(os.path.dirname(path))
                with open(path, encoding="ascii") as file:
                    if file.read() == nonce:
                        return
                problem = "another folder of that name"
            except OSError as error:
                problem = str(error.strerror)
            if clock() >= patience:
                folder = os.path.dirname(os.path.dirname(path))
                raise UnusableError(f"does not see the run directory {folder} ({problem})")
            time.sleep(0.2)

    def environment_of_jobs(self, message: dict[str, Any]) -> dict[str, str]:
        """Give what every job's environment has before its own variables are added."""
        environment = dict(os.environ)
        if message["venv"] is not None:
            environment["VIRTUAL_ENV"] = message["venv"]
            search = environment.get("PATH", os.defpath)
            environment["PATH"] = os.path.join(message["venv"], "bin") + os.pathsep + search
            environment.pop("PYTHONHOME", None)
        for name in THREAD_VARIABLES:
            environment[name] = str(message["threads"])
        environment.update(message["env"])
        return environment

    # -- jobs -----------------------------------------------------------------------------------------------

    def start(self, attempt: Attempt) -> None:
        """Start an attempt, or report at once that it could not be started."""
        try:
            out = self.create(attempt.out)
            try:
                err = self.create(attempt.err)
                try:
                    attempt.pid = self.spawn(attempt, out, err)
                finally:
                    os.close(err)
            finally:
                os.close(out)
        except (OSError, ValueError) as error:
            self.reported[attempt.id] = attempt
            self.report(attempt, "not started", tail=f"cannot start {attempt.argv[0]}: {error}")
            return
        self.running[attempt.pid] = attempt
        if self.leaving:
            attempt.end("stopped", self.grace)

    def create(self, path: str) -> int:
        """Open a file for writing, and its folder if a network home does not show that yet."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            return os.open(path, flags, 0o666)

    def spawn(self, attempt: Attempt, out: int, err: int) -> int:
        """Start the process in a session of its own and give its pid."""
        environment = dict(self.environment)
        environment.update(attempt.env)
        environment[MARK] = attempt.mark
        return os.posix_spawn(
            self.find(attempt.argv[0], environment.get("PATH", os.defpath)),
            attempt.argv,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, err, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )

    def find(self, program: str, search: str) -> str:
        """Give the file of a program; one without a slash is looked up in PATH."""
        if os.sep in program:
            return program
        key = (program, search)
        if key not in self.programs:
            found = shutil.which(program, path=search)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "no such program in PATH")
            self.programs[key] = found
        return self.programs[key]

    def reap(self) -> None:
        """Report every job that has ended, and sweep up what it left behind."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return  # nothing runs, and nothing was left
            if ended is None:
                self.sweep()
                return
            attempt = self.running.pop(ended.si_pid, None)
            if attempt is not None:
                # Before the pid is given back: afterwards the group's number could be somebody else's.
                attempt.signal(signal.SIGKILL)
            _, status, usage = os.wait4(ended.si_pid, 0)
            if attempt is not None:
                self.reported[attempt.id] = attempt
                self.conclude(attempt, status, usage)

    def sweep(self) -> None:
        """Kill what jobs that have ended left outside their process groups.

        It has become a child of ours when its parent ended. What cannot be told whose it is, because it has
        cleared its environment, is left alone as long as a job runs that may need it.
        """
        strays = [pid for pid in children() if pid not in self.running]
        if not strays:
            return
        wanted = {attempt.mark for attempt in self.running.values()}
        for pid in strays:
            mark = mark_of(pid)
            if mark not in wanted and (mark or not self.running):
                send(pid, signal.SIGKILL)

    def conclude(self, attempt: Attempt, status: int, usage: resource.struct_rusage) -> None:
        """Report how a process ended."""
        exited = os.WIFEXITED(status)
        code = os.WEXITSTATUS(status) if exited else None
        number = None if exited else os.WTERMSIG(status)
        self.report(
            attempt,
            attempt.ending or ("exited" if exited else "signalled"),
            tail="" if code == 0 and not attempt.ending else attempt.tail(),
            exit_code=code,
            signal=number,
            user=round(usage.ru_utime, 4),
            system=round(usage.ru_stime, 4),
            memory=usage.ru_maxrss * 1024,
        )

    def report(self, attempt: Attempt, ending: str, **details: object) -> None:
        """Tell the head that an attempt has ended."""
        outcome: dict[str, object] = {"ending": ending, "seconds": round(clock() - attempt.began, 4)}
        outcome.update(details)
        self.say({"op": "ended", "job": attempt.job, "attempt": attempt.number, "outcome": outcome})

    def acknowledge(self, ids: list[tuple[int, int, bool]]) -> None:
        """Forget results that the head has, and give the files of those that count the job's own names."""
        for job, number, publish in ids:
            attempt = self.reported.pop((job, number), None)
            if attempt is None or not publish:
                continue
            try:
                os.replace(attempt.out, attempt.published_out)
                os.replace(attempt.err, attempt.published_err)
            except OSError as error:
                self.say({"op": "notice", "text": f"job {job}: cannot publish its output: {error}"})
            else:
                self.published.append([job, number])


def mark_of(pid: int) -> str:
    """Give the mark in a process's environment, "" if it has none or has ended."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return ""
    sign = MARK.encode("ascii") + b"="
    return next(
        (text[len(sign) :].decode("ascii", "replace") for text in variables if text.startswith(sign)), ""
    )


def guard(worker: int) -> int:
    """Wait for the worker's end, end what it left, and give the exit status: 0 if it left in order."""
    status = -1
    while True:
        try:
            pid, ending = os.wait()
        except ChildProcessError:
            break
        if pid == worker:
            status = ending
        if status != -1:
            for child in children():
                send(child, signal.SIGKILL)  # what these leave becomes ours, and is next
    return 0 if status == 0 else SWEPT


def main(token: str) -> None:
    """Split into guardian and worker, and serve."""
    adopt_orphans()
    worker = os.fork()
    if worker:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)  # the worker alone holds the conversation, so that its end is the end of that
        os.dup2(null, 1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda number, frame: send(worker, number))
        sys.exit(guard(worker))
    adopt_orphans()
    serve(token)


def serve(token: str) -> None:
    """Take the conversation off the standard streams, so that nothing else can write into it, and serve."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.write(sink, f"{MARKER} {token}\n".encode("ascii"))
    Worker(source, sink).serve()


if __name__ == "__main__":
    main(sys.argv[1])
