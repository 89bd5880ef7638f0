"""The ``edif`` command."""
