"""The jobs file: its keys, what they must hold, and the `model.Batch` that comes of them.

Checks of single keys are in the model; what needs the file system or several keys at once follows it. Nothing
is written. PISA's task files come through here too, put into the same form by `pisa`.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pisa_fab.errors import SpecError
from pisa_fab.layout import Layout
from pisa_fab.model import Batch, Limits, ResultFormat
from pisa_fab.specs.fields import (
    LONGEST_WORD,
    Count,
    Duration,
    EnvironmentName,
    Name,
    Nice,
    Positive,
    Program,
    Size,
    Speculate,
    Text,
    Words,
    byte_length,
)
from pisa_fab.specs.grid import Grid, Template
from pisa_fab.specs.problems import FieldError, nearest, quoted, shown, validate
from pisa_fab.specs.text import Document, Keys, absolute, at_home, is_file, is_folder, is_there, looked_for
from pisa_fab.specs.times import Deadline, Expected, JobTime, job_time
from pisa_fab.specs.values import ValueReader
from pisa_fab.sweep import Plan, names_in

_MAX_JOBS = 1_000_000
_LEAST_MEMORY = 1 << 20  # less is a number without its unit


def _environment(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if byte_length(name) + 1 + byte_length(value) > LONGEST_WORD:
            raise FieldError(
                f"has {quoted(name)}, which is longer than the {LONGEST_WORD} bytes that Linux passes"
            )
    return env


def _memory(size: int) -> int:
    if size < _LEAST_MEMORY:
        raise FieldError(f"is {size} bytes, in which no program runs", "write 500M, 2G or 1.5G")
    return size


def _result_format(value: Any) -> ResultFormat:
    if value in ("json", "csv"):
        return ResultFormat(value)
    if not isinstance(value, dict) or list(value) != ["regex"] or not isinstance(value["regex"], str):
        problem = f"must be json, csv or {{regex: ...}}, not {shown(value)}"
        if value == "regex" or isinstance(value, dict):
            raise FieldError(problem, "write {regex: 'energy: (?P<energy>[-+.0-9]+)'}")
        raise FieldError(problem, nearest(value, ("json", "csv", "regex")) if isinstance(value, str) else "")
    try:
        pattern = re.compile(value["regex"])
    except re.error as error:
        raise FieldError(f"has a regex that is not valid: {error}") from error
    if not pattern.groupindex:
        raise FieldError("has a regex without a named group", "a column is (?P<name>...)")
    return ResultFormat("regex", value["regex"])


class JobsFile(BaseModel):
    """The keys of a jobs file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Name = Field(description="The run directory: outputs, tables and the journal. Its own folder.")
    script: Name | None = Field(
        None,
        description="A Python script, run by the venv's python or, without a venv, by the host's python3.",
    )
    command: Program | None = Field(
        None, description="Any other program, with its first arguments, instead of a script."
    )
    workdir: Name = Field(
        ".",
        description="Where every job is started; all else is relative to it. Default: this file's folder.",
    )
    venv: Name | None = Field(None, description="A virtual environment; its python runs the script.")
    args: Words = Field(
        [], description="Arguments that every job gets, before those of the sweep: a list, or one text."
    )
    sweep: Any = Field(
        None, description="The arguments that vary: every combination; the last varies fastest."
    )
    exclude: list[dict[str, Any]] = Field(
        [], description="Combinations to drop: those that have all values of one of these mappings."
    )
    include: list[dict[str, Any]] = Field(
        [], description="Combinations to add at the end. An option may be left out, it is then not passed."
    )
    env: Annotated[dict[EnvironmentName, Text], AfterValidator(_environment)] = Field(
        {}, description="Variables for the jobs' environment."
    )
    timeout: Duration | None = Field(
        None, description="How long a job may take: 90 (seconds), 15m, 2h or 1d. Default: no limit."
    )
    retries: Count = Field(0, description="How often a job that failed is run again, after fresh work.")
    max_losses: Positive = Field(
        3, description="How many hosts may be lost with a job before it is given up."
    )
    stop_after: Count = Field(
        5, description="The run stops when its first so many jobs all fail in the same way; 0 for never."
    )
    speculate: Speculate = Field(
        0.0,
        description="Whether a job that takes so many times longer than it should gets a second attempt.",
    )
    threads: Positive = Field(
        1, description="For the thread pools of NumPy's libraries and their like (OMP_NUM_THREADS, ...)."
    )
    memory: Annotated[Size, AfterValidator(_memory)] | None = Field(
        None,
        description="The most memory that a job may use, with all it starts: 500M, 2G. Default: no limit.",
    )
    nice: Nice = Field(19, description="How far jobs stand back behind other programs, 0 to 19.")
    expect: Expected | None = Field(
        None,
        description="How long a job takes: 90 (seconds), 15m, 2h, or {t} with a variable that holds that.",
    )
    deadline: Deadline | None = Field(
        None,
        description='When all is to be done: "2026-12-01 07:00", or "07:00" for the next time that it is.',
    )
    results: Annotated[ResultFormat, BeforeValidator(_result_format)] | None = Field(
        None, description="How collect reads what jobs print: json, csv or {regex: '(?P<name>...)'}."
    )
    assignments: Name | None = Field(
        None, description="The file that says which job has which arguments. Default: in the run directory."
    )
    cluster: Name | None = Field(
        None, description="The cluster file. Default: cluster.yaml beside this file, if there is one."
    )
    notify: Program = Field(
        [],
        description="A command to run when a run has ended, without a shell; {summary}, {output}, {state}.",
    )
    max_jobs: Positive = Field(_MAX_JOBS, description="A sweep of more combinations is taken for a mistake.")


