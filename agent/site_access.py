"""Reads from the HTTP of a collector as the node that this device was enrolled as."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from agent.identity import mac_key
from wire.clock import Clock
from wire.errors import ConfigError, EdgebedError, Unreachable
from wire.node_token import make_token
from wire.printable import printable

_TIMEOUT_S = 30.0
_MAX_SENTENCE = 2_000  # bytes


def fetch(url: str, node: str, identity: Path, clock: Clock, most: int = 1_000_000) -> bytes:
    """The answer to GET `url`, of at most `most` bytes; blocks. `identity` is the folder of the enrolment.

    Raises:
        ConfigError: this node was not enrolled, or its files cannot be used.
        Unreachable: nothing answers.
        EdgebedError: the collector refuses, or the answer is too long.
    """
    key = mac_key(identity)
    split = urlsplit(url)
    if key is None:
        raise ConfigError(f"{identity} has no key of this node: enrol with `edgebed agent enrol`")
    if split.scheme not in ("http", "https") or not split.hostname:
        raise ConfigError(f"{url!r} is not http://host or https://host")
    target = (split.path or "/") + (f"?{split.query}" if split.query else "")
    token = make_token(key, node, "GET", target, clock.now_ms())
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    try:
        context = None
        if split.scheme == "https":
            context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context) as answer:  # noqa: S310
            found: bytes = answer.read(most + 1)
    except urllib.error.HTTPError as error:
        why = printable(error.read(_MAX_SENTENCE).decode(errors="replace"), _MAX_SENTENCE)
        error.close()
        raise EdgebedError(f"{url} answers {error.code}: {why}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{url} does not answer: {error}") from error
    if len(found) > most:
        raise EdgebedError(f"{url} answers with more than {most} bytes")
    return found
