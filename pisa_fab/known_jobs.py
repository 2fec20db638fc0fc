"""Which jobs a run directory has, and what they are: what can be known without following the run.

How the jobs went is `history`'s business. That takes longer, to import as well as to replay, and `dryrun` has
no use for it.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pisa_fab.layout import Layout
from pisa_fab.model import Batch
from pisa_fab.numbering import Numbering

if TYPE_CHECKING:
    from pisa_fab.events import JobRecord
    from pisa_fab.records import Records


def numbered(batch: Batch) -> tuple[Mapping[int, JobRecord], Numbering]:
    """Give what a batch's journal says of each job, and the number of every combination. Raises RunError."""
    records, following = read_records(batch.output)
    known: Mapping[str, int] = records.numbers() if records is not None else {}
    return records if records is not None else {}, Numbering.of(batch.plan, known, following)


def read_records(root: Path) -> tuple[Records | None, int]:
    """Give what a run directory's journal says of each job, by number, and the number of the next new one.

    None where there is no journal. Raises RunError for a journal that cannot be understood or read.
    """
    following = 0
    journal = Layout(root).journal
    if is_missing(journal):
        return None, following
    # A first dryrun need not wait for what describes all that can happen.
    from pisa_fab.events import JobsAdded
    from pisa_fab.journal import read
    from pisa_fab.journal_format import is_of_an_attempt
    from pisa_fab.records import Records

    records = Records()
    for _, event in read(journal, skip=is_of_an_attempt):
        if isinstance(event, JobsAdded):
            records.add(event.first, event.records)
            following = max(following, event.first + len(event.records))
    return records, following


def is_missing(path: Path) -> bool:
    """Say whether a file is surely not there; what else may be wrong with it shows when it is read."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ENOENT
    return False
