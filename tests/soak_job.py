"""A job of the soak: it works for a while, and keeps a log of its own that says when it lived.

Started as `soak_job.py -n N`. What it does follows from N (`traits`). Each attempt appends to a
log of its own on the shared home, a line each: a word, and the time on the clock that all PCs of the pool
share (one kernel). The first line adds who this is. What it prints has the attempt in every line, so that an
output of two attempts, or of half of one, can be told.

Standard library only; `verdict` reads the logs.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TICK = 0.1  # seconds between two signs of life in the log
CHATTY_LINES = 400  # of a chatty job, for each tick
DELAY = 5.0  # seconds that a straggler takes more
PAD = "." * 60


def clock() -> float:
    """Give the time, in seconds, that is the same on every PC of the pool."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def traits(number: int) -> set[str]:
    """Say what is particular about a job.

    daemon      leaves a process in a session of its own, which goes on in the log
    nameless    leaves one whose environment is empty
    stubborn    ignores SIGTERM
    chatty      prints many kB
    failing     fails the first time that it comes to its end
    straggling  takes longer the first time, where SOAK_STRAGGLES asks for that: the last ones of any fifty
    """
    rules = {"daemon": (7, 3), "nameless": (17, 8), "stubborn": (13, 6), "chatty": (5, 0), "failing": (11, 5)}
    found = {name for name, (modulus, rest) in rules.items() if number % modulus == rest}
    return found | ({"straggling"} if number % 50 > 43 and "SOAK_STRAGGLES" in os.environ else set())


def duration(number: int) -> float:
    """Give how many seconds a job takes: 0.3 to 3."""
    return 0.3 + 2.7 * (number * 7919 % 101) / 100


class Log:
    """The log of one attempt."""

    def __init__(self, folder: str, attempt: str) -> None:
        # Attempts of one number, which there must not be, have a log each.
        name = f"{attempt}.{os.environ['PISA_HOST']}.{time.time_ns()}"
        path = f"{folder}/{name}"
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        host = os.environ["PISA_HOST"]
        self.write("begin", os.environ["PISA_JOB"], os.environ["PISA_ATTEMPT"], host, str(os.getpid()))

    def write(self, word: str, *more: str) -> None:
        """Append a line."""
        os.write(self.file, " ".join([word, f"{clock():.4f}", *more]).encode() + b"\n")


def start_daemon(log: Log) -> None:
    """Leave a process that has a session of its own and lives until it is killed."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    while True:
        time.sleep(TICK)
        log.write("daemon")


def start_nameless() -> None:
    """Leave a process that nobody can tell by its environment."""
    if not os.fork():
        os.setsid()
        os.execve("/bin/sleep", ["sleep", "1000"], {})


def first_time(folder: str, number: int) -> bool:
    """Say whether this is the first time that the job has come so far, by a file in a folder for that."""
    try:
        os.close(os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def main() -> int:
    """Do what the number says; exit code 7 is a failure that was meant."""
    number = int(sys.argv[2])
    mine = traits(number)
    if "stubborn" in mine:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    attempt = f"{int(os.environ['PISA_JOB'])}.{os.environ['PISA_ATTEMPT']}"
    log = Log("logs", attempt)
    if "daemon" in mine:
        start_daemon(log)
    if "nameless" in mine:
        start_nameless()
    ends_at = clock() + duration(number)
    if "straggling" in mine and first_time("straggled", number):
        ends_at += DELAY
    lines = 0
    while clock() < ends_at:
        for _ in range(CHATTY_LINES if "chatty" in mine else 1):
            print(attempt, lines, PAD, flush="chatty" not in mine)
            lines += 1
        time.sleep(TICK)
        log.write("tick")
    print(attempt, lines, "end", flush=True)
    code = 7 if "failing" in mine and first_time("failed", number) else 0
    log.write("end", str(code))
    return code


if __name__ == "__main__":
    sys.exit(main())
