"""Splits the URL of a device that has no login in its URL."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from adapters.base import OptionsError


def split(url: str, cure: str, key: str = "url") -> SplitResult:
    """The parts of a URL; its port is None or a number.

    Args:
        url: the text of the option.
        cure: what to do about a user or password; the end of a sentence.
        key: the name of the option.

    Raises:
        OptionsError: its host or port is not possible, or it contains a user or password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is not possible
        login = "@" in parts.netloc
    except ValueError as error:
        if "@" not in url:  # else the text may contain a password
            raise OptionsError(f"{key} {url!r} has no usable host or port: {error}") from error
        login = True
    if login:
        raise OptionsError(f"{key} contains a user or password: {cure}")
    return parts
