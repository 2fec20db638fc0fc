"""`sweep`, `exclude`, `include` of a jobs file -> axes, and a check that every `{name}` means something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pisa_fab.specs.fields import LONGEST_WORD, byte_length
from pisa_fab.specs.problems import label, nearest, quoted, shown
from pisa_fab.specs.text import Document, Keys
from pisa_fab.specs.values import ValueReader
from pisa_fab.sweep import BUILT_IN, Axis, Column, Kind, is_variable_name, names_in


@dataclass(frozen=True, slots=True)
class Template:
    """A text with `{name}` in it, where it stands, and how many bytes a program is given beside it."""

    text: str
    keys: Keys
    extra: int = 0


@dataclass(slots=True)
class Grid:
    """The axes as they are read, and for each column where it was written."""

    document: Document
    reader: ValueReader
    axes: list[Axis] = field(default_factory=list)
    columns: dict[str, Column] = field(default_factory=dict)
    places: dict[str, Keys] = field(default_factory=dict)

    # --- sweep ---

    def read_sweep(self, sweep: Any) -> None:
        """Read the value of the key `sweep`. Raises SpecError."""
        if not isinstance(sweep, dict | list):
            problem = f'"sweep" must be a mapping or a list of mappings, not {shown(sweep)}'
            raise self.document.wrong(("sweep",), problem)
        if not sweep:
            raise self.document.wrong(("sweep",), '"sweep" is empty', "leave it out for a single job")
        if isinstance(sweep, dict):
            for key, value in sweep.items():
                self._add_entry({key: value}, ("sweep",))
            return
        for index, entry in enumerate(sweep):
            keys: Keys = ("sweep", index)
            if not isinstance(entry, dict):
                problem = f"{label(keys)} must be a mapping, not {shown(entry)}"
                raise self.document.wrong(keys, problem, "write - {-n: [1, 2, 3]}")
            if not entry:
                raise self.document.wrong(keys, f"{label(keys)} is empty")
            if "csv" in entry:
                self._add_table(entry, keys)
            else:
                self._add_entry(entry, keys)

    def _add_entry(self, entry: Mapping[str, Any], keys: Keys) -> None:
        columns, values = [], []
        for key, value in entry.items():
            read, is_flag = self.reader.read(value, (*keys, key))
            if is_flag and (not key.startswith("-") or key.endswith("=")):
                problem = f"{quoted(key)} cannot be a flag"
                raise self.document.wrong(
                    (*keys, key), problem, "a flag is an option such as --fast", key=True
                )
            columns.append(self._column(key, (*keys, key), is_flag))
            values.append(read)
        self._add_axis(columns, values)

    def _add_table(self, entry: Mapping[str, Any], keys: Keys) -> None:
        other = next((key for key in entry if key != "csv"), None)
        if other is not None:
            hint = "give it an entry of its own, or a column of the file"
            problem = f"{quoted(other)} cannot stand beside csv"
            raise self.document.wrong((*keys, other), problem, hint, key=True)
        table = self.reader.table(entry["csv"], (*keys, "csv"))
        columns = [self._column(name, (*keys, "csv"), is_flag=False) for name in table]
        self._add_axis(columns, list(table.values()))

    def _column(self, key: str, keys: Keys, is_flag: bool) -> Column:
        column = Column.of_key(key, flag=is_flag)
        name = column.name
        problem = hint = ""
        if column.kind is Kind.VARIABLE and name in BUILT_IN:
            problem = f"{quoted(key)} cannot be a variable: every job has its own {{{name}}}"
        elif column.kind is Kind.VARIABLE and not is_variable_name(key):
            problem = f"{quoted(key)} cannot be the name of a variable"
            hint = "a name has letters, digits, _ and -; an option begins with -"
        elif "\0" in key:
            problem = f"{quoted(key)} has a NUL character in it"
        elif name in self.columns:
            line, _ = self.document.locate(self.places[name], True)
            problem, hint = f"{quoted(key)} is in the sweep twice", f"the first is in line {line}"
        if problem:
            raise self.document.wrong(keys, problem, hint, key=True)
        self.columns[name] = column
        self.places[name] = keys
        return column

    def _add_axis(self, columns: Sequence[Column], values: Sequence[Sequence[str]]) -> None:
        lengths = [len(each) for each in values]
        for column, length in zip(columns, lengths, strict=True):
            if length != lengths[0]:
                first = f"{quoted(columns[0].name)} has {lengths[0]} values"
                problem = f"{first} and {quoted(column.name)} has {length}, but they vary together"
                hint = "for every combination of them, give each an entry of its own"
                raise self.document.wrong(self.places[column.name], problem, hint, key=True)
        self.axes.append(Axis(tuple(columns), tuple(values)))

    # --- exclude and include ---

    def read_exclude(self, entries: list[dict[str, Any]]) -> list[dict[str, frozenset[str]]]:
        """Read `exclude`: for each entry and column the values that are meant. Raises SpecError."""
        result = []
        for index, entry in enumerate(entries):
            keys: Keys = ("exclude", index)
            read: dict[str, frozenset[str]] = {}
            for key, value in entry.items():
                values = value if isinstance(value, list) else [value]
                name = self._known_column(key, (*keys, key), read)
                read[name] = frozenset(self.reader.word(item, (*keys, key)) for item in values)
            result.append(self._not_empty(read, keys))
        return result

    def read_include(self, entries: list[dict[str, Any]]) -> list[dict[str, str]]:
        """Read `include`: the combinations to add. Raises SpecError."""
        result = []
        for index, entry in enumerate(entries):
            keys: Keys = ("include", index)
            read: dict[str, str] = {}
            for key, value in entry.items():
                name = self._known_column(key, (*keys, key), read)
                read[name] = self.reader.word(value, (*keys, key))
                if self.columns[name].kind is Kind.FLAG and read[name] not in ("true", "false"):
                    problem = f"{quoted(key)} must be true or false, not {shown(value)}"
                    raise self.document.wrong((*keys, key), problem)
            result.append(self._not_empty(read, keys))
        return result

    def _known_column(self, key: str, keys: Keys, before: Mapping[str, Any]) -> str:
        name = key[:-1] if key.startswith("-") and key.endswith("=") else key
        if name not in self.columns:
            problem = f"{quoted(key)} is not in the sweep"
            raise self.document.wrong(keys, problem, nearest(key, self.columns), key=True)
        if name in before:
            raise self.document.wrong(keys, f"{quoted(key)} is there twice", key=True)
        return name

    def _not_empty(self, entry: dict[str, Any], keys: Keys) -> dict[str, Any]:
        if not entry:
            raise self.document.wrong(keys, f"{label(keys)} is empty")
        return entry

    # --- templates ---

    def check_templates(self, templates: Sequence[Template], include: Sequence[Mapping[str, str]]) -> None:
        """See that every variable is known and every one is used. Raises SpecError."""
        variables = [name for name, column in self.columns.items() if column.kind is Kind.VARIABLE]
        used: set[str] = set()
        for template in templates:
            for name in names_in(template.text):
                if name not in variables and name not in BUILT_IN:
                    raise self._unknown_variable(name, variables, template.keys)
                used.add(name)
            self._check_length(template)
        for name in variables:
            if name not in used:
                option = f"-{name}" if len(name) == 1 else f"--{name}"
                hint = f"write {option} for an option, or use {{{name}}} in args, command or env"
                problem = f"the variable {quoted(name)} is never used"
                raise self.document.wrong(self.places[name], problem, hint, key=True)
        for index, entry in enumerate(include):
            for name in variables:
                if name not in entry:
                    problem = f'{quoted(name)} is missing: only options can be left out of "include"'
                    raise self.document.wrong(("include", index), problem)

    def _unknown_variable(self, name: str, variables: Sequence[str], keys: Keys) -> Exception:
        hint = f"write {{{{{name}}}}} for the text {{{name}}}"
        option = next((column for column in self.columns if column.lstrip("-") == name), None)
        if option is not None:
            hint = (
                f"{quoted(option)} is an option, which adds itself; write {name}: in the sweep for a variable"
            )
        elif (meant := nearest(name, (*variables, *BUILT_IN))).startswith("did you mean"):
            hint = meant
        return self.document.wrong(keys, f"unknown variable {{{name}}} in {label(keys)}", hint)

    def _check_length(self, template: Template) -> None:
        names = [name for name in names_in(template.text) if name in self.columns]
        longest = template.extra + byte_length(template.text) + sum(map(self._longest, names))
        if longest > LONGEST_WORD and names:
            problem = f"{label(template.keys)} becomes longer than the {LONGEST_WORD} bytes that Linux passes"
            raise self.document.wrong(template.keys, problem, "write it to a file and pass the file's name")

    def _longest(self, name: str) -> int:
        """Give the bytes of the longest value of a column; values that are computed are all short."""
        axis = next(axis for axis in self.axes if any(column.name == name for column in axis.columns))
        at = [column.name for column in axis.columns].index(name)
        values = axis.values[at]
        return max(map(byte_length, values)) if isinstance(values, list) else 0
