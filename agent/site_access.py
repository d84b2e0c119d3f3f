"""Reads from the HTTP of a collector as the node that this device was enrolled as."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from agent.identity import mac_key
from wire.clock import Clock
from wire.errors import ConfigError, EdgebedError, TryAgain, Unreachable
from wire.node_token import make_token
from wire.printable import printable

_TIMEOUT_S = 30.0
_MAX_SENTENCE = 2_000  # bytes
# an answer that another moment may change: a clock is set, or the collector has less to do
_PASSING = (HTTPStatus.UNAUTHORIZED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses to be sent elsewhere: the token and what is read concern the configured collector alone."""

    def redirect_request(self, *_: object) -> None:
        return None


def fetch(url: str, node: str, identity: Path, clock: Clock, most: int = 1_000_000) -> bytes:
    """The answer to GET `url`, of at most `most` bytes; blocks. `identity` is the folder of the enrolment.

    Raises:
        ConfigError: this node was not enrolled, or its files cannot be used.
        Unreachable: nothing answers.
        EdgebedError: the collector refuses, or the answer is too long.
    """
    if mac_key(identity) is None:
        raise ConfigError(f"{identity} has no key of this node: enrol with `edgebed agent enrol`")
    return read(url, node, identity, clock, most)


def read(url: str, node: str, identity: Path | None, clock: Clock, most: int) -> bytes:
    """As `fetch`; a node that was not enrolled asks without a token."""
    with opened(url, node, identity, clock) as answer:
        try:
            found = answer.read(most + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{url} does not answer: {error}") from error
    if len(found) > most:
        raise EdgebedError(f"{url} answers with more than {most} bytes")
    return found


@contextmanager
def opened(
    url: str,
    node: str,
    identity: Path | None,
    clock: Clock,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Iterator[http.client.HTTPResponse]:
    """The answer to GET `url`, whose body the caller reads. A redirect is not followed.

    Raises:
        ConfigError: the files of the enrolment cannot be used.
        Unreachable: nothing answers.
        TryAgain: the collector refuses for now.
        EdgebedError: the collector refuses.
    """
    split = urlsplit(url)
    if split.scheme not in ("http", "https") or not split.hostname:
        raise ConfigError(f"{url!r} is not http://host or https://host")
    target = (split.path or "/") + (f"?{split.query}" if split.query else "")
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310 - checked above
    if (key := mac_key(identity)) is not None:
        request.add_header("Authorization", f"Bearer {make_token(key, node, 'GET', target, clock.now_ms())}")
    try:
        context = None
        if split.scheme == "https" and identity is not None:
            context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect)
        answer = opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        why = printable(_rest(error), _MAX_SENTENCE)
        error.close()
        passes = error.code in _PASSING or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR
        raise (TryAgain if passes else EdgebedError)(f"{url} answers {error.code}: {why}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{url} does not answer: {error}") from error
    with answer:
        yield answer


def _rest(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(_MAX_SENTENCE).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return str(error.reason)
