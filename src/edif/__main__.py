"""``python -m edif`` is the ``edif`` command."""

from edif.cli.main import run

if __name__ == "__main__":
    run()
