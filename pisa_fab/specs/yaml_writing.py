"""Data -> YAML as a person would have written it. What `yaml_text` reads of it is the same data.

Only what it takes to write a jobs file: texts, lists and mappings of one line, and comments.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

# Data of a jobs file; every scalar is text.
Data = str | Sequence["Data"] | Mapping[str, "Data"]

# Texts of these characters mean nothing to YAML, but for three.
_PLAIN = re.compile(r"(?!(?:-|---|\.\.\.)$)[A-Za-z0-9_./+~-][A-Za-z0-9_./+~^=@%-]*")
_PLAIN_IN_BLOCK = re.compile(
    r"(?!(?:-|---|\.\.\.)$)[A-Za-z0-9_./+~-](?:[A-Za-z0-9_./+~^=@%,\[\]-]|:(?=[A-Za-z0-9_./]))*"
)
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_WIDTH = 100


def scalar(text: str) -> str:
    """Write a text, in quotes where it needs them."""
    if _PLAIN.fullmatch(text):
        return text
    if not text.isprintable() or ("'" in text and set(text) & set('\\"')):
        return '"' + "".join(map(_escaped, text)) + '"'
    return f"'{text}'" if set(text) & set('\\"') else f'"{text}"'


def block(text: str) -> str:
    """Write a text that stands in no brackets: `pc[01-34]` needs no quotes there."""
    return text if _PLAIN_IN_BLOCK.fullmatch(text) else scalar(text)


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def flow(value: Data) -> str:
    """Write a value in one line: `fast`, `[a, "b c"]`, `{from: 0, to: 40}`."""
    if isinstance(value, str):
        return scalar(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
    return "[" + ", ".join(map(flow, value)) + "]"


def entry(key: str, value: Data, indent: str = "") -> list[str]:
    """Write a key with its value: one line, or for a long list some more, indented further."""
    line = f"{indent}{scalar(key)}: {flow(value)}"
    if len(line) <= _WIDTH or isinstance(value, str | Mapping) or not value:
        return [line]
    lines, current = [f"{indent}{scalar(key)}: ["], f"{indent}  "
    for item in map(flow, value):
        if len(current) + len(item) > _WIDTH and current.strip():
            lines.append(current.rstrip())
            current = f"{indent}  "
        current += f"{item}, "
    return [*lines, f"{current.removesuffix(', ')}]"]


def comment(text: str, indent: str = "", width: int = 80) -> list[str]:
    """Write a text as comment lines; what YAML allows nowhere becomes a question mark."""
    shown = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    start = f"{indent}# "
    return textwrap.wrap(shown, width, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)
