"""Frozen nouns and laws of the fabric: ids, jobs and their legal transitions, limits, errors."""
