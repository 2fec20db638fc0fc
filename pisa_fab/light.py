"""The little that the worker needs of big libraries, without importing them: on every host, at every start,
`json`, `signal`, `shutil` and `ctypes` together would take longer than Python itself.

It travels to the host with the worker: standard library only, Python 3.8 or newer. It stands on the modules
written in C below those libraries, which the Python at hand may not have, or not like that; then it takes the
libraries. What is said, called or looked for is the business of who calls.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    import signal
    from typing import Any, Callable
else:
    try:
        import _signal as signal
    except ImportError:
        import signal

__all__ = ["call_libc", "dumps", "find_program", "loads", "move_text", "signal"]


BLANK = " \t\r\n"  # what JSON takes for that


class Reading:
    """What the scanner of JSON is told: as `json.loads` does it."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def make_scanner() -> Callable[[str], Any]:
    """Give what reads JSON, here from a text that begins and ends with it. Raises ValueError."""
    try:
        from _json import make_scanner as make

        scan = make(Reading)  # type: ignore[arg-type]  # it takes whatever has these attributes
        scan("{}", 0)
    except (ImportError, AttributeError, TypeError):
        import json

        return json.loads

    def read(text: str) -> Any:
        try:
            value, end = scan(text, 0)
        except StopIteration:
            raise ValueError("no JSON") from None
        if end < len(text):
            raise ValueError("something follows the JSON")
        return value

    return read


def make_writer() -> Callable[[Any], str]:
    """Give what writes JSON, in ASCII."""
    try:
        from _json import encode_basestring_ascii
        from _json import make_encoder as make

        pieces = make(None, refuse, encode_basestring_ascii, None, ":", ",", False, False, True)
        pieces({}, 0)
    except (ImportError, AttributeError, TypeError):
        import json

        return json.dumps
    return lambda value: "".join(pieces(value, 0))


def refuse(value: object) -> None:
    """Raise TypeError for what JSON has no word for."""
    raise TypeError(f"{type(value).__name__} has no place in JSON")


_read, _write = make_scanner(), make_writer()


def loads(line: bytes) -> Any:
    """Read a line of JSON. Raises ValueError."""
    return _read(line.decode("utf-8").strip(BLANK))


def dumps(value: object) -> bytes:
    """Give a value as JSON, on one line without its end. Raises TypeError."""
    return _write(value).encode("ascii")


def call_libc(name: str, *arguments: int | bytes) -> int:
    """Call a function of the C library; numbers are taken for `int`. Raises AttributeError if it has none."""
    try:
        import _ctypes

        library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # not in the stubs: this program itself
        address = _ctypes.dlsym(library, name)
        result: int = _ctypes.call_function(address, arguments)
    except (ImportError, AttributeError, OSError):
        import ctypes

        result = ctypes.CDLL(None)[name](*arguments)
    return result


def move_text(address: int, text: bytes) -> None:
    """Put bytes to an address in memory, where there is room for them."""
    try:
        import _ctypes

        pointer = type("Pointer", (_ctypes._SimpleCData,), {"_type_": "P"})
        move = _ctypes._memmove_addr  # type: ignore[attr-defined]  # not in the stubs
        _ctypes.call_function(move, (pointer(address), text, pointer(len(text))))
    except (ImportError, AttributeError, TypeError):
        import ctypes

        ctypes.memmove(address, text, len(text))


def find_program(name: str, search: str) -> str | None:
    """Give the file of a program that is looked up in folders, as PATH lists them; None for none."""
    for folder in search.split(os.pathsep):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return None
