"""The other programs that do the same work on the same hosts: pisa-ssh and GNU parallel."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PISA_SSH = "pisa-ssh==0.1.9"
OUTPUT = "peer_out"  # both write OUTPUT/stdout/N.out and OUTPUT/stderr/N.err


class NoPeerError(Exception):
    """The program is not to be had here; the message says why."""


def cache() -> Path:
    """Give our folder in the system's temporary folder, which nobody else can write to."""
    path = Path(tempfile.gettempdir()) / f"pisa-fab-bench-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    facts = path.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise NoPeerError(f"{path} is not ours alone")
    return path


def install_pisa_ssh() -> Path:
    """Install pisa-ssh into a venv of its own, once, and give its program. Raises NoPeerError."""
    venv = cache() / PISA_SSH.replace("==", "-")
    program = venv / "bin" / "pisa"
    if not program.exists():
        make = [sys.executable, "-m", "venv", str(venv)]
        install = [str(venv / "bin" / "pip"), "install", "-q", PISA_SSH]
        for command in (make, install):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
                raise NoPeerError(f"{PISA_SSH} cannot be installed: {' '.join(reason)}")
    return program


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
    program = install_pisa_ssh()
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
