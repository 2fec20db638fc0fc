"""JSON Schemas of the jobs file and the cluster file, by which editors complete keys and mark mistakes.

They are made of the same models that read the files. Only the grammar of the sweep is said here once more,
because the models leave that to `grid` and `values`. The format is draft-07, which editors read best.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, WithJsonSchema
from pydantic.fields import FieldInfo

from pisa_fab.model import OwnerPolicy
from pisa_fab.specs.fields import SCALAR

FOLDER = Path(__file__).resolve().parents[1] / "schemas"
_DRAFT = "http://json-schema.org/draft-07/schema#"
_TITLES = {"jobs": "Jobs file of pisa_fab", "cluster": "Cluster file of pisa_fab"}

Schema = dict[str, Any]


def path_of(kind: str) -> Path:
    """Give the schema that is installed; `kind` is `jobs` or `cluster`."""
    return FOLDER / f"{kind}.schema.json"


def mark(kind: str) -> str:
    """Give the comment by which an editor's YAML server finds the schema of a file."""
    return f"# yaml-language-server: $schema={path_of(kind).as_uri()}"


def write(folder: Path = FOLDER) -> list[Path]:
    """Write both schemas. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, schema in schemas().items():
        paths.append(folder / path_of(kind).name)
        paths[-1].write_text(json.dumps(schema, indent=2) + "\n", "utf-8")
    return paths


def schemas() -> dict[str, Schema]:
    """Make the schemas of both kinds of files."""
    from pisa_fab.specs.cluster import ClusterFile, HostEntry
    from pisa_fab.specs.jobs import JobsFile
    from pisa_fab.specs.windows import OwnerEntry, WindowEntry

    window = _of_model(WindowEntry, {})
    window["anyOf"] = [{"required": ["slots"]}, {"required": ["nice"]}]
    options: dict[str, Schema] = {
        "windows": {"type": "array", "items": window},
        "owner": {"anyOf": [{"enum": [*OwnerPolicy]}, _of_model(OwnerEntry, {})]},
    }
    # A name alone may stand for a host. What holds for the mapping is said in place: no $ref to follow.
    hosts = {"type": "array", "minItems": 1, "items": {"anyOf": [_NAME, _of_model(HostEntry, options)]}}
    jobs, cluster = _of_model(JobsFile, _GRAMMAR), _of_model(ClusterFile, {"hosts": hosts, **options})
    jobs["oneOf"] = [{"required": ["script"]}, {"required": ["command"]}]
    jobs["definitions"] = _DEFINITIONS
    made = (("jobs", jobs), ("cluster", cluster))
    return {kind: {"$schema": _DRAFT, "title": _TITLES[kind], **schema} for kind, schema in made}


def _of_model(model: type[BaseModel], grammar: Mapping[str, Schema]) -> Schema:
    """Describe a mapping that a model reads; `grammar` has what the model leaves open."""
    properties = {
        name: {"description": field.description, **(grammar.get(name) or _of_field(field))}
        for name, field in model.model_fields.items()
    }
    return {
        "description": model.__doc__,
        "type": "object",
        "properties": properties,
        "required": [name for name, field in model.model_fields.items() if field.is_required()],
        "additionalProperties": False,
    }


def _of_field(field: FieldInfo) -> Schema:
    """Give what the type of a field says to an editor (see `fields`), be the key optional or not."""
    for choice in (field, *get_args(field.annotation)):
        metadata = field.metadata if choice is field else getattr(choice, "__metadata__", ())
        for item in reversed(metadata):
            if isinstance(item, WithJsonSchema):
                return dict(item.json_schema or {})
    raise TypeError(f"nothing says to an editor what {field.annotation} may hold")


# ----------------------------------------------------------------------------------------------------
# The sweep
# ----------------------------------------------------------------------------------------------------

_NAME = {**SCALAR, "minLength": 1}
_NUMBER = {
    "type": ["number", "string"],
    "pattern": r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$",
}
_OPTION = "^-.*[^=]$|^-$"
_JOINED = "^-.*=$"
_VARIABLE = "^[A-Za-z_][A-Za-z0-9_-]*$"
_WORD = {"$ref": "#/definitions/word"}
_WORDS = {"type": "array", "minItems": 1, "items": _WORD}


def _only(name: str, schema: Schema, description: str) -> Schema:
    """Describe a mapping of one key."""
    return {
        "description": description,
        "type": "object",
        "properties": {name: schema},
        "required": [name],
        "additionalProperties": False,
    }


def _spaced(name: str, description: str) -> Schema:
    items = [{"$ref": "#/definitions/number"}] * 2 + [{"type": ["integer", "string"], "minimum": 2}]
    three = {"type": "array", "items": items, "minItems": 3, "maxItems": 3}
    return _only(name, three, description)


def _columns(*taken: str) -> Schema:
    """Describe a mapping of options and variables to their values; `taken` cannot be variables."""
    values = {"$ref": "#/definitions/values"}
    return {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"not": {"enum": [*taken, "job", "output"]}},
        "patternProperties": {
            _OPTION: {"anyOf": [values, {"$ref": "#/definitions/flag"}]},
            _JOINED: values,
            _VARIABLE: values,
        },
        "additionalProperties": False,
    }


_RANGE = {
    "description": "From, to and step: whole numbers or exact decimals, both ends included. Default step: 1.",
    "type": "object",
    "properties": {name: {"$ref": "#/definitions/number"} for name in ("from", "to", "step")},
    "required": ["from", "to"],
    "additionalProperties": False,
}
_FLAG_VALUE = {"enum": [True, False, "true", "false"]}

_DEFINITIONS: Schema = {
    "word": {"type": [*SCALAR["type"], "null"]},  # a plain null in a list is the text null
    "number": _NUMBER,
    "values": {
        "anyOf": [
            SCALAR,
            {"description": "These values, as they are written.", **_WORDS},
            _RANGE,
            _spaced("linspace", "[first, last, how many]: evenly spaced numbers, both ends included."),
            _spaced("logspace", "[first, last, how many]: each the same factor above the one before."),
            _only("glob", _NAME, "The files that match, in natural order; ** goes into folders."),
            _only("lines", _NAME, "The lines of a file that are not blank."),
        ]
    },
    "flag": _only(
        "flag",
        {"anyOf": [_FLAG_VALUE, {"type": "array", "minItems": 1, "items": _FLAG_VALUE}]},
        "true passes the bare option, false nothing.",
    ),
}
_SWEEP: Schema = {
    "anyOf": [
        _columns(),
        {
            "description": "Within one entry the keys vary together; entries multiply.",
            "type": "array",
            "minItems": 1,
            "items": {"anyOf": [_columns("csv"), _only("csv", _NAME, "A file with a column for each key.")]},
        },
    ]
}
_EXCLUDE: Schema = {
    "type": "array",
    "items": {"type": "object", "minProperties": 1, "additionalProperties": {"anyOf": [_WORD, _WORDS]}},
}
_INCLUDE: Schema = {
    "type": "array",
    "items": {"type": "object", "minProperties": 1, "additionalProperties": _WORD},
}
_ENV: Schema = {
    "type": "object",
    "propertyNames": {"pattern": "^[^=]+$"},
    "additionalProperties": SCALAR,
}
_RESULTS: Schema = {
    "anyOf": [
        {"enum": ["json", "csv"]},
        _only(
            "regex",
            {"type": "string", "pattern": r"\(\?P<"},
            "A pattern; each named group (?P<name>...) is a column.",
        ),
    ]
}

# What the models leave open -> what may stand there.
_GRAMMAR = {
    "sweep": _SWEEP,
    "exclude": _EXCLUDE,
    "include": _INCLUDE,
    "env": _ENV,
    "results": _RESULTS,
}
