"""A person at a terminal, for tests: programs on a pseudo-terminal, what they draw there, what is typed.

Knows nothing of pytest or of pisa_fab.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from processes import wait_for

COLUMNS = 80
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CTRL_C, CTRL_D = "\x03", "\x04"
PATIENCE = 120.0  # seconds for the end of a program that hangs


class Terminal:
    """A program on a terminal of its own: it leads a session, and /dev/tty is this terminal, too.

    Attributes:
        drawn: every byte that the program has written so far, and what the terminal echoed.
        process: the program.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, env: Mapping[str, str], columns: int = COLUMNS
    ) -> None:
        """Start it in this folder."""
        self.master, line = pty.openpty()
        self.resize(24, columns)
        self.drawn = b""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], cwd=folder, env=env, stdin=line, stdout=line, stderr=line
        )
        os.close(line)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def __enter__(self) -> Terminal:
        """Give itself; at the end the program is gone."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the program if it still runs."""
        self.close()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # Linux ends a terminal that nobody has open any more like this
                return
            if not data:
                return
            self.drawn += data

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def lines(self) -> list[str]:
        """Every line that was drawn so far, without colours; a line that was drawn over comes again."""
        text = MOVES.sub("\r", COLOURS.sub("", self.drawn.decode("utf-8", "replace")))
        return [piece.rstrip() for piece in re.split(r"[\r\n]+", text) if piece.strip()]

    def wait_for_line(self, pattern: str, begin: int = 0) -> str:
        """Wait for a line, after the first `begin`, in which this is found; fail at once if none can come."""

        def found() -> str:
            over = not self.reader.is_alive()  # asked first: what was drawn last is there by then
            line = next((line for line in self.lines[begin:] if re.search(pattern, line)), "")
            assert line or not over, f"it ended without a line like {pattern}: {self.lines}"
            return line

        return wait_for(found, f"a line like {pattern}")

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self.master, text.encode())

    def answer(self, question: str, text: str, begin: int = 0) -> int:
        """Wait for a question and answer it; give how many lines had been drawn by then, for the next one."""
        self.wait_for_line(question, begin)
        seen = len(self.lines)
        self.type(f"{text}\n")
        return seen

    def wait(self) -> int:
        """Wait until the program has ended and nobody has its terminal open; give its exit code."""
        code = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        assert not self.reader.is_alive(), "something still has the terminal open"
        return code

    def close(self) -> None:
        """End the program if it still runs, and the terminal."""
        self.process.kill()  # one that has been waited for is left alone
        self.process.wait()
        self.reader.join(PATIENCE)
        os.close(self.master)


def on_a_terminal(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run a program on a terminal to its end; give its exit code and every line that was drawn."""
    with Terminal(command, folder, env) as screen:
        return screen.wait(), screen.lines
