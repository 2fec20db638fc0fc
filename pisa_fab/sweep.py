"""The combinations of a batch: lazily, by index, with their command lines and keys.

Here live the grid of axes with what is excluded and included, the templates `{name}` and the job keys; values
that are computed are in `ranges`. Everything is pure: what was read from files comes in as sequences of text,
what comes out are `model.Job`s. Mistakes in a jobs file are found in `specs`, which knows where they are
written; texts that get here hold no NUL and can be encoded.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property, reduce
from hashlib import blake2b
from itertools import chain, compress, product
from math import prod
from operator import and_, itemgetter

from pisa_fab.keys import Keys
from pisa_fab.model import Job, job_name

# The variables that every job has.
BUILT_IN = ("job", "output")

# Values hold no lone high surrogates, so these can stand for what is not known when a key is made.
_JOB, _OUTPUT, _ENV, _AGAIN = "\ud800", "\ud801", "\ud802", "\ud803"

# An axis up to this length is kept as a table of its cells; those of a longer one are made on demand.
_TABLE = 65536


# ----------------------------------------------------------------------------------------------------
# Columns, axes, templates
# ----------------------------------------------------------------------------------------------------


class Kind(Enum):
    """What a column adds to the command line."""

    OPTION = auto()  # -n 3
    JOINED = auto()  # --n=3
    FLAG = auto()  # --fast, or nothing
    VARIABLE = auto()  # nothing by itself: it is used as {name}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the sweep. `name` is without the `=` that ends the key of a joined option."""

    name: str
    kind: Kind

    @classmethod
    def of_key(cls, key: str, *, flag: bool = False) -> Column:
        """Read a key of the sweep: `-n`, `--n=` or `n`."""
        if not key.startswith("-"):
            return cls(key, Kind.VARIABLE)
        if key.endswith("="):
            return cls(key[:-1], Kind.JOINED)
        return cls(key, Kind.FLAG if flag else Kind.OPTION)

    def words(self, value: str | None) -> str:
        """Give the words that this value adds to the command line, each ended by a NUL."""
        if value is None or self.kind is Kind.VARIABLE:
            return ""
        if self.kind is Kind.OPTION:
            return f"{self.name}\0{value}\0"
        if self.kind is Kind.JOINED:
            return f"{self.name}={value}\0"
        return f"{self.name}\0" if value == "true" else ""


Cells = tuple[str, ...]  # see `_cells`
Rows = list[Cells]