def read_batch(document: Document, *, allow_huge: bool = False) -> Batch:
    """Turn a jobs file into a batch; `allow_huge` lifts `max_jobs`. Raises SpecError."""
    if not isinstance(document.data, dict):
        raise document.wrong((), "a jobs file must be a mapping of keys", "write output: my_run")
    spec = validate(JobsFile, document)
    _one_program(document, spec)
    paths = _Paths(document, spec)
    venv, output = paths.venv(), paths.output()
    plan, expect = _plan(document, spec, paths, output)
    _check_size(document, spec, plan, allow_huge)
    return Batch(
        source=absolute(document.file),
        workdir=paths.workdir,
        venv=venv,
        output=output,
        assignments=paths.under(spec.assignments) if spec.assignments else Layout(output).assignments,
        plan=plan,
        limits=Limits(timeout=spec.timeout, threads=spec.threads, nice=spec.nice, memory=spec.memory),
        retries=spec.retries,
        max_losses=spec.max_losses,
        stop_after=spec.stop_after,
        speculate=spec.speculate,
        results=spec.results,
        cluster=paths.cluster(),
        notify=tuple(spec.notify),
        expect=expect,
        deadline=spec.deadline,
    )


def _one_program(document: Document, spec: JobsFile) -> None:
    if spec.script is None and spec.command is None:
        hint = "write script: my_script.py, or command: [./my_program]"
        raise document.wrong((), "neither script nor command says what to run", hint)
    if spec.script is not None and spec.command is not None:
        second = max("script", "command", key=lambda key: document.locate((key,), True))
        raise document.wrong((second,), "script and command cannot both be given", "remove one", key=True)


