"""The command that tells a person that a run has ended: a note on the desktop, a mail.

It is run on the head, without a shell, and gets the summary in three ways: as words of its command line, in
its environment, on its standard input. Whatever becomes of it, the run has ended as it has.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

PATIENCE = 30.0  # seconds that the command may take
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
    try:
        done = subprocess.run(
            argv,
            input=text,
            env={**os.environ, **extra},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"notify: {argv[0]} took longer than {PATIENCE:.0f} s and was ended"
    except OSError as error:
        return f"notify: {argv[0]} cannot be run: {error.strerror}"
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines()
    return f"notify: {argv[0]} ended with {done.returncode}" + (f": {said[-1]}" if said else "")
