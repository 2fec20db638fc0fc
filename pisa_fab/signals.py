"""What signals ask of a head: to stop in order, to stop at once, to look at its hosts anew.

Only counted here: what follows is `head`'s business.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """The signals that have come.

    Attributes:
        interrupts: how many that end a program; the second one means at once.
        hangups: how many SIGHUPs that have not been obeyed. They have the cluster file read again and every
            host called that is not there; so a terminal that is closed ends nothing.
    """

    def __init__(self) -> None:
        self.interrupts = 0
        self.hangups = 0

    def take_hangups(self) -> bool:
        """Say whether there are hangups to obey, and count them no more; one that comes later is not lost."""
        asked = self.hangups > 0
        if asked:
            self.hangups = 0
        return asked

    @contextmanager
    def caught(self, wake: Callable[[], None]) -> Iterator[None]:
        """Count the signals that come meanwhile, and call `wake` for each."""

        def note(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGHUP:
                self.hangups += 1
            else:
                self.interrupts += 1
            wake()

        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread, whose owner knows what to do with them
            return
        before = {number: signal.signal(number, note) for number in (*STOPPING, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's
