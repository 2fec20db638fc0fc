"""The collected table as a pandas data frame; the only room that imports pandas, which need not be there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pisa_fab.errors import UsageError

if TYPE_CHECKING:
    import pandas


def frame_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pandas.DataFrame:
    """Give a data frame of rows, with numbers in the columns where all are some; not the jobs' own.

    Raises UsageError where pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise UsageError("a data frame needs pandas", "pip install 'pisa-fab[frame]'") from error
    frame = pandas.DataFrame(rows, columns=columns)
    for name in columns:
        if name != "job" and not pandas.api.types.is_numeric_dtype(frame[name]):
            frame[name] = as_numbers(frame[name])
    return frame


def as_numbers(column: pandas.Series[Any]) -> pandas.Series[Any]:
    """Give a column of texts as numbers if every one is a number, else as it is."""
    import pandas

    try:
        return pandas.to_numeric(column)
    except (ValueError, TypeError):
        return column
