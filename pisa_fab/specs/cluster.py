"""The cluster file: its keys, what they must hold, and the `model.Cluster` that comes of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, tzinfo
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pisa_fab.model import COURTESY, MIN_FREE_MEMORY, MIN_FREE_SPACE, Cluster, Host
from pisa_fab.specs.fields import Count, Duration, Name, Nice, Port, Size, Text
from pisa_fab.specs.hosts import HostName, expand_addresses
from pisa_fab.specs.problems import FieldError, label, quoted, validate
from pisa_fab.specs.text import Document, Keys, absolute, at_home, is_file, looked_for
from pisa_fab.specs.windows import Edge, OwnerEntry, WindowEntry, Zone, local_zone, owner_entry

# What a host of a cluster file keeps free and does for other people, where nothing else is written.

_OPTIONS = ("slots", "user", "port", "identity", "gateway", "python", "nice", "at_edge", "min_free_memory")


class HostOptions(BaseModel):
    """What can be said of all hosts or of one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: Count | None = Field(
        None, description="How many jobs at once on a host; 0 when only windows have some. Default: 1."
    )
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

    windows: list[WindowEntry] | None = Field(
        None, description="When other limits hold; a host's own list replaces that for all. Default: never."
    )
    at_edge: Edge | None = Field(
        None,
        description="What is done with jobs above the limit when a window changes it: finish, pause or "
        "requeue. Default: pause.",
    )
    owner: Annotated[OwnerEntry, BeforeValidator(owner_entry)] | None = Field(
        None,
        description="What is done when somebody else needs the PC: pause, requeue or ignore, or a mapping. "
        "Default: pause.",
    )
    min_free_memory: Size | None = Field(
        None, description="With less free memory no job is started on a host. Default: 500M."
    )

    def given(self) -> dict[str, Any]:
        """Give the options that were written, those that stand in a Host as they are."""
        given = {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None}
        if self.windows is not None:
            given["windows"] = tuple(window for entry in self.windows for window in entry.windows())
        return given


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
    timezone: Zone | None = Field(
        None, description="Whose clock the windows are read on: Europe/Berlin. Default: that of this machine."
    )
    min_free_space: Size = Field(
        MIN_FREE_SPACE, description="With less free space in the home no job is started. Default: 100M."
    )
    contact: Text = Field(
        "", description="For people at the PCs: how to reach you, by mail, phone or room. Default: not said."
    )


def read_cluster(document: Document) -> Cluster:
    """Turn a cluster file into hosts, in the order in which they are first named. Raises SpecError."""
    if not isinstance(document.data, dict):
        raise document.wrong((), "a cluster file must be a mapping of keys", "write hosts: [pc01, pc02]")
    spec = validate(ClusterFile, document)
    start = Host(
        "",
        zone=_zone(document, spec),
        owner=replace(COURTESY, **_of_owner(spec)),
        min_free_memory=MIN_FREE_MEMORY,
    )
    for_all = replace(start, **_with_identity(document, spec, ()))
    hosts: dict[str, Host] = {}
    refined: dict[str, Keys] = {}
    for index, entry in enumerate(spec.hosts):
        keys: Keys = ("hosts", index)
        options = _with_identity(document, entry, keys)
        of_owner = _of_owner(entry)
        for named in _names(document, entry.host, keys):
            if named.host not in hosts:
                host = replace(for_all, name=named.host)
            elif (options or of_owner) and isinstance(document.data["hosts"][index], dict):
                host = hosts[named.host]
            else:
                hint = f"a later entry refines it: {{host: {named.host}, slots: 1}}"
                problem = f"the host {quoted(named.host)} is listed twice without refining it"
                raise document.wrong(keys, problem, hint)
            written: dict[str, Any] = {"user": named.user, "port": named.port}
            changes = {name: value for name, value in written.items() if value is not None} | options
            hosts[named.host] = replace(host, owner=replace(host.owner, **of_owner), **changes)
            if not {"slots", "windows"}.isdisjoint(options):
                refined[named.host] = keys
    _check_slots(document, hosts, refined)
    return Cluster(
        tuple(hosts.values()),
        spec.lease,
        spec.patience,
        absolute(document.file),
        spec.min_free_space,
        spec.contact,
    )


def _of_owner(options: HostOptions) -> dict[str, Any]:
    """Give what is written of other people; the rest stays as it is for all hosts."""
    return {} if options.owner is None else options.owner.given()


def _zone(document: Document, spec: ClusterFile) -> tzinfo:
    """Give the time zone; that of this machine, when it cannot be read, is missed only by windows."""
    if spec.timezone is not None:
        return spec.timezone
    try:
        return local_zone()
    except FieldError as error:
        for keys, options in [((), spec), *((("hosts", i), entry) for i, entry in enumerate(spec.hosts))]:
            if options.windows:
                problem = f'"windows" need a time zone, and TZ of this machine {error}'
                raise document.wrong((*keys, "windows"), problem, "write timezone: Europe/Berlin") from error
    return UTC


def _check_slots(document: Document, hosts: dict[str, Host], refined: dict[str, Keys]) -> None:
    """Refuse a host that has no slot at any time; `refined` is the last entry that had a say in that."""
    for name, host in hosts.items():
        if not host.slots and not any(window.slots for window in host.windows):
            problem = f"{quoted(name)} never has a slot: slots is 0, and no window has more"
            keys = (*refined.get(name, ()), "slots")
            raise document.wrong(keys, problem, "to leave a host out, remove it from hosts")


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
