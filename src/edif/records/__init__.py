"""The record store: jobs, attempts, users, keys."""
