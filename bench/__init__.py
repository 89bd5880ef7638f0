"""Measurements: ratios side by side in one run, printed as tables. ``make bench`` runs ``python -m bench``."""
