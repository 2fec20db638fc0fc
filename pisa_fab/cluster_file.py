"""The cluster file of a run that is at work, which a person may change meanwhile."""

from __future__ import annotations

from pathlib import Path

from pisa_fab import specs
from pisa_fab.model import Cluster


class ClusterFile:
    """A cluster file that has been read once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._look()

    def _look(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def news(self, *, anyway: bool) -> Cluster | None:
        """Give what it says, if it has changed or `anyway` is true. Raises SpecError."""
        seen = self._look()
        if seen == self._seen and not anyway:
            return None
        self._seen = seen
        return specs.load_cluster(self.path)
