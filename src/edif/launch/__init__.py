"""Composition roots: settings in, concrete parts chosen, services started."""
