"""The cluster file: its keys, what they must hold, and the `model.Cluster` that comes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pisa_fab.model import Cluster, Host
from pisa_fab.specs.fields import Duration, Name, Nice, Port, Positive
from pisa_fab.specs.hosts import HostName, expand_addresses
from pisa_fab.specs.problems import FieldError, label, quoted, validate
from pisa_fab.specs.text import Document, Keys, absolute, at_home, is_file, looked_for

_OPTIONS = ("slots", "user", "port", "identity", "gateway", "python", "nice")


class HostOptions(BaseModel):
    """What can be said of all hosts or of one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: Positive | None = Field(None, description="How many jobs at once on a host. Default: 1.")
    user: Name | None = Field(None, description="As for ssh. Default: as ~/.ssh/config says.")
    port: Port | None = Field(None, description="As for ssh. Default: as ~/.ssh/config says.")
    identity: Name | None = Field(
        None, description="The file of a private key. Default: as ~/.ssh/config says, and the agent's keys."
    )
    gateway: Name | None = Field(
        None,
        description="A host through which to connect; hosts with the same one share one connection to it.",
    )
    python: Name | None = Field(
        None, description="What runs the worker on the host, Python 3.8 or newer. Default: python3."
    )
    nice: Nice | None = Field(
        None, description="How far jobs there stand back, 0 to 19. Default: nice of the jobs file."
    )

    def given(self) -> dict[str, Any]:
        """Give the options that were written."""
        return {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None}


class HostEntry(HostOptions):
    """An entry of `hosts` that is a mapping."""

    host: Name = Field(description="A name or a range of names: pc04, pc[01-34], user@host:port.")


def _entry(value: Any) -> Any:
    return {"host": value} if isinstance(value, str) else value


def _lease(seconds: float) -> float:
    if seconds < 1:
        raise FieldError("must be at least 1 second")
    return seconds


class ClusterFile(HostOptions):
    """The keys of a cluster file."""

    hosts: Annotated[list[Annotated[HostEntry, BeforeValidator(_entry)]], Field(min_length=1)] = Field(
        description="The PCs: names as for ssh, pc[01-34], user@host:port, or {host: pc04, slots: 1}."
    )
    lease: Annotated[Duration, AfterValidator(_lease)] = Field(
        60.0,
        description="How long head and worker may hear nothing from each other; at least 1 s. Default: 60s.",
    )
    patience: Duration | None = Field(
        None, description="How long a run waits for a host when none is left. Default: ten times the lease."
    )


def read_cluster(document: Document) -> Cluster:
    """Turn a cluster file into hosts, in the order in which they are first named. Raises SpecError."""
    if not isinstance(document.data, dict):
        raise document.wrong((), "a cluster file must be a mapping of keys", "write hosts: [pc01, pc02]")
    spec = validate(ClusterFile, document)
    for_all = _with_identity(document, spec, ())
    hosts: dict[str, Host] = {}
    for index, entry in enumerate(spec.hosts):
        keys: Keys = ("hosts", index)
        options = _with_identity(document, entry, keys)
        for named in _names(document, entry.host, keys):
            if named.host not in hosts:
                start = Host(named.host, **for_all)
            elif options and isinstance(document.data["hosts"][index], dict):
                start = hosts[named.host]
            else:
                hint = f"a later entry refines it: {{host: {named.host}, slots: 1}}"
                problem = f"the host {quoted(named.host)} is listed twice without refining it"
                raise document.wrong(keys, problem, hint)
            written: dict[str, Any] = {"user": named.user, "port": named.port}
            changes = {name: value for name, value in written.items() if value is not None} | options
            hosts[named.host] = replace(start, **changes)
    return Cluster(tuple(hosts.values()), spec.lease, spec.patience, absolute(document.file))


def _names(document: Document, text: str, keys: Keys) -> list[HostName]:
    try:
        return expand_addresses(text)
    except FieldError as error:
        raise document.wrong((*keys, "host"), f"{label(keys)} {error}", error.hint) from error


def _with_identity(document: Document, options: HostOptions, keys: Keys) -> dict[str, Any]:
    given = options.given()
    if options.python is not None:
        given["python"] = at_home(options.python)  # the home is the same on every host
    if options.identity is not None:
        path = document.file.parent / at_home(options.identity)
        given["identity"] = path = absolute(path)
        if not is_file(path):
            problem = f"there is no file {quoted(options.identity)}"
            raise document.wrong((*keys, "identity"), problem, looked_for(path))
    return given
