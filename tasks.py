"""The tasks of this checkout: those of the package, and the developer's `test`, `lint`, `bench` and `soak`.

Nothing heavy is imported here, for every `inv submit` in the checkout reads this file first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from pisa_fab.tasks import cancel, check, collect, dryrun, here, hosts, init, logs, status, submit

__all__ = [
    "bench",
    "cancel",
    "check",
    "collect",
    "dryrun",
    "here",
    "hosts",
    "init",
    "lint",
    "logs",
    "schemas",
    "soak",
    "status",
    "submit",
    "test",
]

ROOT = Path(__file__).resolve().parent
TESTS_AT_ONCE = 3  # they mostly wait: for hosts, leases, processes
SLOW_TESTS = ("tests/integration", "tests/examples", "tests/faults")
# What the tests need of the system: programs, and the packages of Debian and Ubuntu that have them.
NEEDED = {
    "sshd": "openssh-server",
    "ip": "iproute2",
    "unshare": "util-linux",
    "faketime": "faketime",
}
INSTALL = "apt-get install -y --no-install-recommends"


@task(
    help={
        "k": "only tests whose names match this expression of pytest",
        "fast": "leave out the tests that start servers and whole runs",
    }
)
def test(_: Context, k: str = "", fast: bool = False) -> None:
    """Run the tests; where it may, install the OpenSSH server and what else they need."""
    if not fast:
        _provide_programs()
    ignored = [f"--ignore={folder}" for folder in SLOW_TESTS] if fast else []
    several = ["-n", str(TESTS_AT_ONCE)] if not k else []
    raise Exit(code=_python("-m", "pytest", *several, *ignored, *(["-k", k] if k else [])))


@task
def lint(_: Context) -> None:
    """Check style, format and types."""
    checks = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))
    raise Exit(code=max([_python("-m", *check) for check in checks]))


@task
def schemas(_: Context) -> None:
    """Write the JSON schemas of jobs.yaml and cluster.yaml anew, after their keys have changed."""
    raise Exit(code=_python("-c", "from pisa_fab.specs import schema; print(*schema.write(), sep='\\n')"))


@task(
    help={
        "only": "some rows, as in true,cpu (of scripts, numpy, sleep, true, cpu, memory, million, dryrun, "
        "makespan, cut, foreign)",
        "json": "write the numbers to this file, too",
        "repeat": "how often everything is measured; the medians count",
        "peers": "leave out other programs",
    }
)
def bench(_: Context, only: str = "", json: str = "", repeat: int = 3, peers: bool = True) -> None:
    """Measure the speed side by side with the local machine and with other programs."""
    options = [f"--repeat={repeat}"]
    options += [f"--only={only}"] if only else []
    options += [f"--json={json}"] if json else []
    options += [] if peers else ["--no-peers"]
    raise Exit(code=_python("benchmarks/bench.py", *options))


@task(
    auto_shortflags=False,
    help={
        "minutes": "how long faults happen; some more until all jobs have ended",
        "seed": "of the dice, as an earlier soak printed it (default: by chance)",
        "hosts": "how many",
        "keep": "keep its folder, which is kept anyway when something is wrong",
    },
)
def soak(_: Context, minutes: float = 2.0, seed: str = "", hosts: int = 6, keep: bool = False) -> None:
    """Run jobs on a pool where everything fails now and then; look that nothing is lost or runs twice."""
    options = [f"--minutes={minutes:g}", f"--hosts={hosts}"]
    options += [f"--seed={seed}"] if seed else []
    options += ["--keep"] if keep else []
    raise Exit(code=_python("tests/soak.py", *options))


def _python(*args: str) -> int:
    """Run this interpreter in the checkout and give its exit code."""
    return subprocess.run([sys.executable, *args], cwd=ROOT, check=False).returncode


def _provide_programs() -> None:
    """Install what the tests need where that is possible and allowed; say in one line what happens."""
    search = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    missing = [program for program in NEEDED if shutil.which(program, path=search) is None]
    if not missing:
        return
    what = f"missing: {', '.join(missing)}"
    install = " ".join([INSTALL, *(NEEDED[program] for program in missing)])
    sudo = _root_rights()
    if sudo is None or shutil.which("apt-get", path=search) is None:
        tip = f"sudo {install}" if shutil.which("apt-get", path=search) else "install that"
        print(f"{what}; the tests that need it are skipped; to have them run: {tip}", flush=True)
        return
    print(f"{what}; it is installed now (the service of sshd stays off)", flush=True)
    steps = ["apt-get update", install]
    if "sshd" in missing and Path("/run/systemd/system").is_dir():  # where Debian starts what it installs
        steps.append("{ systemctl disable --quiet --now ssh.service ssh.socket || true; }")
    script = "export DEBIAN_FRONTEND=noninteractive; " + " && ".join(steps)
    done = subprocess.run(
        [*sudo, "sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        print(f"that failed, so the tests that need it are skipped: {' '.join(reason)}", flush=True)


def _root_rights() -> list[str] | None:
    """Give what to put before a command to run it as root without a question; None where that cannot be."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    if (
        shutil.which("sudo")
        and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0
    ):
        return sudo
    return None
