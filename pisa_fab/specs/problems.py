"""What is wrong, in plain words: pydantic's errors -> one SpecError, and the tip with the nearest key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pisa_fab.errors import SpecError
from pisa_fab.specs.text import Document, Keys

_LONGEST_SHOWN = 40

AnyModel = TypeVar("AnyModel", bound=BaseModel)


class FieldError(ValueError):
    """Raised by the validators of the models: what is wrong with a value, as the end of a sentence."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


def quoted(text: str) -> str:
    """Give a text as it can stand in a message of one line."""
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[:_LONGEST_SHOWN]}..."
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) + '"'


def shown(value: object) -> str:
    """Say in a word or two what a value is."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else str(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """Give the tip for a name that is not known: the one that was probably meant, or all there are."""
    from difflib import get_close_matches  # 5 ms that a file without mistakes need not pay

    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {quoted(close[0])}?"
    return f"known are {', '.join(known)}" if known else ""


def label(keys: Keys) -> str:
    """Name a part of a file: `"output"`, or `item 3 of "args"`."""
    if not keys:
        return "the file"
    if isinstance(keys[-1], str):
        return quoted(keys[-1])
    return f"item {keys[-1] + 1} of {label(keys[:-1])}"


# What pydantic calls it -> the end of a sentence, from the error's context and the value.
_WORDS: dict[str, Callable[[Mapping[str, Any], object], str]] = {
    "string_type": lambda _, value: f"must be a text, not {shown(value)}",
    "string_unicode": lambda _, value: "has a character that is no text",
    "int_type": lambda _, value: f"must be a whole number, not {shown(value)}",
    "int_parsing": lambda _, value: f"must be a whole number, not {shown(value)}",
    "int_parsing_size": lambda _, value: "is too large a number",
    "int_from_float": lambda _, value: f"must be a whole number, not {shown(value)}",
    "greater_than_equal": lambda context, value: f"must be at least {context['ge']}, not {shown(value)}",
    "less_than_equal": lambda context, value: f"must be at most {context['le']}, not {shown(value)}",
    "list_type": lambda _, value: f"must be a list, not {shown(value)}",
    "too_short": lambda _, value: "is empty",
    "dict_type": lambda _, value: f"must be a mapping, not {shown(value)}",
    "model_type": lambda _, value: f"must be a mapping, not {shown(value)}",
    "value_error": lambda context, value: str(context["error"]),
}


def validate(model: type[AnyModel], document: Document, data: object = None, keys: Keys = ()) -> AnyModel:
    """Check a document, or the part of it at `keys`, against a model.

    Raises SpecError for the mistake that comes first in the file; for one that something is missing only when
    there is no other, because a key that is spelt wrong is missing too.
    """
    try:
        return model.model_validate(document.data if data is None else data)
    except ValidationError as error:
        items = error.errors(include_url=False)
        items = [item for item in items if item["type"] != "missing"] or items
        mistakes = [_mistake(model, document, keys, dict(item)) for item in items]
        first = min(mistakes, key=lambda mistake: (mistake.position.line, mistake.position.column))
        raise first from None  # pydantic's own text would only be read by mistake


def _mistake(model: type[BaseModel], document: Document, above: Keys, item: dict[str, Any]) -> SpecError:
    keys: Keys = (*above, *item["loc"])
    kind, context, value = item["type"], item.get("ctx", {}), item["input"]
    if kind == "missing":
        return document.wrong(keys[:-1], f"{label(keys)} is missing")
    if kind == "extra_forbidden":
        hint = nearest(str(keys[-1]), _known_keys(model, item["loc"][:-1]))
        return document.wrong(keys, f"unknown key {label(keys)}", hint, key=True)
    of_key = keys[-1:] == ("[key]",)
    if of_key:
        keys = keys[:-1]
    problem = f"{label(keys)} {_WORDS[kind](context, value)}"
    return document.wrong(keys, problem, getattr(context.get("error"), "hint", ""), key=of_key)


def _known_keys(model: type[BaseModel], loc: Keys) -> list[str]:
    """Give the keys of the model that stands at this place inside of `model`."""
    for step in loc:
        if isinstance(step, str):
            field = next(f for n, f in model.model_fields.items() if step in (n, f.alias))
            model = next(a for a in (field.annotation, *_arguments(field.annotation)) if _is_model(a))
    return [field.alias or name for name, field in model.model_fields.items()]


def _arguments(annotation: Any) -> list[Any]:
    found = list(getattr(annotation, "__args__", ()))
    return found + [inner for argument in found for inner in _arguments(argument)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
