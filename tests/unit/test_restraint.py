"""Telling a job that was refused memory from one that simply failed."""

from __future__ import annotations

import pytest

from pisa_fab.restraint import was_refused

MIB, GIB = 1 << 20, 1 << 30
LIMIT = 2 * GIB
NUMPY = (
    "Traceback (most recent call last):\n"
    '  File "fib.py", line 3, in <module>\n'
    "numpy._core._exceptions._ArrayMemoryError: Unable to allocate {} for an array with shape (9,) and data "
    "type float64\n"
)
BAD_ALLOC = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"


@pytest.mark.parametrize(
    ("peak", "tail"),
    [
        (30 * MIB, "Traceback (most recent call last):\n  ...\nMemoryError\n"),
        (30 * MIB, NUMPY.format("8.00 GiB")),
        (1500 * MIB, NUMPY.format("763. MiB")),
        (30 * MIB, BAD_ALLOC),
        (1900 * MIB, "sort: Cannot allocate memory\n"),
        (1900 * MIB, "OSError: [Errno 12] Cannot allocate memory\n"),
        (1900 * MIB, "Exception in thread main java.lang.OutOfMemoryError: Java heap space\n\tat A.b\n"),
        (1900 * MIB, "Error: cannot allocate vector of size 1.5 Gb\nExecution halted\n"),
        (1900 * MIB, "memory allocation of 800000000 bytes failed\n"),
        (1900 * MIB, "MemoryError: could not grow the table\n"),
    ],
)
def test_who_was_refused_memory_ran_out_of_it(peak: int, tail: str) -> None:
    assert was_refused(LIMIT, peak, tail)


@pytest.mark.parametrize(
    ("peak", "tail"),
    [
        (30 * MIB, ""),
        (2 * GIB, ""),
        (2 * GIB, "ValueError: no such mode\n"),
        (30 * MIB, NUMPY.format("100. MiB")),
        (30 * MIB, NUMPY.format("100. wagons")),
        (30 * MIB, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9.00 GiB\n"),
        (30 * MIB, "MemoryError: could not grow the table\n"),
        (30 * MIB, "Traceback (most recent call last):\nMemoryError\nretrying\nand again\nValueError: no\n"),
        (30 * MIB, "OSError: [Errno 12] Cannot allocate memory\n"),
    ],
)
def test_who_simply_failed_did_not(peak: int, tail: str) -> None:
    assert not was_refused(LIMIT, peak, tail)
