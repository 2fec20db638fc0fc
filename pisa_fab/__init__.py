"""A batch system for Python scripts on a pool of ordinary PCs.

`Batch`, `Pool`, `Result` and `Results` are the Python API (docs/api.md). They are imported when they are
first used: the tasks import this package in every `inv` of a project, and must not pay for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pisa_fab.errors import PisaError
from pisa_fab.version import __version__

if TYPE_CHECKING:
    from pisa_fab.api import Batch, Pool, Result, Results

__all__ = ["Batch", "PisaError", "Pool", "Result", "Results", "__version__"]


def __getattr__(name: str) -> object:
    """Import the API, or the module of the tasks, when it is first used."""
    if name in ("Batch", "Pool", "Result", "Results"):
        from pisa_fab import api

        return getattr(api, name)
    if name == "tasks":
        return import_module("pisa_fab.tasks")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
