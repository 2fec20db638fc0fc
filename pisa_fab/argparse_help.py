"""Pure: what a script's `--help` prints -> its arguments.

Made for argparse of Python 3.8 to 3.14. Of click and docopt it understands what looks the same; whatever it
does not understand it leaves out. Types are not in a help text, so none are here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Option:
    """An argument of a script.

    Attributes:
        flags: what it is called, `("-n", "--number")`; empty for a positional argument.
        metavar: the names of its values; empty for a flag. A positional argument is called by them.
        choices: the values that it may have, where the help text says so.
        help: its description in one line.
        default: as the description says it, "" where it does not.
        required: the script does not run without it.
        many: it takes any number of values.
        instead_of: the flag of the required argument that it can replace, "" for none.
    """

    flags: tuple[str, ...] = ()
    metavar: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    help: str = ""
    default: str = ""
    required: bool = False
    many: bool = False
    instead_of: str = ""

    @property
    def positional(self) -> bool:
        """Whether it is called by its place alone."""
        return not self.flags

    @property
    def takes_value(self) -> bool:
        """Whether a value follows its flag."""
        return bool(self.metavar)

    @property
    def name(self) -> str:
        """What a person calls it: the first long flag, else the first flag, else the name of its value."""
        long = [flag for flag in self.flags if flag.startswith("--")]
        return (*long, *self.flags, *self.metavar)[0]


_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_USAGE = re.compile(r"usage:", re.IGNORECASE)
_HEADER = re.compile(r"\S.*:$")
_FLAG = re.compile(r"--?[^\W\d_]|--?\d|-[?#@]")
_TOKEN = re.compile(r"\{[^}]*\}|<[^>]*>|\.\.\.|[\[\]()|]|[^\s\[\](){}|<>]+")
_DEFAULTS = (
    re.compile(r"[(\[]defaults?(?: to| is)?[:=]? ([^()\[\];]+)", re.IGNORECASE),
    re.compile(r"\bdefaults?(?: to| is|:|=|: )? ?([-+.\w/]+)", re.IGNORECASE),
)
_REQUIRED = re.compile(r"\[([^\]]*; )?required\]")  # as click says it
_NOT_OURS = {"-h", "--help", "--version"}


def parse(text: str) -> list[Option]:
    """Give the arguments that a help text describes, in its order, positional ones last."""
    text = "".join(c for c in _COLOUR.sub("", text).expandtabs() if c.isprintable() or c == "\n")
    lines = [line.rstrip() for line in text.split("\n")]
    start = next((at for at, line in enumerate(lines) if _USAGE.match(line)), None)
    if start is None:
        return []
    usage, rest = _usage(lines[start:])
    entries = list(_entries(rest, {word for word in usage if _is_name(word)}))
    options = [option for option in entries if option.flags]
    described = {option.metavar: option for option in entries if option.positional}
    seen = _Usage(options, usage)
    found = []
    for option in dict.fromkeys(options):
        named = not seen.flags or seen.flags & set(option.flags)  # others are only spoken of
        if named and not _NOT_OURS & set(option.flags):
            required = bool(seen.required & set(option.flags)) or bool(_REQUIRED.search(option.help))
            instead = next((seen.instead[flag] for flag in option.flags if flag in seen.instead), "")
            found.append(replace(option, required=required, instead_of=instead))
    return [*found, *seen.positionals(described)]


# ----------------------------------------------------------------------------------------------------
# The usage
# ----------------------------------------------------------------------------------------------------


def _usage(lines: Sequence[str]) -> tuple[list[str], Sequence[str]]:
    """Give the tokens of the usage behind the program's name, and the lines that follow it.

    There are no tokens where it has several patterns, as docopt's has: what is required depends on them.
    """
    end = next((at for at, line in enumerate(lines) if at and not line.startswith(" ")), len(lines))
    first = _USAGE.sub("", lines[0], count=1).split()
    rest = lines[end:]
    if not first:
        return [], rest
    name = next((at for at, word in enumerate(first[:4]) if word.endswith(".py")), 0)
    if any(line.split()[:1] == first[:1] for line in lines[1:end]):
        return [], rest
    return _TOKEN.findall(" ".join([*first[name + 1 :], *lines[1:end]])), rest


def _is_name(token: str) -> bool:
    return token not in {"[", "]", "(", ")", "|", "..."} and not _FLAG.match(token)


class _Usage:
    """What a usage says: which arguments there are and which of them must be given."""

    def __init__(self, options: Iterable[Option], tokens: Sequence[str]) -> None:
        self._sizes = {flag: len(option.metavar) for option in options for flag in option.flags}
        self.flags: set[str] = set()
        self.required: set[str] = set()
        self.instead: dict[str, str] = {}
        self._positionals: list[tuple[str, bool]] = []  # name, required
        self._many: set[str] = set()
        self._open: list[str] = []  # the brackets around what is read
        self._first = ""  # flag of the (a | b) that is being read
        self._values = 0  # how many of the next words belong to the flag before
        self._depth = -1  # in how many brackets that flag stands, -1 where there is none
        for token in tokens:
            if token in "[(":
                self._open.append(token)
            elif token in "])":
                self._closed()
            elif token == "|":
                self._values = 0
            elif _FLAG.match(token):
                self._flag(token.partition("=")[0])
            elif self._values and token != "...":
                self._values -= 1
            elif self._depth < 0 or len(self._open) < max(self._depth, 1):
                self._word(token)

    def _closed(self) -> None:
        del self._open[-1:]
        if not self._open:
            self._first = ""
        if len(self._open) < self._depth:
            self._values, self._depth = 0, -1

    def _flag(self, flag: str) -> None:
        self.flags.add(flag)
        self._values, self._depth = self._sizes.get(flag, 0), len(self._open)
        if "[" in self._open:
            return
        if self._first:
            self.instead[flag] = self._first
            return
        self.required.add(flag)
        self._first = flag if self._open else ""

    def _word(self, token: str) -> None:
        required = "[" not in self._open
        if token != "...":
            if not required and (token, True) in self._positionals:
                self._many.add(token)  # file [file ...]
            else:
                self._positionals.append((token, required))
        elif self._positionals:
            self._many.add(self._positionals[-1][0])

    def positionals(self, described: dict[tuple[str, ...], Option]) -> Iterator[Option]:
        """Give the positional arguments: those that are described, and such as click has them."""
        done: set[str] = set()
        for token, required in self._positionals:
            if token in done:
                continue
            done.add(token)
            times = sum(name == token for name, needed in self._positionals if needed == required)
            names, choices = _value_names([token])
            base = described.get(names)
            if base is None:
                if not required or not (token.isupper() or token.startswith(("<", "{"))):
                    continue
                base = Option(metavar=names, choices=choices)
            many = token in self._many and not choices  # {run,test} ... has the arguments of another parser
            yield replace(base, metavar=names if many else names * times, required=required, many=many)


# ----------------------------------------------------------------------------------------------------
# The descriptions
# ----------------------------------------------------------------------------------------------------


def _entries(lines: Sequence[str], names: set[str]) -> Iterator[Option]:
    """Give every argument that is described below a header; `names` are the positional ones."""
    indent: int | None = None
    current: list[str] = []
    in_section = False
    for line in [*lines, ""]:
        at = len(line) - len(line.lstrip())
        words = line.split()
        begins = bool(words) and at > 0 and (indent is None or at <= indent)
        is_entry = in_section and begins and (_FLAG.match(words[0]) or _first(line) in names)
        if current and (not words or at == 0 or is_entry):
            yield _option(current)
            current = []
        if is_entry:
            indent = at
            current = [line.strip()]
        elif current:
            current.append(line.strip())
        elif words and at == 0:
            in_section, indent = bool(_HEADER.match(line)), None


def _first(line: str) -> str:
    match = _TOKEN.match(line.strip())
    return match[0] if match else ""


def _option(lines: Sequence[str]) -> Option:
    invocation, _, first = re.sub(r" {2,}", "\0", lines[0], count=1).partition("\0")
    text = " ".join(word for line in (first, *lines[1:]) for word in line.split())
    flags: list[str] = []
    tokens: list[str] = []
    for part in re.split(r",\s+(?=-)", invocation):
        tokens = []  # 3.12 and older say the values behind each flag, newer ones behind the last
        for word in re.findall(r"\[[^\]]*\](?!\w)|\{[^}]*\}|<[^>]*>|[^\s\[{<]+", part):
            flag, _, value = word.partition("=")
            if _FLAG.match(word) and not (flags and tokens):
                flags.append(flag)
                tokens += [value] if value else []
            elif word != "/":
                tokens.append(word)
    metavar, choices = _value_names(tokens)
    many = any("..." in token for token in tokens)
    return Option(tuple(flags), metavar, choices, text, _default(text), many=many)


def _value_names(tokens: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give the names of the values that these tokens stand for, and the choices of the first."""
    if tokens[1:] == ["RANGE"]:
        tokens = tokens[:1]  # click's INTEGER RANGE is one value
    names: list[str] = []
    choices: tuple[str, ...] = ()
    for token in tokens:
        if token.startswith("[") and "|" in token:  # click's [fast|exact]
            token = "{" + token.strip("[]").replace("|", ",") + "}"
        inner = token.strip("[]").replace("...", "").strip()
        if token.startswith("[") and (names or not inner):
            continue  # the others of many
        if token == "...":
            continue
        if inner.startswith("{"):
            choices = choices or tuple(choice.strip() for choice in inner.strip("{}").split(","))
        names.append(inner.split()[0] if token.startswith("[") and not inner.startswith("{") else inner)
    return tuple(names), choices


def _default(text: str) -> str:
    for pattern in _DEFAULTS:
        match = pattern.search(text)
        if match is not None:
            value = match[1].strip().strip("\"'").removesuffix(".")
            return "" if value in ("None", "==SUPPRESS==") else value
    return ""
