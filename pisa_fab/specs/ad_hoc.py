"""A batch that is described by options instead of a jobs file, and the jobs file that describes the same.

The options are put into the form of a jobs file and go the same way from there; a mistake is shown at its
option. Nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pisa_fab.errors import Position, SpecError
from pisa_fab.layout import Layout
from pisa_fab.model import Batch
from pisa_fab.specs.fields import split_words
from pisa_fab.specs.jobs import read_batch
from pisa_fab.specs.option_values import read_sweep_option
from pisa_fab.specs.problems import FieldError, quoted
from pisa_fab.specs.schema import mark
from pisa_fab.specs.text import Document, Keys, absolute, at_home, is_file
from pisa_fab.specs.yaml_writing import Data, entry, flow

VENVS = ("venv", ".venv")
_CLUSTER = "cluster.yaml"
_REGEX = "regex:"


@dataclass(frozen=True, slots=True)
class Option(Position):
    """An option of the command line, where a `Position` is a place in a file."""

    name: str = ""
    value: str = ""

    def __str__(self) -> str:
        """Give the option as it may have been typed: `--sweep "-n=0..40"`."""
        return f"{self.name} {quoted(self.value)}" if self.value else self.name


@dataclass(frozen=True, slots=True)
class OptionsDocument(Document):
    """The data of a jobs file that is made of options."""

    options: Mapping[str, str]
    sweep: Sequence[str]

    def wrong(self, keys: Keys, problem: str, hint: str = "", *, key: bool = False) -> SpecError:
        """Make the error that says what is wrong with an option."""
        first = str(keys[0]) if keys else "script"
        value = self.options.get(first, "")
        if first == "sweep" and len(keys) > 1:
            # As a list the sweep has an option an item, as a mapping an option a key.
            names = list(self.data["sweep"])
            value = self.sweep[keys[1] if isinstance(keys[1], int) else names.index(keys[1])]
        return SpecError(Option(Path(), name=f"--{first}", value=value), problem, hint)


def read_options(
    options: Mapping[str, str], sweep: Sequence[str], workdir: Path, cluster: str = ""
) -> tuple[Batch, str]:
    """Make the batch and the text of its jobs file; see `specs.ad_hoc_batch`. Raises SpecError.

    `options` has keys of the jobs file with the texts of the command line, "" for what was not given.
    """
    given = {name: text for name, text in options.items() if text}
    for name, text in (*given.items(), *(("sweep", text) for text in sweep), ("cluster", cluster)):
        _encodable(name, text)
    _one_program(given)
    workdir = absolute(workdir)
    data: dict[str, Any] = {name: _value(name, text) for name, text in given.items()}
    data.setdefault("output", _default_output(data))
    if "venv" not in data and (venv := find_venv(workdir, data.get("script", ""))):
        data["venv"] = venv
    cluster = cluster or (_CLUSTER if is_file(workdir / _CLUSTER) else "")
    if cluster:
        data["cluster"] = cluster
    if sweep:
        data["sweep"] = _sweep(sweep)
    output = absolute(workdir / at_home(data["output"]))
    data["workdir"] = os.path.relpath(workdir, output) if workdir in output.parents else str(workdir)
    file = Layout(output).jobs
    shown = given | ({"cluster": cluster} if cluster else {})
    document = OptionsDocument(file, data, lambda keys, key: (0, 0), shown, tuple(sweep))
    return read_batch(document), _text(data)


def find_venv(workdir: Path, script: str) -> str:
    """Give the virtual environment that a person would expect, as it is written in a jobs file; "" for none.

    That is `venv` or `.venv` beside the script or in the folder, else the one that is active.
    """
    beside = os.path.dirname(script)  # noqa: PTH120 - as it was written, ~ and all
    for folder in dict.fromkeys((beside, "")):
        for name in VENVS:
            written = os.path.join(folder, name)  # noqa: PTH118 - the same
            if is_venv(workdir / at_home(written)):
                return written
    active = os.environ.get("VIRTUAL_ENV", "")
    if not active or not is_venv(workdir / active):
        return ""
    path = absolute(workdir / active)
    return str(path.relative_to(workdir)) if workdir in path.parents else str(path)


def is_venv(path: Path) -> bool:
    """Say whether a folder has the python of a virtual environment."""
    return is_file(path / "bin" / "python")


def _wrong(name: str, value: str, error: FieldError) -> SpecError:
    return SpecError(Option(Path(), name=f"--{name}", value=value), str(error), error.hint)


def _encodable(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = FieldError("has bytes that are no UTF-8", "--sweep x=glob:PATTERN finds files of any name")
        raise _wrong(name, text, problem) from error


def _one_program(given: Mapping[str, str]) -> None:
    if "script" in given and "command" in given:
        problem = FieldError("cannot be given together with --script", "remove one")
        raise _wrong("command", given["command"], problem)
    if "script" not in given and "command" not in given:
        problem = FieldError("neither it nor --command says what to run", "name a script: --script fib.py")
        raise _wrong("script", "", problem)


def _value(name: str, text: str) -> Data:
    """Give what a jobs file has in place of an option's text."""
    if name in ("args", "command"):
        try:
            return split_words(text)
        except FieldError as error:
            raise _wrong(name, text, error) from error
    if name == "results" and text.startswith(_REGEX):
        return {"regex": text.removeprefix(_REGEX)}
    if name == "results" and text not in ("json", "csv"):
        problem = FieldError("must be json, csv or regex:PATTERN", "write 'regex:E = (?P<E>[-+.0-9]+)'")
        raise _wrong(name, text, problem)
    return text


def _default_output(data: Mapping[str, Any]) -> str:
    program = data.get("script") or (data["command"] or [""])[0]
    return f"{Path(program).stem or 'batch'}_run"


def _sweep(options: Sequence[str]) -> Data:
    read: list[dict[str, Data]] = []
    names: dict[str, str] = {}
    for option in options:
        try:
            key, value = read_sweep_option(option)
            name = key[:-1] if key.startswith("-") and key.endswith("=") else key
            if name in names and not option.startswith("csv:"):
                tip = f"the first is --sweep {quoted(names[name])}; values are joined by commas"
                raise FieldError(f"{quoted(key)} is in the sweep twice", tip)
        except FieldError as error:
            raise _wrong("sweep", option, error) from error
        names[name] = option
        read.append({key: value})
    if any(option.startswith("csv:") for option in options):
        return read
    return {key: value for item in read for key, value in item.items()}


def _text(data: Mapping[str, Any]) -> str:
    lines = [mark("jobs")]
    known = ("workdir", "venv", "script", "command", "output", "args", "sweep")
    for key in (*known, *(key for key in data if key not in known)):
        value = data.get(key)
        if value is None:
            continue
        if key != "sweep":
            lines += entry(key, value)
        elif isinstance(value, Mapping):
            lines += ["sweep:", *(line for name in value for line in entry(name, value[name], "  "))]
        else:
            lines += ["sweep:", *(f"  - {flow(item)}" for item in value)]
    return "\n".join(lines) + "\n"
