"""What a tip says is what the user can paste."""

from __future__ import annotations

import pytest

from pisa_fab.invocation import as_typed, works_on


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("inv submit", "inv check --accept-new"),
        ("/home/me/venv/bin/inv pisa.submit", "inv pisa.check --accept-new"),
        ("inv submit -j a.yaml -c pool.yaml -l", "inv check --accept-new -j a.yaml -c pool.yaml"),
        ("inv submit --jobs=a.yaml", "inv check --accept-new --jobs=a.yaml"),
        ("fab -H pc01,pc02 -i key submit", "fab -H pc01,pc02 -i key check --accept-new"),
        ("fab -H check --list-depth=3 submit", "fab -H check --list-depth=3 check --accept-new"),
        ("inv -e -f my.yaml clean --all submit", "inv -e -f my.yaml check --accept-new"),  # not clean again
        ("pisa-fab submit", "pisa-fab check --accept-new"),
        ("inv mine", "pisa-fab check --accept-new"),
        ("/usr/bin/python3 script.py", "pisa-fab check --accept-new"),
        ("", "pisa-fab check --accept-new"),
    ],
)
def test_a_tip_is_in_the_users_own_words(words: str, expected: str) -> None:
    assert as_typed("check", "--accept-new", words=words.split()) == expected


def test_a_command_that_knows_no_cluster_file_gets_none() -> None:
    words = ["inv", "submit", "-j", "a.yaml", "-c", "pool.yaml"]
    assert as_typed("status", "--watch", words=words) == "inv status --watch -j a.yaml"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("inv submit --script fib.py", "inv status -j fib_run/jobs.yaml"),
        ("inv submit -j fib.yaml", "inv status -j fib.yaml"),
        ("inv mine", "pisa-fab status -j fib_run/jobs.yaml"),
    ],
)
def test_the_jobs_file_is_named_where_the_command_did_not(words: str, expected: str) -> None:
    works_on("fib_run/jobs.yaml")
    try:
        assert as_typed("status", words=words.split()) == expected
    finally:
        works_on("")
    assert "fib_run" not in as_typed("status", words=words.split())


def test_what_a_shell_would_read_in_another_way_is_quoted() -> None:
    assert as_typed("status", words=["inv", "submit", "-j", "my jobs.yaml"]) == "inv status -j 'my jobs.yaml'"
