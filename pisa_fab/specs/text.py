"""A file as text, and as data that knows where in the file each of its parts stands.

What every format shares is here; how each is parsed is in `yaml_text`, `json_text` and `toml_text`. Nothing
here knows what a jobs file or a cluster file means.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pisa_fab.errors import Position, SpecError

# The way from the top of a file to one of its parts: keys of mappings and indices of lists.
Keys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file.

    Attributes:
        file: its path as the user gave it.
        data: dicts, lists and texts; TOML and JSON keep their numbers.
        locate: gives line and column (from 1) of a part, or of its key; of what contains it, when there is no
            such part.
    """

    file: Path
    data: Any
    locate: Callable[[Keys, bool], tuple[int, int]]

    def wrong(self, keys: Keys, problem: str, hint: str = "", *, key: bool = False) -> SpecError:
        """Make the error that says what is wrong with a part; `key` points at its key, not at its value."""
        line, column = self.locate(keys, key)
        return SpecError(Position(self.file, line, column), problem, hint)


def at_home(written: str) -> str:
    """Expand a `~` at the beginning; one that names nobody stays as it is."""
    return os.path.expanduser(written)  # noqa: PTH111 - Path.expanduser raises RuntimeError for that one


def absolute(path: Path) -> Path:
    """Give the absolute path without `..`, with symbolic links as they are."""
    # Not Path.resolve(): on a shared home a link may lead elsewhere on each host.
    return Path(os.path.abspath(path))  # noqa: PTH100


def is_there(path: Path) -> bool:
    """Whether there is something; not so where nobody may look, for which Path.exists raises an error."""
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: Path) -> bool:
    """Whether it is a file; not so where nobody may look, for which Path.is_file raises an error."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Whether it is a folder; not so where nobody may look, for which Path.is_dir raises an error."""
    return os.path.isdir(path)  # noqa: PTH112


def looked_for(path: Path) -> str:
    """Say where something was looked for in vain, and why it cannot be there, or not be seen."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return f"looked for {path}"
    except OSError as error:
        return f"looked for {path}: {(error.strerror or 'unknown reason').lower()}"
    return f"looked for {path}"


def read_text(path: Path) -> str:
    """Read a file that must be UTF-8. Raises SpecError."""
    raw = read_bytes(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = place(raw[: error.start].decode("utf-8", "replace"), error.start)
        position = Position(path, line, column)
        raise SpecError(position, "is not UTF-8", "save the file with the encoding UTF-8") from error


def read_bytes(path: Path) -> bytes:
    """Read a file. Raises SpecError that says in plain words why that is not possible."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SpecError(Position(path), "no such file") from error
    except IsADirectoryError as error:
        raise SpecError(Position(path), "is a folder, not a file") from error
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise SpecError(Position(path), f"cannot be read: {reason.lower()}") from error


def place(text: str, offset: int) -> tuple[int, int]:
    """Give line and column, from 1, of an offset."""
    before = text[:offset]
    return before.count("\n") + 1, len(before) - before.rfind("\n")
