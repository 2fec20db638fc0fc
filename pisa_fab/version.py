"""The version, where both the package and its build find it without importing anything else."""

__version__ = "0.4.0"
