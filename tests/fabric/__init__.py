"""Tests against a whole running fabric, with recorded requests."""
