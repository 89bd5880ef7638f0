"""Forward passes that several jobs share: each reads and edits the rows of its own prompts, as if it were alone."""
