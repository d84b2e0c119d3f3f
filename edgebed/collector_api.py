"""Asks the HTTP API of a running collector; what goes wrong becomes one sentence."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

import click

from wire.errors import EdgebedError, TryAgain, Unreachable
from wire.printable import printable

Command = Callable[..., None]

MAX_ANSWER = 64 * 1024 * 1024  # bytes
MAX_SENTENCE = 2_000
MAX_REFUSAL = 1_024 * 1_024  # bytes
DEFAULT_URL = "http://127.0.0.1:8080"
_TIMEOUT_S = 10.0
LONG_S = 120.0  # for an answer after a large body


def collector_options(whom: str, of_what: str) -> Callable[[Command], Command]:
    """`--url`, a running collector (`whom` says which), and `--token-file`, of an operator (`of_what`)."""

    def added(command: Command) -> Command:
        command = click.option(
            "--url", default=DEFAULT_URL, show_default=True, help=f"Running collector{whom}."
        )(command)
        return click.option(
            "--token-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help=f"File with an API token of an operator of {of_what}.",
        )(command)

    return added


class Refusal(EdgebedError):
    """The collector refuses; `answer` is all that it answers."""

    answer: Mapping[str, Any] = {}


class CollectorApi:
    """The API of the collector at `url`; `option` is how the command names that."""

    def __init__(self, url: str, token_file: Path | None = None, option: str = "--url") -> None:
        if not url.startswith(("http://", "https://")):
            raise click.UsageError(f"{option} {url!r} does not start with http://")
        self.url = url.rstrip("/")
        self._option = option
        self._token: str | None = None
        if token_file is not None:
            from collector.config import Http

            self._token = Http(token_file=token_file).token()

    def ask(self, path: str, asked: Mapping[str, str] | None = None) -> Any:
        """The JSON answer to a question; empty parameters are left out.

        Raises:
            Unreachable: nothing answers there.
            EdgebedError: it refuses, or it is not a collector.
        """
        try:
            return json.loads(self.read(path, asked))
        except (ValueError, RecursionError) as error:
            raise self._foreign(error) from error

    def read(self, path: str, asked: Mapping[str, str] | None = None) -> bytes:
        """The bytes of an answer. Raises as `ask`."""
        try:
            with self.open(path, asked) as answer:
                return answer.read(MAX_ANSWER)
        except http.client.HTTPException as error:
            raise self._foreign(error) from error
        except OSError as error:
            raise self._unreachable(error) from error

    def change(self, method: str, path: str, body: Any = None, timeout_s: float = _TIMEOUT_S) -> Any:
        """Request a change; the JSON answer. Raises as `ask`, with the sentence of a refusal."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with self._send(self._request(path, None, method, data), timeout_s) as answer:
                return json.loads(answer.read(MAX_ANSWER))
        except (ValueError, RecursionError, http.client.HTTPException) as error:
            raise self._foreign(error) from error
        except OSError as error:
            raise self._unreachable(error) from error

    def send(self, path: str, parts: Iterable[bytes], size: int) -> Any:
        """Send `size` bytes with PUT as they come; the JSON answer. Raises as `change`."""
        request = self._request(path, None, "PUT")
        request.data = parts
        request.add_header("Content-Type", "application/octet-stream")
        request.add_header("Content-Length", str(size))
        try:
            with self._send(request, LONG_S) as answer:
                return json.loads(answer.read(MAX_ANSWER))
        except (ValueError, RecursionError, http.client.HTTPException) as error:
            raise self._foreign(error) from error
        except OSError as error:
            raise self._unreachable(error) from error

    def open(self, path: str, asked: Mapping[str, str] | None = None) -> IO[bytes]:
        """The body of an answer, to be read as it comes. Raises as `ask`."""
        return self._send(self._request(path, asked))

    def _request(
        self, path: str, asked: Mapping[str, str] | None, method: str = "GET", data: bytes | None = None
    ) -> urllib.request.Request:
        named = {name: value for name, value in (asked or {}).items() if value}
        query = f"?{urllib.parse.urlencode(named)}" if named else ""
        try:
            request = urllib.request.Request(  # noqa: S310 - checked above
                f"{self.url}/api/v1/{path}{query}", data, method=method
            )
        except ValueError as error:
            raise click.UsageError(f"{self._option} {self.url!r}: {error}") from error
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if self._token is not None:
            request.add_header("Authorization", f"Bearer {self._token}")
        elif method != "GET":  # a change needs a token, or comes from the collector's own address
            request.add_header("Origin", self.url)
        return request

    def _send(self, request: urllib.request.Request, timeout_s: float = _TIMEOUT_S) -> IO[bytes]:
        try:
            answer: IO[bytes] = urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310 - checked above
        except urllib.error.HTTPError as error:
            refused = _refusal(error)
            error.close()
            why = printable(refused.get("error", ""), MAX_SENTENCE)
            text = f"{self.url} answers {error.code} {why or error.reason}"
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                raise TryAgain(text) from error
            refusal = Refusal(text)
            refusal.answer = refused
            raise refusal from error
        except OSError as error:
            raise self._unreachable(error) from error
        except http.client.InvalidURL as error:
            raise click.UsageError(f"{self._option} {self.url!r}: {error}") from error
        except (ValueError, http.client.HTTPException) as error:
            raise self._foreign(error) from error
        return answer

    def _unreachable(self, error: OSError) -> Unreachable:
        reason = getattr(error, "reason", error)
        reason = getattr(reason, "strerror", None) or reason
        other = "; start one, or read its files with --store" if self._option == "--url" else ""
        return Unreachable(f"no collector answers at {self.url}: {reason}{other}")

    def _foreign(self, error: Exception) -> EdgebedError:
        return EdgebedError(f"{self.url} is not a collector: {str(error) or type(error).__name__}")


def _refusal(error: urllib.error.HTTPError) -> dict[str, Any]:
    """The answer of a refusal; empty where it is not an object."""
    try:
        found = json.loads(error.read(MAX_REFUSAL))
    except (OSError, ValueError, RecursionError, http.client.HTTPException):
        return {}
    return found if isinstance(found, dict) else {}
