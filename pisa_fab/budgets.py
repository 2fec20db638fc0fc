"""What each job has used up of what the policy allows: where it failed, which hosts were lost with it.

A part of `scheduler`, pure as that. What follows when a budget is used up is decided there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pisa_fab.model import Policy


class Budgets:
    """The failures and losses of every job.

    Attributes:
        policy: in force.
    """

    def __init__(self) -> None:
        self.policy = Policy()
        self._failures: dict[int, tuple[str, ...]] = {}
        self._losses: dict[int, tuple[str, ...]] = {}

    def failed_on(self, job: int) -> tuple[str, ...]:
        """Name the hosts where a job failed, in that order."""
        return self._failures.get(job, ())

    def lost_with(self, job: int) -> tuple[str, ...]:
        """Name the hosts whose loss with this job was counted, in that order."""
        return self._losses.get(job, ())

    def jobs_that_failed(self) -> list[int]:
        """Give the jobs with failures, as they are now."""
        return list(self._failures)

    def jobs_that_were_lost(self) -> list[int]:
        """Give the jobs with losses, as they are now."""
        return list(self._losses)

    def has_retries(self, job: int) -> bool:
        """Say whether a job that fails once more may be run again."""
        return len(self.failed_on(job)) < self.policy.retries

    def allows_again(self) -> Iterator[int]:
        """Give the jobs that have failed no more often than the policy in force allows."""
        return (job for job in self.jobs_that_failed() if len(self._failures[job]) <= self.policy.retries)

    def is_hopeless(self, losses: Collection[str]) -> bool:
        """Say whether a job with these losses is to be given up."""
        return len(losses) >= max(1, self.policy.max_losses)

    def is_last_chance(self, losses: Collection[str]) -> bool:
        """Say whether a job with these losses is to be given up if it is lost once more."""
        return 0 < len(losses) == self.policy.max_losses - 1

    def fail(self, job: int, host: str) -> None:
        """Count a failure."""
        self._failures[job] = (*self.failed_on(job), host)

    def lose(self, job: int, hosts: tuple[str, ...]) -> None:
        """Let these be the hosts that were lost with a job."""
        self._losses[job] = hosts

    def forgive(self, job: int, host: str) -> None:
        """Let a job's failures on a host not count."""
        if left := tuple(other for other in self._failures.pop(job, ()) if other != host):
            self._failures[job] = left

    def clear(self, job: int) -> None:
        """Begin anew with a job."""
        self._failures.pop(job, None)
        self._losses.pop(job, None)

    def snapshot(self) -> tuple[dict[int, tuple[str, ...]], dict[int, tuple[str, ...]]]:
        """Give everything, as one value to compare."""
        return self._failures.copy(), self._losses.copy()
