"""The other programs that do the same work: on the same hosts over ssh pisa-ssh and GNU parallel, on workers
of this machine HyperQueue and Dask. How each is installed and called; what is measured is known elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PISA_SSH = "pisa-ssh==0.1.9"
OUTPUT = "peer_out"  # both write OUTPUT/stdout/N.out and OUTPUT/stderr/N.err


class NoPeerError(Exception):
    """The program is not to be had here; the message says why."""


@dataclass(frozen=True)
class Cluster:
    """A program with workers on this machine (see `clusters`): what it is called, and what is installed."""

    name: str
    title: str
    package: str


CLUSTERS = (
    Cluster("hyperqueue", "HyperQueue", "hyperqueue==0.27.0"),
    Cluster("dask", "Dask", "dask[distributed]==2026.8.0"),
)


def cache() -> Path:
    """Give our folder in the system's temporary folder, which nobody else can write to."""
    path = Path(tempfile.gettempdir()) / f"pisa-fab-bench-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    facts = path.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise NoPeerError(f"{path} is not ours alone")
    return path


def install(package: str) -> Path:
    """Install a package of Python into a venv of its own, once, and give the venv. Raises NoPeerError."""
    venv = cache() / re.sub("[^a-z0-9.]+", "-", package)
    done = venv / "installed"
    if done.exists():
        return venv
    make = [sys.executable, "-m", "venv", "--clear", str(venv)]
    pip = [str(venv / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", package]
    for command in (make, pip):
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode != 0:
            reason = (said.stderr.strip() or said.stdout.strip()).splitlines()[-1:]
            raise NoPeerError(f"{package} cannot be installed: {' '.join(reason)}")
    done.touch()
    return venv


def wrap_ssh(folder: Path, config: Path) -> None:
    """Put an `ssh` into a folder that reads our configuration: OpenSSH itself does not look at $HOME."""
    real = shutil.which("ssh")
    if real is None:
        raise NoPeerError("no ssh here")
    wrapper = folder / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(real)} -F {shlex.quote(str(config))} "$@"\n')
    wrapper.chmod(0o755)


def pisa_ssh(folder: Path, script: str, jobs: int, hosts: Sequence[str], slots: int) -> list[str]:
    """Write PISA's two files for `python3 SCRIPT -n 0..jobs-1` and give the command."""
    program = install(PISA_SSH) / "bin" / "pisa"
    (folder / "task.toml").write_text(
        f"woking_directory = {json.dumps(str(folder))}\n"
        'environment = "venv"\n'
        f'output = "{OUTPUT}"\n'
        'assign = "assign"\n'
        f'executable = "python3 {script}"\n'
        'fix_arguments = ""\n'
        f'var_arguments = [{{ arg = "-n", type = "numeric", start = 0, end = {jobs - 1}, step = 1 }}]\n'
    )
    cluster = {"all": {"num_tasks": slots}, "devices": list(hosts)}
    (folder / "cluster.json").write_text(json.dumps(cluster))
    return [str(program), "-c", "cluster.json", "-t", "task.toml"]


def gnu_parallel(
    folder: Path, script: str, hosts: Sequence[str], slots: int, options: Sequence[str] = ()
) -> list[str]:
    """Give the command for `python3 SCRIPT -n N`, with every N on a line of its input. Raises NoPeerError."""
    program = shutil.which("parallel")
    if (
        program is None
        or "GNU"
        not in subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    ):
        raise NoPeerError("GNU parallel is not installed")
    (folder / "logins").write_text("".join(f"{slots}/{host}\n" for host in hosts))
    for kind in ("stdout", "stderr"):
        (folder / OUTPUT / kind).mkdir(parents=True)
    job = f"python3 {script} -n {{}} > {OUTPUT}/stdout/{{}}.out 2> {OUTPUT}/stderr/{{}}.err"
    command = [program, "--plain", "--will-cite", *options, "--sshloginfile", "logins"]
    return [*command, f"cd {shlex.quote(str(folder))} && {job}"]


def local_cluster(cluster: Cluster, workers: int, jobs: int, command: Sequence[str]) -> list[str]:
    """Give what runs `command` on workers of one core each, with every N below `jobs` in place of `{}`.

    Raises NoPeerError.
    """
    python = install(cluster.package) / "bin" / "python"
    program = Path(__file__).with_name("clusters.py")
    return [str(python), str(program), cluster.name, str(workers), str(jobs), OUTPUT, *command]
