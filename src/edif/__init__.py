"""eDIF: a deep inference fabric that a university or HPC centre runs itself.

Importing this package loads nothing heavy; the parts are named in ``docs/architecture.md``.
"""

__version__ = "0.1.0"
