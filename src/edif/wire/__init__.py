"""What crosses a process border: the client protocol, the worker link, the executor pipe."""
