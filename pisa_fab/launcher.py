"""Starting the process of a job: its program, its environment, its files.

Travels to the host with `worker`, so it needs nothing but the standard library of Python 3.8. Which job is
started when is `worker`'s business; what becomes of its process then, `execution`'s; jobs that a template
makes get the same environment and files here.
"""

from __future__ import annotations

import errno
import os

from pisa_fab.execution import open_output
from pisa_fab.light import find_program, signal
from pisa_fab.processes import MARK

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from typing import Any, Mapping, Sequence

    from pisa_fab.execution import Attempt
    from pisa_fab.template import Template

# The host, not the job, is why a process was not started.
REFUSALS = {errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE}
REFUSALS |= {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}
# Signals that jobs find as any program does, whatever the worker makes of them.
DEFAULTED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What numeric libraries ask for the size of their thread pools.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "JULIA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "LOKY_MAX_CPU_COUNT",
)


class RefusedError(Exception):
    """The host cannot start anything at the moment; the message says why."""


class Launcher:
    """Starts jobs as one head wants it."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.environment = environment_of_jobs(setup)
        # As the system wants it, so that this is done once and not for every job.
        self._packed = {os.fsencode(name): os.fsencode(value) for name, value in self.environment.items()}
        self._programs: dict[tuple[str, str], str] = {}  # (name, PATH) -> file

    def start(self, attempt: Attempt, folder: int, template: Template | None) -> int:
        """Give the pid of its process, started with its files in that folder; 0 if the template makes it.

        Raises RefusedError where the host is why that cannot be, OSError and ValueError where the job is.
        """
        files: list[int] = []
        try:
            try:
                for name in (attempt.out, attempt.err):
                    files.append(open_output(name, folder))
            except OSError as error:
                raise RefusedError(f"its output files cannot be made: {error.strerror}") from error
            return self._spawn(attempt, files[0], files[1], template)
        except OSError as error:
            if error.errno in REFUSALS:
                raise RefusedError(str(error.strerror)) from error
            raise
        finally:
            for file in files:
                os.close(file)

    def _spawn(self, attempt: Attempt, out: int, err: int, template: Template | None) -> int:
        program = attempt.argv[0]
        if os.sep not in program:
            program = self._find(program, attempt.env.get("PATH", self.environment.get("PATH", os.defpath)))
        if template is not None:
            environment = {**self.environment, **attempt.env, MARK: attempt.mark}
            if template.takes(attempt, program, environment, out, err):
                return 0
        packed = self._packed.copy()
        for name, value in attempt.env.items():
            packed[os.fsencode(name)] = os.fsencode(value)
        packed[MARK.encode("ascii")] = attempt.mark.encode("ascii")
        return launch(program, attempt.argv, packed, out, err)

    def _find(self, program: str, search: str) -> str:
        key = (program, search)
        if key not in self._programs:
            found = find_program(program, search)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "no such program in PATH")
            self._programs[key] = found
        return self._programs[key]


def launch(
    program: str,
    argv: list[str],
    environment: Mapping[bytes, bytes] | Mapping[str, str],
    out: int,
    err: int,
    more: Sequence[Any] = (),
) -> int:
    """Start a process in a group of its own and give its pid; `more` is done with its descriptors, too.

    Its standard input is that of this process, which is /dev/null. Not in a session: what Linux calls an
    autogroup is made for each, with a full share of the processor.
    """
    return os.posix_spawn(
        program,
        argv,
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, err, 2), *more],
        setpgroup=0,
        setsigmask=(),
        setsigdef=DEFAULTED,
    )


def environment_of_jobs(setup: dict[str, Any]) -> dict[str, str]:
    """Give what every job's environment has before its own variables are added."""
    environment = dict(os.environ)
    if setup["venv"] is not None:
        environment["VIRTUAL_ENV"] = setup["venv"]
        search = environment.get("PATH", os.defpath)
        environment["PATH"] = os.path.join(setup["venv"], "bin") + os.pathsep + search
        environment.pop("PYTHONHOME", None)
    for name in THREAD_VARIABLES:
        environment[name] = str(setup["threads"])
    environment.update(setup["env"])
    return environment
