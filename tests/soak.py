"""What `inv soak` runs: a pool of namespaces on which everything that can happen does happen, for minutes.

A batch is submitted, made larger whenever it is done, and finished when the time is over and all is healed.
The jobs keep logs of their own (`soak_job`), the faults come from `chaos`, and `verdict` says from the logs
and from what the user gets whether every job succeeded exactly once. A seed gives the same dice again; what
they meet depends on the machine's pace as well, so a failure keeps everything needed to understand it. Every
second seed has jobs made by templates (`preload: true`), and of four seeds two have second attempts of jobs
that take too long (`speculate:`), of which some do:

    faults.log       what was done, and when: the jobs' clock, Unix time as in the journal
    timeline.json    when hosts were frozen or out of reach, and when there was no head
    heads/           what each submit printed
    home/project/    the project: the jobs' logs in logs/, the run directory with its journal

Needs what namespaces.py needs; where that is not to be had, it says so and succeeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import verdict
from chaos import Chaos, healed
from heads import Heads
from namespaces import NamespacePool, unavailable
from processes import wait_for
from programs import AT_HOME, Home, Programs, Project
from soak_job import clock

HOSTS, SLOTS = 6, 2
LEASE = 4.0
BATCH = 150  # jobs that are added at once
PATIENCE = 300.0  # seconds for the rest of the batch when all is healed
EMPTY_PATIENCE = 60.0
TURN = 0.05
TELL_EVERY = 20.0
TASKS = "from pisa_fab.tasks import *\n"


class Soak:
    """One soak in a folder."""

    def __init__(self, folder: Path, pool: NamespacePool, seed: int) -> None:
        self.folder = folder
        self.pool = pool
        self.project = Project(pool.home / "project")
        self.run_folder = self.project.path / "run"
        self.logs = self.project.path / "logs"
        self.jobs = 0
        self.preloads = seed % 2 == 1
        self.speculates = seed % 4 >= 2
        self._prepare()
        self.heads = Heads(pool, self.project.path, folder / "heads")
        dice = random.Random(seed)
        self.chaos = Chaos(pool, self.heads, self._write_cluster, dice, LEASE, folder / "faults.log")

    def _prepare(self) -> None:
        for name in ("logs", "failed", "straggled"):
            (self.project.path / name).mkdir(parents=True)
        self.project.write("tasks.py", TASKS)
        shutil.copy(Path(__file__).with_name("soak_job.py"), self.project.path)
        self._write_cluster(self.pool.names)
        self.pool.give(self.project.path)

    def _write(self, name: str, content: dict[str, object]) -> None:
        """Write a file whole: a head may read it at any moment."""
        new = self.project.write(f"{name}.new", content)
        self.pool.give(new)
        new.replace(self.project.path / name)

    def _write_cluster(self, names: list[str]) -> None:
        self._write("cluster.yaml", {"slots": SLOTS, "lease": f"{LEASE:g}s", "hosts": names, **AT_HOME})

    def _grow(self) -> None:
        """Add jobs to the batch."""
        self.jobs += BATCH
        sweep = {"-n": {"from": 0, "to": self.jobs - 1}}
        # The hosts are lost more often than people would believe, and that is no job's fault.
        policy = {"retries": 1, "max_losses": 1000, "preload": self.preloads}
        if self.speculates:
            policy |= {"speculate": 1.1, "env": {"SOAK_STRAGGLES": "1"}}
        self._write("jobs.yaml", {"script": "soak_job.py", "output": "run", "sweep": sweep, **policy})

    # -- the run --------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Work for so long, then come to an end. Raises AssertionError when something hangs or goes wrong."""
        end = clock() + seconds
        told = clock()
        with healed(self.chaos) as chaos:
            while clock() < end:
                chaos.step()
                self.tend(grow=True)
                if clock() > told + TELL_EVERY:
                    told = clock()
                    self.tell(f"{max(0.0, end - clock()):.0f} s left")
                time.sleep(TURN)
        self.tell("all is healed; waiting for the rest of the batch")
        wait_for(lambda: not self.tend(grow=False), "the end of the batch", PATIENCE)
        self.pool.assert_empty(EMPTY_PATIENCE)

    def tend(self, *, grow: bool) -> bool:
        """Look after the head: submit again, more when little is left. Says whether there is work to do."""
        if self.heads.running or any(pending.victim == "head" for pending in self.chaos.pending):
            return True
        program = self.heads.program
        if program is not None and program.process.returncode >= 0:
            done = program.wait()
            assert done.returncode == 0, f"the head did not end well: {done.said[-3000:]}"
            self.heads.gone()
            if not grow:
                return False
        if grow and self._published() > self.jobs - BATCH // 3:
            self._grow()
        self.heads.start(self.chaos.dice.choice(self.pool.heads).name)
        return True

    def _published(self) -> int:
        return sum(1 for _ in (self.run_folder / "stdout").rglob("*.out"))

    def tell(self, text: str) -> None:
        """Say how far it is."""
        faults = sum(self.chaos.counts.values())
        print(f"soak: {self._published()} of {self.jobs} jobs, {faults} faults, {text}", flush=True)

    # -- the judgement --------------------------------------------------------------------------------------

    def judge(self) -> verdict.Findings:
        """Look at the logs and at what the user gets."""
        timeline = self.chaos.timeline
        (self.folder / "timeline.json").write_text(json.dumps(vars(timeline), indent=1) + "\n")
        attempts = verdict.read_logs(self.logs)
        findings = verdict.judge(attempts, timeline, LEASE, at_once=2 if self.speculates else 1)
        home = Home(self.pool.home, self.pool.environment)
        programs = Programs(home, self.project.path, self.folder / "programs", prefix=self.pool.prefix())
        done = programs.run("inv", "collect")
        if done.returncode != 0:
            findings.wrong.append(f"collect: {done.said[-1000:]}")
        rows: list[dict[str, str]] = []
        if (self.run_folder / "results.csv").exists():
            with (self.run_folder / "results.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
        findings.wrong += verdict.judge_user_view(self.run_folder, self.jobs, rows, attempts)
        return findings


def soak(folder: Path, seed: int, minutes: float, hosts: int) -> bool:
    """Do it all in a folder, and report. Says whether everything was well."""
    began = time.monotonic()
    with NamespacePool(folder / "pool", folder / "home", hosts=hosts, heads=2) as pool:
        it = Soak(folder, pool, seed)
        try:
            it.run(60 * minutes)
            findings = it.judge()
        except AssertionError as error:
            findings = verdict.Findings([str(error)], attempts=len(list(it.logs.iterdir())))
        finally:
            it.heads.close()
    kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(it.chaos.counts.items()))
    how = ("preloaded" if it.preloads else "plain") + (", stragglers twice" if it.speculates else "")
    seconds = time.monotonic() - began
    print(f"seed {seed}, {hosts} hosts x {SLOTS}, lease {LEASE:g} s, jobs {how}, {seconds:.0f} s")
    print(f"faults: {sum(it.chaos.counts.values())}: {kinds or 'none'}")
    print(f"jobs: {it.jobs}, attempts: {findings.attempts}, heads: {it.heads.started}")
    print(f"jobs that came to their end more than once, one result counts: {findings.ended_twice}")
    if it.speculates:
        print(f"jobs of which two attempts ran at a time: {findings.doubled}")
    print(f"overlaps after a thaw, before the worker saw its clock: {len(findings.overlaps_after_thaw)}")
    for line in findings.overlaps_after_thaw:
        print(f"  {line}")
    for line in findings.wrong:
        print(f"WRONG: {line}")
    return not findings.wrong


def main() -> int:
    """Soak as the command line says; exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults happen")
    parser.add_argument("--seed", type=int, help="of the faults; by chance if it is not given")
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    parser.add_argument("--hosts", type=int, default=HOSTS, help="how many")
    options = parser.parse_args()
    if reason := unavailable():
        print(f"soak: skipped: {reason}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is taken down
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    print(f"soak: seed {seed}, {options.minutes:g} minutes", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="pisa-fab-soak."))
    try:
        fine = soak(folder, seed, options.minutes, options.hosts)
    except BaseException:
        print(f"soak: seed {seed}; everything is kept in {folder}", flush=True)
        raise
    if fine and not options.keep:
        shutil.rmtree(folder)
    else:
        print(f"soak: seed {seed}; everything is kept in {folder}")
    print(f"soak: {'all is well' if fine else 'SOMETHING IS WRONG'} (seed {seed})")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
