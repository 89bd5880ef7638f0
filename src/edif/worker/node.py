"""What this machine is, as far as the gateway wants to know."""

import importlib.metadata
import sys

PYTHON_VERSION = sys.version


def installed_packages() -> dict[str, str]:
    """Versions by import name, as ``GET /env`` lists them; a distribution without modules by its own name."""
    by_distribution: dict[str, list[str]] = {}
    for import_name, distributions in importlib.metadata.packages_distributions().items():
        for distribution in distributions:
            by_distribution.setdefault(distribution, []).append(import_name)
    packages: dict[str, str] = {}
    for found in importlib.metadata.distributions():
        name = found.metadata["Name"]
        for import_name in by_distribution.get(name, [name]):
            packages[import_name] = found.version
    return packages
