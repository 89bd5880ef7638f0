"""Kinds of values that several settings have, with what is said of one that does not fit."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def url(value: str) -> str:
    """
    Raises:
        ValueError: it is none.
    """
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value.rstrip("/")


Url = Annotated[str, AfterValidator(url)]
OwnPath = Annotated[Path, AfterValidator(lambda value: value.expanduser().absolute())]
"""A path as the person meant it, for services that work in another folder."""
