"""Pure decisions: which job runs where, and which replica is started."""