class _Paths:
    """The paths of a jobs file: absolute, with `~` expanded and symbolic links left alone.

    Each is given after a look that it is there, where it must be.
    """

    def __init__(self, document: Document, spec: JobsFile) -> None:
        self._document, self._spec = document, spec
        self.workdir = absolute(document.file.parent / at_home(spec.workdir))
        if not is_folder(self.workdir):
            raise self._missing(("workdir",), spec.workdir, self.workdir, "folder")

    def _missing(self, keys: Keys, written: str, path: Path, kind: str = "file") -> SpecError:
        return self._document.wrong(keys, f"there is no {kind} {quoted(written)}", looked_for(path))

    def under(self, written: str) -> Path:
        """Give the absolute path of what was written relative to workdir."""
        return absolute(self.workdir / at_home(written))

    def venv(self) -> Path | None:
        """Give the virtual environment; it must have a python."""
        if self._spec.venv is None:
            return None
        path = self.under(self._spec.venv)
        if not is_folder(path):
            raise self._missing(("venv",), self._spec.venv, path, "folder")
        if not is_file(path / "bin" / "python"):
            problem = f"{quoted(self._spec.venv)} is not a virtual environment: it has no bin/python"
            raise self._document.wrong(("venv",), problem, f"make one with python3 -m venv {path}")
        return path

    def output(self) -> Path:
        """Give the run directory, which must not swallow other files."""
        path = self.under(self._spec.output)
        if path == self.workdir or path in self.workdir.parents:
            problem = f"{quoted(self._spec.output)} is workdir or a folder around it"
            raise self._document.wrong(("output",), problem, "name a folder of its own, such as my_run")
        if is_there(path) and not is_folder(path):
            raise self._document.wrong(("output",), f"{quoted(self._spec.output)} is a file, not a folder")
        return path

    def cluster(self) -> Path | None:
        """Give the cluster file that the jobs file names."""
        if self._spec.cluster is None:
            return None
        path = self.under(self._spec.cluster)
        if not is_file(path):
            raise self._missing(("cluster",), self._spec.cluster, path)
        return path

    def interpreter_and_script(self) -> tuple[str, ...]:
        """Give the first two words of the command line of `script`, as they are written."""
        spec = self._spec
        if spec.script is None:
            return ()
        if spec.script.startswith("-"):
            problem = f"{quoted(spec.script)} would be taken for an option of python"
            raise self._document.wrong(("script",), problem, f"write ./{spec.script}")
        if not is_file(self.under(spec.script)):
            raise self._missing(("script",), spec.script, self.under(spec.script))
        # No shell will expand a ~, so that is done here.
        script = at_home(spec.script)
        if spec.venv is None:
            return "python3", script
        return os.path.join(at_home(spec.venv), "bin", "python"), script  # noqa: PTH118 - as written

    def check_command(self) -> None:
        """See that a program that is named with its path is there."""
        program = self._spec.command[0] if self._spec.command else ""
        if "/" not in program or names_in(program):
            return
        path = self.workdir / program
        if not is_file(path):
            raise self._missing(("command", 0), program, path)
        if not os.access(path, os.X_OK):
            problem = f"{quoted(program)} is not executable"
            raise self._document.wrong(("command", 0), problem, f"chmod +x {path}")


def _plan(document: Document, spec: JobsFile, paths: _Paths, output: Path) -> tuple[Plan, JobTime | None]:
    prefix = paths.interpreter_and_script()
    paths.check_command()
    grid = Grid(document, ValueReader(document, paths.workdir))
    if "sweep" in spec.model_fields_set:
        grid.read_sweep(spec.sweep)
    exclude, include = grid.read_exclude(spec.exclude), grid.read_include(spec.include)
    command = [Template(word, ("command", i)) for i, word in enumerate(spec.command or ())]
    args = [Template(word, ("args", i)) for i, word in enumerate(spec.args)]
    env = [Template(value, ("env", name), byte_length(name) + 1) for name, value in spec.env.items()]
    times = [Template(spec.expect, ("expect",))] if spec.expect else []
    grid.check_templates([*command, *args, *env, *times], include)
    expect = job_time(document, spec.expect, grid.axes, include) if spec.expect else None
    plan = Plan(
        identity=("command",) if spec.script is None else ("script", spec.script),
        prefix=prefix,
        words=[*(spec.command or ()), *spec.args],
        axes=grid.axes,
        exclude=exclude,
        include=include,
        env=spec.env,
        output=str(output),
    )
    return plan, expect


def _check_size(document: Document, spec: JobsFile, plan: Plan, allow_huge: bool) -> None:
    # Before anything is excluded: to know what is left, all would have to be looked at.
    if plan.size > (sys.maxsize if allow_huge else spec.max_jobs):
        hint = f"if that is meant, write max_jobs: {plan.size} (in a jobs.yaml)"
        problem = f"the sweep has {plan.size:,} combinations, more than {spec.max_jobs:,}"
        raise document.wrong(("sweep",), problem, hint, key=True)
    if not len(plan):
        raise document.wrong(("exclude",), "nothing is left: every combination is excluded", key=True)
