"""Coverage-guided fuzzing of what strangers' bytes reach; CONTRIBUTING tells how to run it."""
