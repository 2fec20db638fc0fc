"""Marks that several test files give their tests."""

from __future__ import annotations

import pytest


def hosts(number: int = 1, **options: object) -> pytest.MarkDecorator:
    """Give the test a pool of so many hosts, with these options of a `namespaces.NamespacePool`."""
    return pytest.mark.parametrize("pool", [{"hosts": number, **options}], indirect=True, ids=[""])
