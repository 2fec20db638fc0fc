"""The types of single values that both file formats use: texts, names, durations, lists of words.

Their validators raise `FieldError`, which ends the sentence that begins with the key. What `WithJsonSchema`
says is for editors: they see the numbers and truth values of YAML where the reader gives text.
"""

from __future__ import annotations

import re
import shlex
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from pisa_fab.specs.problems import FieldError, shown

# Linux takes no single argument and no NAME=value that is longer (MAX_ARG_STRLEN without its final NUL).
LONGEST_WORD = 131071

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([smhd]?)", re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([kKMGT]?)(?:i?B)?", re.ASCII)
_FACTOR = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def check_word(text: str) -> str:
    """Refuse what Linux cannot pass to a program. Raises FieldError."""
    if "\0" in text:
        raise FieldError("has a NUL character in it, which no program can be given")
    try:
        length = byte_length(text)
    except UnicodeEncodeError as error:
        raise FieldError("has a character that is no text") from error
    if length > LONGEST_WORD:
        problem = f"has {length} bytes, but Linux passes at most {LONGEST_WORD} in one argument"
        raise FieldError(problem, "write it to a file and pass the file's name")
    return text


def byte_length(text: str) -> int:
    """Give the length of a text as it is passed to a program."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def _not_empty(text: str) -> str:
    if not text.strip():
        raise FieldError("is empty")
    return text


def _environment_name(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise FieldError("cannot be the name of an environment variable")
    return name


def duration(value: Any) -> float:
    """Read `90`, `15m`, `2h`, `1.5h` or `1d` as seconds. Raises FieldError."""
    seconds = duration_or_zero(value)
    if not seconds:
        raise FieldError("must be more than 0")
    return seconds


def duration_or_zero(value: Any) -> float:
    """Read a duration that may be 0. Raises FieldError."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise FieldError(f"must be a duration, not {shown(value)}", "write 90 (seconds), 15m, 2h or 1d")
    return float(match[1]) * _SECONDS[match[2]]


def size(value: Any) -> int:
    """Read `500M`, `2G`, `1.5G` or a number of bytes as bytes; K, M, G and T are powers of 1024.

    Raises FieldError.
    """
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise FieldError(f"must be a size, not {shown(value)}", "write 500M, 2G or 1.5G")
    return int(Decimal(match[1]) * _BYTES[match[2].upper()])


def speculation(value: Any) -> float:
    """Read `true` (2), `false` (0) or a number above 1, such as `1.5`. Raises FieldError."""
    if value in ("true", "false"):
        return 2.0 if value == "true" else 0.0
    match = _FACTOR.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[0]) <= 1:
        problem = f"must be true, false or a number above 1, not {shown(value)}"
        raise FieldError(problem, "3 is for jobs that take three times as long as they should")
    return float(match[0])


def split_words(text: str) -> list[str]:
    """Split a text into words as a shell does, without expanding anything. Raises FieldError."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise FieldError("has a quote that is not closed, or ends in a backslash") from error


def _words(value: Any) -> Any:
    return split_words(value) if isinstance(value, str) else value


def _named(words: list[str]) -> list[str]:
    if not words[0].strip():
        raise FieldError("begins with an empty text where a program's name should be")
    return words


# What an editor may find where we read a text: `12`, `0.5` and `yes` are written without quotes.
SCALAR: dict[str, Any] = {"type": ["string", "number", "boolean"]}


def _whole(least: int, most: int | None = None) -> WithJsonSchema:
    """Say to an editor that a whole number is meant, which may stand in quotes."""
    bounds = {"minimum": least} | ({} if most is None else {"maximum": most})
    return WithJsonSchema({"type": ["integer", "string"], "pattern": "^[0-9]+$", **bounds})


Text = Annotated[str, AfterValidator(check_word), WithJsonSchema(SCALAR)]
Name = Annotated[
    str, AfterValidator(_not_empty), AfterValidator(check_word), WithJsonSchema({**SCALAR, "minLength": 1})
]
TIME_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,9})? ?[smhd]?$"


def timed(bound: str, *examples: str, pattern: str = TIME_PATTERN) -> WithJsonSchema:
    """Say to an editor that a time is meant; `bound` is the keyword for what it has to do with 0."""
    return WithJsonSchema(
        {"type": ["number", "string"], bound: 0, "pattern": pattern, "examples": list(examples)}
    )


EnvironmentName = Annotated[str, AfterValidator(_environment_name)]
Duration = Annotated[
    float,
    BeforeValidator(duration),
    timed("exclusiveMinimum", "90", "15m", "2h", "1d"),
]
DurationOrZero = Annotated[
    float,
    BeforeValidator(duration_or_zero),
    timed("minimum", "0", "90", "15m", "2h"),
]
Size = Annotated[
    int,
    BeforeValidator(size),
    WithJsonSchema(
        {
            "type": ["integer", "string"],
            "minimum": 0,
            "pattern": r"^[0-9]{1,15}(\.[0-9]{1,9})? ?[kKMGT]?(i?B)?$",
            "examples": ["500M", "2G", "1.5G"],
        }
    ),
]
Speculate = Annotated[
    float,
    BeforeValidator(speculation),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [True, False, "true", "false"]},
                {"type": ["number", "string"], "exclusiveMinimum": 1, "pattern": r"^[0-9]+(\.[0-9]+)?$"},
            ]
        }
    ),
]
Words = Annotated[
    list[Text],
    BeforeValidator(_words),
    WithJsonSchema({"anyOf": [SCALAR, {"type": "array", "items": SCALAR}]}),
]
Program = Annotated[
    Words,
    Field(min_length=1),
    AfterValidator(_named),
    WithJsonSchema(
        {
            "anyOf": [
                {**SCALAR, "minLength": 1},
                {"type": "array", "minItems": 1, "items": SCALAR},
            ]
        }
    ),
]
Nice = Annotated[int, Field(ge=0, le=19), _whole(0, 19)]
Port = Annotated[int, Field(ge=1, le=65535), _whole(1, 65535)]
Count = Annotated[int, Field(ge=0), _whole(0)]
Positive = Annotated[int, Field(ge=1), _whole(1)]
