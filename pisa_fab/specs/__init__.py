"""What people write -> validated objects. The only place that reads YAML, TOML and JSON.

Any mistake in a jobs file or a cluster file ends here, as one `SpecError` with its place in the file, before
anything is written or any host is touched.

The functions import what they need when they are called: PISA's formats load nothing for those who do not use
them, and neither does `import pisa_fab.specs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import tzinfo
from pathlib import Path

from pisa_fab.errors import Position, SpecError, UsageError
from pisa_fab.layout import Layout
from pisa_fab.model import MIN_FREE_MEMORY, Batch, Cluster, Host, Owner, OwnerPolicy

__all__ = ["ad_hoc_batch", "hosts_named", "load_batch", "load_cluster", "local_zone", "owner_named"]


def load_batch(path: Path, *, allow_huge: bool = False) -> Batch:
    """Read a jobs file: PISA's TOML when its name ends in `.toml`, else YAML.

    A folder stands for the jobs.yaml in it, as the run directory of a batch that was described by options
    has one. `allow_huge` lifts the limit on the number of jobs (`max_jobs`). Files that the jobs file names
    are read or looked for, nothing is written. Raises SpecError.
    """
    from pisa_fab.specs.jobs import read_batch
    from pisa_fab.specs.text import is_folder

    if is_folder(path):
        path = _jobs_file_in(path)
    if path.suffix.lower() == ".toml":
        from pisa_fab.specs.pisa import as_jobs_file
        from pisa_fab.specs.toml_text import parse_toml

        return read_batch(as_jobs_file(parse_toml(path)), allow_huge=allow_huge)
    from pisa_fab.specs.yaml_text import parse_yaml

    return read_batch(parse_yaml(path), allow_huge=allow_huge)


def local_zone() -> tzinfo:
    """Give the time zone of this machine. Raises UsageError where TZ is not the name of one."""
    from pisa_fab.specs.problems import FieldError
    from pisa_fab.specs.windows import local_zone

    try:
        return local_zone()
    except FieldError as error:
        raise UsageError(f"the variable TZ {error}", error.hint) from error


def _jobs_file_in(folder: Path) -> Path:
    from pisa_fab.specs.text import is_file

    path = Layout(folder).jobs
    if not is_file(path):
        raise SpecError(Position(folder), "is a folder without a jobs.yaml", "name the jobs file itself")
    return path


def ad_hoc_batch(
    *,
    script: str = "",
    command: str = "",
    sweep: Sequence[str] = (),
    args: str = "",
    venv: str = "",
    output: str = "",
    workdir: Path,
    results: str = "",
    timeout: str = "",
    retries: str = "",
    cluster: str = "",
) -> tuple[Batch, str]:
    """Make a batch of options; give it with the text of the jobs file that describes it, for its `source`.

    The texts are those of the command line, "" for what was not given; `sweep` is a list of `KEY=VALUES`.
    Paths are relative to `workdir`. Nothing is written. Raises SpecError, which names the option.
    """
    from pisa_fab.specs.ad_hoc import read_options

    options = {
        "script": script,
        "command": command,
        "venv": venv,
        "output": output,
        "args": args,
        "results": results,
        "timeout": timeout,
        "retries": retries,
    }
    return read_options(options, sweep, workdir, cluster)


def load_cluster(path: Path) -> Cluster:
    """Read a cluster file: PISA's JSON when its name ends in `.json`, else YAML. Raises SpecError."""
    if path.suffix.lower() == ".json":
        from pisa_fab.specs.json_text import parse_json
        from pisa_fab.specs.pisa import read_pisa_cluster

        return read_pisa_cluster(parse_json(path))
    from pisa_fab.specs.cluster import read_cluster
    from pisa_fab.specs.yaml_text import parse_yaml

    return read_cluster(parse_yaml(path))


def owner_named(text: str) -> Owner:
    """Give how jobs stand back for others at a PC: `pause`, `requeue` or `ignore`. Raises UsageError."""
    if text not in list(OwnerPolicy):
        raise UsageError(f"owner must be {', '.join(OwnerPolicy)}, not {text!r}")
    return Owner(OwnerPolicy(text))


def hosts_named(texts: Iterable[str], slots: int, owner: str) -> tuple[Host, ...]:
    """Give the hosts that texts like `pc[01-34]` and `user@host:port` name, each once. Raises UsageError."""
    from pisa_fab.specs.hosts import expand_addresses
    from pisa_fab.specs.problems import FieldError

    hosts: dict[str, Host] = {}
    for text in texts:
        try:
            named = expand_addresses(text)
        except FieldError as error:
            raise UsageError(f"a host {error}", error.hint) from error
        hosts.update((each.host, Host(each.host, slots, each.user, each.port)) for each in named)
    rules = owner_named(owner)
    return tuple(replace(host, owner=rules, min_free_memory=MIN_FREE_MEMORY) for host in hosts.values())
