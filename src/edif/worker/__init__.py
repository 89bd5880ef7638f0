"""The node agent: starts replicas on one machine and carries jobs to them."""
