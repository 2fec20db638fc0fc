"""The tasks of this project: its own, and those of pisa_fab in the namespace `pisa`."""

from pathlib import Path

from invoke import Collection, call, task

import pisa_fab
from pisa_fab.tasks import submit


@task(pre=[call(submit, jobs="coarse.yaml")])
def resonance(c):
    """Find the frequency at which the oscillator swings farthest: coarsely, then finely."""
    best = largest("coarse.yaml")
    around = [f"{best + step / 100:.2f}" for step in range(-5, 6)]
    Path("frequencies.txt").write_text("\n".join(around) + "\n")
    submit(c, jobs="fine.yaml")
    print(f"the resonance is at a frequency of {largest('fine.yaml'):.2f}")


def largest(jobs):
    """Give the frequency of the largest swing in a batch that has been run."""
    rows = pisa_fab.Batch.load(jobs).results().rows()
    return float(max(rows, key=lambda row: row["swing"])["--frequency"])


ns = Collection(resonance)
ns.add_collection(pisa_fab.tasks, "pisa")
