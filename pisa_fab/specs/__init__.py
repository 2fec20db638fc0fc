"""What people write -> validated objects. The only place that reads YAML, TOML and JSON.

Any mistake in a jobs file or a cluster file ends here, as one `SpecError` with its place in the file, before
anything is written or any host is touched.

The functions import what they need when they are called: PISA's formats load nothing for those who do not use
them, and neither does `import pisa_fab.specs`.
"""

from __future__ import annotations

from pathlib import Path

from pisa_fab.model import Batch, Cluster

__all__ = ["load_batch", "load_cluster"]


def load_batch(path: Path, *, allow_huge: bool = False) -> Batch:
    """Read a jobs file: PISA's TOML when its name ends in `.toml`, else YAML.

    `allow_huge` lifts the limit on the number of jobs (`max_jobs`). Files that the jobs file names are read
    or looked for, nothing is written. Raises SpecError.
    """
    from pisa_fab.specs.jobs import read_batch

    if path.suffix.lower() == ".toml":
        from pisa_fab.specs.pisa import as_jobs_file
        from pisa_fab.specs.toml_text import parse_toml

        return read_batch(as_jobs_file(parse_toml(path)), allow_huge=allow_huge)
    from pisa_fab.specs.yaml_text import parse_yaml

    return read_batch(parse_yaml(path), allow_huge=allow_huge)


def load_cluster(path: Path) -> Cluster:
    """Read a cluster file: PISA's JSON when its name ends in `.json`, else YAML. Raises SpecError."""
    if path.suffix.lower() == ".json":
        from pisa_fab.specs.json_text import parse_json
        from pisa_fab.specs.pisa import read_pisa_cluster

        return read_pisa_cluster(parse_json(path))
    from pisa_fab.specs.cluster import read_cluster
    from pisa_fab.specs.yaml_text import parse_yaml

    return read_cluster(parse_yaml(path))
