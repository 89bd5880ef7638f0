"""One file per released schema step, oldest first."""
