"""Which names users and groups may have."""

import re

from edif.core import errors
from edif.core.errors import EdifError
from edif.core.ids import ANONYMOUS, ERASED, LOCAL

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


def check_name(name: str) -> None:
    """
    Raises:
        EdifError: the name cannot be told apart, stored or shown everywhere.
    """
    if not _NAME.fullmatch(name):
        raise EdifError(
            errors.REQUEST_INVALID,
            f"The name {name[:120]!r} has characters that a name may not have, or too many.",
            "Use up to 100 letters, digits and . _ @ + -",
        )


def check_user_name(name: str) -> None:
    """
    Raises:
        EdifError: as :func:`check_name`, or the fabric itself uses the name: jobs under it are not this person's.
    """
    check_name(name)
    if name in (ANONYMOUS, LOCAL) or name.startswith(ERASED):
        raise EdifError(
            errors.REQUEST_INVALID, f"The fabric itself uses the name {name!r}.", "Choose another name."
        )
