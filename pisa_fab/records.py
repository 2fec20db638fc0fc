"""Which jobs a run directory has, and what they are: what can be known without following the run.

How the jobs went is `history`'s business. That takes longer, to import as well as to replay, and `dryrun` needs
neither.
"""

from __future__ import annotations

from pathlib import Path

from pisa_fab.events import JobRecord, JobsAdded
from pisa_fab.journal import read
from pisa_fab.layout import Layout


def read_records(root: Path) -> tuple[dict[int, JobRecord], int]:
    """Give what a run directory's journal says of each job, by number, and the number of the next new one.

    There are none where there is no journal. Raises RunError for a journal that cannot be understood.
    """
    records: dict[int, JobRecord] = {}
    following = 0
    for _, event in read(Layout(root).journal):
        if isinstance(event, JobsAdded):
            records.update(enumerate(event.records, start=event.first))
            following = max(following, event.first + len(event.records))
    return records, following
