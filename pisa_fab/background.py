"""A head in the background: `submit --detach` goes on when the terminal is closed and the user logs out.

One process is split in two. The child leads a session of its own, so that nothing of the terminal reaches it,
and writes what it has to say into a file. The parent waits until the child has begun to work, or has ended.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pisa_fab.errors import EXIT_FAILED, PisaError, RunError

CTRL_C = {signal.SIGINT}


def in_background(work: Callable[[Callable[[], None]], int], log: Path) -> tuple[int | None, str]:
    """Do the work in a child; give its exit code and what it printed, or None and "" if it goes on.

    `work` gets a function to call when it has begun, and gives an exit code. From then on what it prints is
    in `log`, in place of what was there; before, that may be the log of another head, which is at work. To be
    called while this process has a single thread. Raises the PisaError that the work raised before it had
    begun, and RunError where there can be no such file or process.
    """
    said = log.with_name(f"{log.name}.{secrets.token_hex(4)}")
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, CTRL_C)  # until it is clear whom it is to end
        child = os.fork()
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CTRL_C)
        raise RunError(f"{log}: no head can be started in the background: {error.strerror}") from error
    if child == 0:
        os.close(reader)

        def at_work() -> None:
            said.replace(log)
            tell(writer, {"at_work": True})

        be_child(lambda: work(at_work), output, writer)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CTRL_C)
        os.close(writer)
        os.close(output)
        with os.fdopen(reader, encoding="utf-8") as pipe:
            news = json.loads(pipe.read() or "{}")
    except KeyboardInterrupt:  # the child is no part of the terminal any more, and hears nothing of it
        os.kill(child, signal.SIGINT)
        os.waitpid(child, 0)
        said.unlink(missing_ok=True)
        raise
    if news.get("at_work"):
        return None, ""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    printed = said.read_text("utf-8", "replace")
    said.unlink()
    if "message" in news:
        raise PisaError(news["message"], news["hint"], news["code"])
    return code, printed


def be_child(work: Callable[[], int], output: int, writer: int) -> NoReturn:
    """Do the work in this process, which has no other purpose and ends then."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CTRL_C)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    code = EXIT_FAILED
    try:
        code = work()
    except PisaError as error:
        code = error.exit_code
        print(error)  # into the same file, behind what was printed before
        tell(writer, {"message": error.message, "hint": error.hint, "code": code})
    finally:
        # What the program of the parent would do next, with a result or with a bug, is not for the child.
        with suppress(OSError):
            sys.stdout.flush()
        if (bug := sys.exception()) is not None:
            sys.excepthook(type(bug), bug, bug.__traceback__)
        os._exit(code)


def tell(writer: int, news: dict[str, object]) -> None:
    """Tell the parent something, once."""
    try:
        os.write(writer, json.dumps(news).encode("utf-8"))
        os.close(writer)
    except OSError:
        return  # it is told already, or gone
