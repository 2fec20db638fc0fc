"""The command that tells a person that a run has ended: a note on the desktop, a mail.

It is run on the head, without a shell, and gets the summary in three ways: as words of its command line, in
its environment, on its standard input. Whatever becomes of it, the run has ended as it has.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

PATIENCE = 30.0  # seconds that the command may take
TAIL_BYTES = 2000  # of its standard error that are read
PLACEHOLDER = re.compile(r"\{(summary|output|state)\}")


def notify(command: Sequence[str], values: Mapping[str, str], text: str) -> str:
    """Run the command; give "" if it did well, else one line that says what went wrong.

    Args:
        command: its words, in which {summary}, {output} and {state} are replaced.
        values: what they stand for.
        text: what it gets on its standard input.
    """
    argv = [PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in command]
    extra = {f"PISA_{name.upper()}": value for name, value in values.items()}
    # Files instead of pipes: what it leaves running may keep them open, and holds up nobody.
    try:
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write(text.encode("utf-8", "replace"))
            given.seek(0)
            process = subprocess.Popen(
                argv,
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={**os.environ, **extra},
                start_new_session=True,
            )
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return f"notify: {argv[0]} took longer than {PATIENCE:.0f} s and was ended"
            said.seek(max(0, said.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = said.read().decode("utf-8", "replace").strip().splitlines()
    except OSError as error:
        return f"notify: {argv[0]} cannot be run: {error.strerror}"
    if code == 0:
        return ""
    return f"notify: {argv[0]} ended with {code}" + (f": {lines[-1]}" if lines else "")
