"""What a person reads while something takes its time."""

import sys

from nnsight.schema.config import CONFIG
from tqdm.auto import tqdm


def say(text: str) -> None:
    """One line on standard error, below status lines and progress bars; none when nnsight's own status lines are switched off."""
    if CONFIG.APP.REMOTE_LOGGING:
        tqdm.write(f"\neDIF: {text}", file=sys.stderr)
