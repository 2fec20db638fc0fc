"""A batch system for Python scripts on a pool of ordinary PCs."""

from pisa_fab.version import __version__

__all__ = ["__version__"]
