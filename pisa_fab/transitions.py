"""The life of a job as data: in which state, what may happen, and which state follows.

`scheduler` acts by this table and the docs draw it. No behaviour lives here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from pisa_fab.events import JobState


class Happening(StrEnum):
    """What can happen to a job."""

    STARTED = "given to a host"
    SUCCEEDED = "exited with 0"
    FAILED = "failed, no retries left"
    FAILED_ONCE = "failed, retries left"
    STOPPED = "stopped"
    DOUBLED = "given to a second host"
    PUT_ASIDE = "one of two ended without success"
    ONE_LOST = "host of one of two lost"
    HOST_ENDED = "worker ended"
    HOST_SILENT = "host lost"
    HEAD_GONE = "another head took over"
    FOUND = "found on its host"
    UNKNOWN_THERE = "never reached its host"
    FORGIVEN = "the host was to blame"
    GIVEN_UP = "too many hosts lost"
    ALLOWED = "policy allows more"
    CANCELLED = "cancelled"
    REOPENED = "asked for again"


BY_RESULT = (JobState.SUCCEEDED, JobState.FAILED)  # where a job ends by a result that counts
FINAL = (*BY_RESULT, JobState.LOST, JobState.CANCELLED)

# What is not here changes nothing: a journal always loads, and a stray message does no harm.
TRANSITIONS: Mapping[tuple[JobState, Happening], JobState] = MappingProxyType(
    {
        (JobState.WAITING, Happening.STARTED): JobState.RUNNING,
        (JobState.WAITING, Happening.GIVEN_UP): JobState.LOST,
        (JobState.WAITING, Happening.CANCELLED): JobState.CANCELLED,
        (JobState.RUNNING, Happening.SUCCEEDED): JobState.SUCCEEDED,
        (JobState.RUNNING, Happening.FAILED): JobState.FAILED,
        (JobState.RUNNING, Happening.FAILED_ONCE): JobState.WAITING,
        (JobState.RUNNING, Happening.STOPPED): JobState.WAITING,
        (JobState.RUNNING, Happening.DOUBLED): JobState.RUNNING,
        (JobState.RUNNING, Happening.PUT_ASIDE): JobState.RUNNING,
        (JobState.RUNNING, Happening.ONE_LOST): JobState.RUNNING,
        (JobState.RUNNING, Happening.HOST_ENDED): JobState.WAITING,
        (JobState.RUNNING, Happening.HOST_SILENT): JobState.IN_DOUBT,
        (JobState.RUNNING, Happening.HEAD_GONE): JobState.IN_DOUBT,
        (JobState.IN_DOUBT, Happening.STARTED): JobState.RUNNING,
        (JobState.IN_DOUBT, Happening.SUCCEEDED): JobState.SUCCEEDED,
        (JobState.IN_DOUBT, Happening.FAILED): JobState.FAILED,
        (JobState.IN_DOUBT, Happening.FAILED_ONCE): JobState.WAITING,
        (JobState.IN_DOUBT, Happening.STOPPED): JobState.WAITING,
        (JobState.IN_DOUBT, Happening.GIVEN_UP): JobState.LOST,
        (JobState.IN_DOUBT, Happening.CANCELLED): JobState.CANCELLED,
        (JobState.IN_DOUBT, Happening.FOUND): JobState.RUNNING,
        (JobState.IN_DOUBT, Happening.UNKNOWN_THERE): JobState.WAITING,
        (JobState.IN_DOUBT, Happening.HOST_ENDED): JobState.WAITING,
        (JobState.FAILED, Happening.FORGIVEN): JobState.WAITING,
        (JobState.FAILED, Happening.ALLOWED): JobState.WAITING,
        (JobState.LOST, Happening.ALLOWED): JobState.WAITING,
        (JobState.SUCCEEDED, Happening.REOPENED): JobState.WAITING,
        (JobState.FAILED, Happening.REOPENED): JobState.WAITING,
        (JobState.LOST, Happening.REOPENED): JobState.WAITING,
        (JobState.CANCELLED, Happening.REOPENED): JobState.WAITING,
    }
)
