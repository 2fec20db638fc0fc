"""PISA's own files, read as they are: TOML task files and JSON cluster files.

A task file is put into the form of a jobs file and goes the same way from there. A cluster file is simple
enough to be read here. What PISA ignores is ignored, where it cannot hide a mistake.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pisa_fab.errors import SpecError
from pisa_fab.model import COURTESY, MIN_FREE_MEMORY, MIN_FREE_SPACE, Cluster, Host
from pisa_fab.specs.fields import Name, Text, split_words
from pisa_fab.specs.hosts import split_address
from pisa_fab.specs.problems import FieldError, label, shown, validate
from pisa_fab.specs.text import Document, Keys, absolute, at_home
from pisa_fab.specs.windows import Policy
from pisa_fab.sweep import escaped

# ----------------------------------------------------------------------------------------------------
# The task file
# ----------------------------------------------------------------------------------------------------


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise FieldError(f"must be a number, not {shown(value)}")
    return str(value)


def _option(text: str) -> str:
    if not text.startswith("-") or re.search(r"\s", text):
        raise FieldError(
            f"must be an option such as -n, not {shown(text)}", "a jobs.yaml has more kinds of arguments"
        )
    return text


def _numeric(text: str) -> str:
    if text != "numeric":
        raise FieldError(f"must be numeric, not {shown(text)}", "a jobs.yaml has more kinds of values")
    return text


Number = Annotated[str, BeforeValidator(_number)]


class VarArgument(BaseModel):
    """An argument that varies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arg: Annotated[str, AfterValidator(_option)]
    type: Annotated[str, AfterValidator(_numeric)]
    start: Number
    end: Number
    step: Number


class TaskFile(BaseModel):
    """The keys of PISA's task file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    woking_directory: Name
    environment: Name
    output: Name
    assign: Name
    executable: Name
    fix_arguments: Text = ""
    var_arguments: Annotated[list[VarArgument], Field(min_length=1)]


# A key of the jobs file -> PISA's.
_TASK_KEYS = {
    "workdir": "woking_directory",
    "venv": "environment",
    "assignments": "assign",
    "command": "executable",
    "args": "fix_arguments",
    "from": "start",
    "to": "end",
}


def as_jobs_file(document: Document) -> Document:
    """Put PISA's task file into the form of a jobs file; its places are kept. Raises SpecError."""
    data, right = dict(document.data), "working_directory"
    if right in data:
        if "woking_directory" in data:
            problem = "woking_directory and working_directory cannot both be given"
            raise document.wrong((right,), problem, "remove one", key=True)
        data["woking_directory"] = data.pop(right)
    spelling = right if right in document.data else "woking_directory"

    def locate_pisa(keys: Keys, key: bool) -> tuple[int, int]:
        return document.locate((spelling, *keys[1:]) if keys[:1] == ("woking_directory",) else keys, key)

    spec = validate(TaskFile, Document(document.file, data, locate_pisa))

    def locate(keys: Keys, key: bool) -> tuple[int, int]:
        if keys[:1] == ("sweep",):
            below = tuple(_TASK_KEYS.get(str(step), step) for step in keys[3:])
            ours: Keys = ("var_arguments", *keys[1:2], *(below or (("arg",) if keys[2:] else ())))
            return document.locate(ours, key)
        return locate_pisa(tuple(_TASK_KEYS.get(str(step), step) for step in keys), key)

    words = {key: _split(document, getattr(spec, key), (key,)) for key in ("executable", "fix_arguments")}
    jobs = {
        "workdir": spec.woking_directory,
        "venv": spec.environment,
        "output": spec.output,
        "assignments": spec.assign,
        "command": words["executable"],
        "args": words["fix_arguments"],
        "sweep": [{v.arg: {"from": v.start, "to": v.end, "step": v.step}} for v in spec.var_arguments],
    }
    return Document(document.file, jobs, locate)


def _split(document: Document, text: str, keys: Keys) -> list[str]:
    try:
        words = split_words(text)
    except FieldError as error:
        raise document.wrong(keys, f"{label(keys)} {error}", error.hint) from error
    # PISA's shell expanded ~ and had no variables in braces.
    return [escaped(at_home(word)) for word in words]


# ----------------------------------------------------------------------------------------------------
# The cluster file
# ----------------------------------------------------------------------------------------------------

Count = Annotated[int, Field(ge=1, strict=True)]


def _device(value: Any) -> Any:
    return {"device": value} if isinstance(value, str) else value


class Device(BaseModel):
    """A host; other keys are comments."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    device: Name
    num_tasks: Count | None = None


class All(BaseModel):
    """What holds for all hosts. PISA knows nothing of an owner: the key is ours, other keys are comments."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    num_tasks: Count
    owner: Policy = COURTESY.policy


class PisaCluster(BaseModel):
    """The keys of PISA's cluster file."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    all: All
    devices: Annotated[list[Annotated[Device, BeforeValidator(_device)]], Field(min_length=1)]


def read_pisa_cluster(document: Document) -> Cluster:
    """Turn PISA's cluster file into hosts; a later entry overwrites an earlier one. Raises SpecError."""
    if not isinstance(document.data, dict):
        raise document.wrong((), "a cluster file must be an object", 'write {"all": ..., "devices": [...]}')
    spec = validate(PisaCluster, document)
    owner = replace(COURTESY, policy=spec.all.owner)
    start = Host("", owner=owner, min_free_memory=MIN_FREE_MEMORY)
    hosts: dict[str, Host] = {}
    for index, device in enumerate(spec.devices):
        keys: Keys = ("devices", index)
        try:
            name = split_address(device.device)
        except FieldError as error:
            raise _bad_name(document, keys, error) from error
        slots = device.num_tasks or spec.all.num_tasks
        hosts[name.host] = replace(start, name=name.host, slots=slots, user=name.user, port=name.port)
    return Cluster(tuple(hosts.values()), source=absolute(document.file), min_free_space=MIN_FREE_SPACE)


def _bad_name(document: Document, keys: Keys, error: FieldError) -> SpecError:
    return document.wrong((*keys, "device"), f"{label(keys)} {error}", error.hint)
