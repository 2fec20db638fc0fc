"""A batch on HyperQueue's or Dask's cluster of this machine: started, used, ended, as a program of its own.

    clusters.py hyperqueue|dask WORKERS JOBS OUTPUT COMMAND...

Runs COMMAND once a job, `{}` in it replaced by the job's number, in workers of one core each; what it prints
goes into OUTPUT/stdout/N.out and OUTPUT/stderr/N.err. Run by the Python of a venv that has that program, so
nothing of ours and of the tests is imported here. Ends with 1 unless every job ended with 0.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def files_of(output: Path, number: int) -> tuple[Path, Path]:
    """Give the two files of a job."""
    return output / "stdout" / f"{number}.out", output / "stderr" / f"{number}.err"


def words_of(command: list[str], number: int) -> list[str]:
    """Give the command line of a job."""
    return [word.replace("{}", str(number)) for word in command]


def with_hyperqueue(workers: int, jobs: int, output: Path, command: list[str]) -> bool:
    """Run the jobs as the programs of one HyperQueue job."""
    from hyperqueue import Job, LocalCluster
    from hyperqueue.cluster import WorkerConfig

    with LocalCluster() as cluster:
        for _ in range(workers):
            cluster.start_worker(WorkerConfig(cores=1))
        client = cluster.client()
        job = Job()
        for number in range(jobs):
            out, err = files_of(output, number)
            job.program(
                words_of(command, number),
                cwd=str(Path.cwd()),
                stdout=str(out.absolute()),
                stderr=str(err.absolute()),
            )
        return client.wait_for_jobs([client.submit(job)], raise_on_error=False)


def with_dask(workers: int, jobs: int, output: Path, command: list[str]) -> bool:
    """Run the jobs as subprocesses of functions in Dask's worker processes, which have one thread each."""
    from distributed import Client, LocalCluster

    def run(number: int) -> int:
        out, err = (
            output / kind / f"{number}.{ending}" for kind, ending in (("stdout", "out"), ("stderr", "err"))
        )
        words = [word.replace("{}", str(number)) for word in command]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            return subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, check=False
            ).returncode

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        return not any(client.gather(client.map(run, range(jobs), pure=False)))


def main() -> int:
    """Do what the command line says."""
    which, workers, jobs, folder, *command = sys.argv[1:]
    output = Path(folder)
    for kind in ("stdout", "stderr"):
        (output / kind).mkdir(parents=True)
    run = {"hyperqueue": with_hyperqueue, "dask": with_dask}[which]
    return 0 if run(int(workers), int(jobs), output, command) else 1


if __name__ == "__main__":
    sys.exit(main())
