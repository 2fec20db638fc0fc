"""A head in the background: `submit --detach` goes on when the terminal is closed and the user logs out.

One process is split in two. The child leads a session of its own, so that nothing of the terminal reaches it,
and writes what it has to say into a file. The parent waits until the child has begun to work, or has ended.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pisa_fab.errors import PisaError, RunError


def in_background(work: Callable[[Callable[[], None]], int], log: Path) -> int | None:
    """Do the work in a child, and give the child's exit code, or None if it goes on in the background.

    `work` gets a function to call when it has begun, and gives an exit code. `log` takes what it prints, anew
    each time. To be called while this process has a single thread. Raises the PisaError that the work raised
    before it had begun, and RunError where there can be no such file or process.
    """
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
    except OSError as error:
        raise RunError(f"{log}: no head can be started in the background: {error.strerror}") from error
    if child == 0:
        os.close(reader)
        be_child(work, output, writer)
    os.close(writer)
    os.close(output)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    news = json.loads(said or "{}")
    if "message" in news:
        os.waitpid(child, 0)
        raise PisaError(news["message"], news["hint"], news["code"])
    if news.get("at_work"):
        return None
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def be_child(work: Callable[[Callable[[], None]], int], output: int, writer: int) -> None:
    """Do the work in this process, which has no other purpose and ends then.

    A bug goes the way of all bugs: up through whoever called, with a traceback, which is in the file.
    """
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    try:
        code = work(lambda: tell(writer, {"at_work": True}))
    except PisaError as error:
        code = error.exit_code
        print(error, file=sys.stderr)
        tell(writer, {"message": error.message, "hint": error.hint, "code": code})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # what the program of the parent would do next is not for the child


def tell(writer: int, news: dict[str, object]) -> None:
    """Tell the parent something, once."""
    try:
        os.write(writer, json.dumps(news).encode("utf-8"))
        os.close(writer)
    except OSError:
        return  # it is told already, or gone