@dataclass(frozen=True, slots=True)
class Axis:
    """Columns that vary together: `values` holds one sequence a column, all of one length."""

    columns: tuple[Column, ...]
    values: tuple[Sequence[str], ...]

    def __len__(self) -> int:
        return len(self.values[0])

    def row(self, index: int) -> tuple[str, ...]:
        """Give the cells of one row, see `_cells`."""
        return _cells(self.columns, [values[index] for values in self.values])

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Give the cells of every row."""
        return (_cells(self.columns, values) for values in zip(*self.values, strict=True))


def _rows(table: Axis | Rows) -> Iterable[Cells]:
    return table.rows() if isinstance(table, Axis) else table


def _cells(columns: Sequence[Column], values: Iterable[str | None]) -> tuple[str, ...]:
    """Give two texts a column: its value, and the words that it adds to the command line."""
    pairs = zip(columns, values, strict=True)
    return tuple(chain.from_iterable((value or "", column.words(value)) for column, value in pairs))


_TEMPLATE = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_-]*)\}\}|\{([A-Za-z_][A-Za-z0-9_-]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def is_variable_name(name: str) -> bool:
    """Say whether `{name}` can stand in a template."""
    return _VARIABLE.fullmatch(name) is not None


def names_in(template: str) -> list[str]:
    """Give the variables that a template uses, in order."""
    return [match[2] for match in _TEMPLATE.finditer(template) if match[2]]


def rendered(template: str, values: Mapping[str, str | None]) -> str:
    """Fill the values of variables into a template; one that is missing gives nothing."""
    return _TEMPLATE.sub(
        lambda match: f"{{{match[1]}}}" if match[1] else values.get(match[2]) or "", template
    )


def escaped(text: str) -> str:
    """Give the template that renders to this text."""
    return _TEMPLATE.sub(r"{\g<0>}", text)


class _Text:
    """A text with gaps, which are filled from the cells of a row: pieces are text, or the index of a cell."""

    def __init__(self, pieces: Iterable[str | int]) -> None:
        pieces = list(pieces)
        gaps = [piece for piece in pieces if isinstance(piece, int)]
        # One % on a tuple that itemgetter picks is the fastest way there is, and it runs a million times.
        self._format = "".join("%s" if isinstance(p, int) else p.replace("%", "%%") for p in pieces)
        self._pick = itemgetter(*gaps) if gaps else None

    def fill(self, cells: Sequence[str]) -> str:
        return self._format % (self._pick(cells) if self._pick else ())


# ----------------------------------------------------------------------------------------------------
# The plan
# ----------------------------------------------------------------------------------------------------


class Plan:
    """The combinations of a batch; implements `model.Plan`.

    Args:
        identity: what is run, as far as it decides a job's key: `("script", "fib.py")` or `("command",)`.
        prefix: the first words of every command line, as they are: interpreter and script.
        words: the templates of the words that follow.
        axes: they multiply; the last varies fastest. Their options follow the words in this order.
        exclude: a combination goes when for all columns of one entry its value is among those given.
        include: combinations that are added at the end; a column may be left out.
        env: templates of the values of environment variables.
        output: the absolute run directory, for `{output}`.
    """

    def __init__(
        self,
        identity: Sequence[str],
        prefix: Sequence[str] = (),
        words: Sequence[str] = (),
        axes: Sequence[Axis] = (),
        exclude: Sequence[Mapping[str, frozenset[str]]] = (),
        include: Sequence[Mapping[str, str]] = (),
        env: Mapping[str, str] | None = None,
        output: str = "",
    ) -> None:
        self._columns = [column for axis in axes for column in axis.columns]
        self.columns: tuple[str, ...] = tuple(column.name for column in self._columns)
        self._axes, self._exclude = tuple(axes), tuple(exclude)
        self._include = tuple(tuple(entry.get(name) for name in self.columns) for entry in include)
        self._prefix, self._output = tuple(prefix), output
        self._identity = "".join(f"{word}\0" for word in identity)
        self._grid = prod(len(axis) for axis in axes)
        options = [2 * i + 1 for i, column in enumerate(self._columns) if column.kind is not Kind.VARIABLE]
        self._words = _Text([*chain.from_iterable(self._pieces(word, "\0") for word in words), *options])
        settings = sorted((env or {}).items())
        self._env = _Text(
            chain.from_iterable((f"{name}=", *self._pieces(text, "\0")) for name, text in settings)
        )
        self._has_env = bool(settings)
        self._has_marks = any(set(BUILT_IN) & {*names_in(text)} for text in (*words, *(env or {}).values()))

    def _pieces(self, template: str, end: str) -> Iterator[str | int]:
        marks = {"job": _JOB, "output": _OUTPUT}
        start = 0
        for match in _TEMPLATE.finditer(template):
            yield template[start : match.start()]
            literal, name = match.groups()
            if literal:
                yield f"{{{literal}}}"
            else:
                yield marks[name] if name in marks else 2 * self.columns.index(name)
            start = match.end()
        yield template[start:] + end

    @property
    def size(self) -> int:
        """How many combinations there are before any is excluded; may be more than `len` can say."""
        return self._grid + len(self._include)

    def __len__(self) -> int:
        """Say how many combinations there are. Raises OverflowError beyond `sys.maxsize`."""
        return (self._grid if self._kept is None else len(self._kept)) + len(self._include)

    @cached_property
    def _kept(self) -> array[int] | None:
        """The indices in the grid that are not excluded, None for all."""
        if not self._exclude:
            return None
        # Bit e of a row: as far as this axis goes, entry e excludes it.
        masks = [[self._mask(axis, row) for row in zip(*axis.values, strict=True)] for axis in self._axes]
        return array("Q", (i for i, row in enumerate(product(*masks)) if not reduce(and_, row)))

    def _mask(self, axis: Axis, row: tuple[str, ...]) -> int:
        cells = [(column.name, value) for column, value in zip(axis.columns, row, strict=True)]
        return sum(
            1 << bit
            for bit, entry in enumerate(self._exclude)
            if all(value in entry[name] for name, value in cells if name in entry)
        )

    def keys(self) -> Keys:
        """Give the key of every combination, in order.

        A key is a hash of the rendered command line without its interpreter, and of the environment; `{job}`
        and `{output}` go in as they are. The second identical combination has a key of its own, and so on.
        """
        return self._keys

    @cached_property
    def _keys(self) -> Keys:
        codes = array("Q", map(_digest, self._key_texts()))
        if len(set(codes)) < len(codes):
            times: dict[int, int] = {}
            for i, (code, text) in enumerate(zip(codes[:], self._key_texts(), strict=True)):
                times[code] = nth = times.get(code, 0) + 1
                if nth > 1:
                    codes[i] = _digest(f"{text}{_AGAIN}{nth}")
        return Keys(codes)

    def _key_texts(self) -> Iterator[str]:
        words, env = self._words.fill, self._env.fill
        return (f"{self._identity}{words(cells)}{_ENV}{env(cells)}" for cells in self._all_cells())

    def _all_cells(self) -> Iterator[tuple[str, ...]]:
        return chain(self._all_grid_cells(), (_cells(self._columns, values) for values in self._include))

    def _all_grid_cells(self) -> Iterator[tuple[str, ...]]:
        # The first axis is gone through once, so its rows need not all be there at once.
        first: Iterable[tuple[str, ...]] = _rows(self._tables[0][0]) if self._axes else ((),)
        others = [list(_rows(table)) for table, _, _ in self._tables[1:]]
        rows: Iterable[tuple[tuple[str, ...], ...]]
        rows = chain.from_iterable(product((row,), *others) for row in first)
        if self._kept is not None:
            selected = bytearray(self._grid)
            for index in self._kept:
                selected[index] = 1
            rows = compress(rows, selected)
        return map(tuple, map(chain.from_iterable, rows))

    @cached_property
    def _tables(self) -> list[tuple[Axis | Rows, int, int]]:
        """For each axis its cells (where it is short enough), its stride in the grid and its length."""
        tables: list[tuple[Axis | Rows, int, int]] = []
        stride = self._grid
        for axis in self._axes:
            stride //= len(axis)
            tables.append((list(axis.rows()) if len(axis) <= _TABLE else axis, stride, len(axis)))
        return tables

    def _grid_cells(self, index: int) -> tuple[str, ...]:
        cells: list[str] = []
        for rows, stride, length in self._tables:
            at = index // stride % length
            cells += rows[at] if isinstance(rows, list) else rows.row(at)
        return tuple(cells)

    def job(self, index: int, number: int) -> Job:
        """Render one combination as the job with this number; the first call makes all keys.

        Raises IndexError.
        """
        grid = self._grid if self._kept is None else len(self._kept)
        if not 0 <= index < grid + len(self._include):
            raise IndexError(index)
        if index < grid:
            cells = self._grid_cells(index if self._kept is None else self._kept[index])
            return self._rendered(number, self._keys[index], cells, cells[::2])
        arguments = self._include[index - grid]
        return self._rendered(number, self._keys[index], _cells(self._columns, arguments), arguments)

    def jobs(self, numbers: Iterable[int]) -> Iterator[Job]:
        """Render all combinations in order, with these numbers; faster than one after the other."""
        included = ((_cells(self._columns, values), values) for values in self._include)
        found: Iterator[tuple[tuple[str, ...], Sequence[str | None]]]
        found = chain(((cells, cells[::2]) for cells in self._all_grid_cells()), included)
        for number, key, (cells, arguments) in zip(numbers, self._keys, found, strict=True):
            yield self._rendered(number, key, cells, arguments)

    def _rendered(
        self, number: int, key: str, cells: tuple[str, ...], arguments: Sequence[str | None]
    ) -> Job:
        words = self._words.fill(cells)
        if self._has_marks:
            words = self._settled(words, number)
        return Job(
            number,
            key,
            (*self._prefix, *words.split("\0")[:-1]),
            self._settings(cells, number) if self._has_env else {},
            dict(zip(self.columns, arguments)),  # noqa: B905  # they are as many; `strict` costs a tenth
        )

    def _settings(self, cells: tuple[str, ...], number: int) -> dict[str, str]:
        env = self._settled(self._env.fill(cells), number)
        return dict(item.split("=", 1) for item in env.split("\0")[:-1])

    def _settled(self, text: str, number: int) -> str:
        return text.replace(_JOB, job_name(number)).replace(_OUTPUT, self._output)


def _digest(text: str) -> int:
    # surrogatepass: file names that are not UTF-8 come as lone surrogates, and so do the marks above.
    return _number_of(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


_number_of = int.from_bytes
