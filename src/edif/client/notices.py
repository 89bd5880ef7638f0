"""What a person reads while something takes its time."""

import sys
from typing import Any

from nnsight.schema.config import CONFIG
from tqdm.auto import tqdm


def say(text: str) -> None:
    """One line on standard error, below status lines and progress bars; none when nnsight's own status lines are switched off."""
    if CONFIG.APP.REMOTE_LOGGING:
        tqdm.write(f"\neDIF: {text}", file=sys.stderr)


def tell_rounding(meta: dict[str, Any]) -> None:
    """Once for each result of which values were rounded: nobody is to take them for what the model computed."""
    if meta.get("rounding"):
        count = int(meta.get("rounded_tensors", 1))
        say(
            f"{count} {'tensor' if count == 1 else 'tensors'} of this result travelled as {meta['rounding']}, as this program "
            "asked for: the values are rounded."
        )
