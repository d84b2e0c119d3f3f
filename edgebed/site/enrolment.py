"""The device's side of enrolment: it makes its key, accepts one root alone, and asks for a certificate."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import ssl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Struct

from agent.identity import ENROLMENT, MAC_FILE, Enrolment
from edgebed.site.certificates import (
    is_due,
    is_key_of,
    is_signed_by,
    key_pem,
    name_of,
    new_key,
    pem,
    read_certificates,
    read_key,
)
from edgebed.site.custody import device_key, show
from edgebed.site.enrolment_wire import (
    ENROL_PATH,
    PORT,
    RENEW_PATH,
    ROOT_PATH,
    Credential,
    Enrol,
    Refusal,
    Renew,
)
from edgebed.site.files import PUBLIC, SECRET, make_folder, owner_of, read, write
from edgebed.site.layout import CA
from edgebed.site.token import Token, parse
from wire.errors import ConfigError, EdgebedError, TryAgain, Unreachable
from wire.printable import printable

T = TypeVar("T")

_TIMEOUT_S = 30.0
_MAX_ANSWER = 65_536  # bytes


def enrol(url: str, text: str, out: Path, now: datetime, state: Path | None = None) -> Token:
    """Get the certificate of a node with a token, into a new folder; returns the token.

    The statements of the node are signed with the key in `state`, if there is one, else with a new one.

    Raises:
        EdgebedError: the token cannot be used, or the site is another one. Nothing is left behind.
        Unreachable: the service does not answer.
        TryAgain: a clock is wrong.
    """
    token, service = parse(text), Service(url, now)
    if token.ends <= now:
        raise EdgebedError(
            f"the token ended on {token.ends:%Y-%m-%d %H:%M} UTC, and the clock of this device shows"
            f" {now:%Y-%m-%d %H:%M}: ask for a new token, or set the clock"
        )
    if out.exists():
        raise ConfigError(f"{out} exists: name a new folder, so that no key is overwritten")
    root = service.root(token.root_sha256)
    # root enrols for an agent that runs as another user, in the folder of its state
    user = owner_of(out.absolute().parent) if out.absolute().parent.is_dir() else None
    make_folder(out, 0o700, user)
    try:
        key = new_key()
        write(out / "node.key", key_pem(key), SECRET, user)  # before the token is used up
        asked = Enrol(token.secret.hex(), _request(token.node.text, key))
        show(asked, device_key(out, state, user, is_new=True), token.node.text)
        found = service.ask(ENROL_PATH, asked, Credential, root)
        write(out / "broker.yaml", found.broker_yaml.encode(), PUBLIC, user)
        _store(out, found, [root], key, token.node.text)
        write(out / ENROLMENT, msgspec.json.encode(Enrolment(url, mac=bool(found.mac_key))), PUBLIC, user)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return token


def renew(folder: Path, now: datetime, *, is_forced: bool = False, state: Path | None = None) -> str:
    """Renew the certificate in a folder of `enrol` when two thirds of its life have passed.

    A folder of an earlier release takes over the key of the statements in `state`. Returns what was done.

    Raises:
        EdgebedError: the site refuses it, or the folder is damaged. The certificate stays as it was.
        Unreachable: the service does not answer.
        TryAgain: a clock is wrong.
    """
    data, key_data = read(folder / "node.pem"), read(folder / "node.key")
    where, root_data = read(folder / ENROLMENT), read(folder / CA)
    if data is None or key_data is None or where is None or root_data is None:
        raise ConfigError(f"{folder} is not a folder of `edgebed agent enrol`: enrol with a token")
    old = read_certificates(data, folder / "node.pem")[0]
    if old.not_valid_before_utc > now:
        raise _wrong_clock(
            now, f"the certificate in {folder} is valid from {old.not_valid_before_utc:%Y-%m-%d}"
        )
    if old.not_valid_after_utc <= now:
        raise EdgebedError(
            f"the certificate in {folder} ended on {old.not_valid_after_utc:%Y-%m-%d}: enrol with a new token"
        )
    try:
        enrolment = msgspec.json.decode(where, type=Enrolment)
        service = Service(enrolment.url, now)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{folder / ENROLMENT} cannot be read: {error}") from error
    if not is_forced and not is_due(old, now) and not service.has_other_roots(root_data):
        return f"valid until {old.not_valid_after_utc:%Y-%m-%d}: nothing to do yet"
    key = read_key(key_data, folder / "node.key")
    asked = Renew(_request(name_of(old), key))
    show(asked, device_key(folder, state, owner_of(folder)), name_of(old))
    roots = read_certificates(root_data, folder / CA)
    shown = (folder / "node.pem", folder / "node.key")
    found = service.ask(RENEW_PATH, asked, Credential, *roots, shown=shown)
    made = _store(folder, found, roots, key, name_of(old))
    if found.mac_key and not enrolment.mac:  # enrolled before the site gave keys
        enrolment.mac = True
        write(folder / ENROLMENT, msgspec.json.encode(enrolment), PUBLIC, owner_of(folder))
    return f"renewed until {made.not_valid_after_utc:%Y-%m-%d}; the agent uses it from its next connection on"


class Service:
    """The enrolment service of a site, as a device reaches it."""

    def __init__(self, url: str, now: datetime) -> None:
        try:
            split = urlsplit(url)
            self._host, self._port = split.hostname or "", split.port or PORT
        except ValueError as error:
            raise ConfigError(f"{url!r} is not https://host[:port]: {error}") from error
        if split.scheme != "https" or not self._host or split.path.strip("/") or split.query or "@" in url:
            raise ConfigError(f"{url!r} is not https://host[:port]")
        self._url = url
        self._now = now

    def root(self, sha256: bytes) -> x509.Certificate:
        """The root of the site, which must be the one with this hash; what is sent before it is public."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        status, data = self._exchange(context, "GET", ROOT_PATH, None)
        found = read_certificates(data, Path(ROOT_PATH)) if status == 200 and data else []
        for one in found:
            if one.fingerprint(hashes.SHA256()) == sha256:
                return one
        raise EdgebedError(
            f"{self._url} has another root than the token: it is not the site that made the token, or has"
            " rotated its root since, and it got nothing from this device"
        )

    def has_other_roots(self, trusted: bytes) -> bool:
        """Whether the site rotates its root: then a device renews at once. An absent service has no news."""
        try:
            status, data = self._exchange(_trusting(trusted), "GET", ROOT_PATH, None)
        except Unreachable:
            return False
        return status == 200 and bool(data) and data != trusted

    def ask(
        self,
        path: str,
        asked: Struct,
        kind: type[T],
        *roots: x509.Certificate,
        shown: tuple[Path, Path] | None = None,
        secret: str = "",
        most: int = _MAX_ANSWER,
    ) -> T:
        """The service's answer, from a server that these roots vouch for."""
        context = _trusting(pem(*roots))
        if shown is not None:
            context.load_cert_chain(*shown)
        body = msgspec.json.encode(asked)
        status, data = self._exchange(context, "POST", path, body, secret=secret, most=most)
        try:
            if status == 200:
                return msgspec.json.decode(data, type=kind)
            why = printable(msgspec.json.decode(data, type=Refusal).error, 500)
        except msgspec.MsgspecError as error:
            raise EdgebedError(
                f"{self._url} is not an enrolment service of edgebed: HTTP {status}"
            ) from error
        if status == 503:
            raise TryAgain(f"{self._url}: {why}")
        raise EdgebedError(f"{self._url} refuses: {why}")

    def _exchange(
        self,
        context: ssl.SSLContext,
        method: str,
        path: str,
        body: bytes | None,
        *,
        secret: str = "",
        most: int = _MAX_ANSWER,
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=context)
        with self._explained(), contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            if secret:
                headers["Authorization"] = f"Bearer {secret}"
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(most)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message
            if "not yet valid" in why or "expired" in why:
                raise _wrong_clock(self._now, f"{self._url}: {why}") from error
            raise EdgebedError(
                f"{self._url} cannot prove that it is this site: {why}; if the site has got another root"
                " while this device was off, enrol with a new token"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._url} does not answer: {error or type(error).__name__}") from error


def _trusting(roots: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=roots.decode())
    return context


def _wrong_clock(now: datetime, why: str) -> TryAgain:
    return TryAgain(
        f"{why}, and the clock of this device shows {now:%Y-%m-%d}: set the clock, then try again"
    )


def _request(name: str, key: ec.EllipticCurvePrivateKey) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def _store(
    folder: Path, found: Credential, roots: list[x509.Certificate], key: ec.EllipticCurvePrivateKey, name: str
) -> x509.Certificate:
    """Check an answer and write it; the certificate comes last."""
    chain = read_certificates(found.certificate.encode(), Path("the answer"))
    # the service has proven with one of `roots` who it is; during a rotation it signs with another
    roots = [*roots, *read_certificates(found.ca.encode(), Path("the answer"))]
    fits = name_of(chain[0]) == name and is_key_of(chain[0], key) and len(chain) == 2
    if (
        not fits
        or not is_signed_by(chain[0], chain[1])
        or not any(is_signed_by(chain[1], one) for one in roots)
    ):
        raise EdgebedError(
            f"the certificate that came is not one of {name} for this key: nothing was written"
        )
    user = owner_of(folder)
    if found.mac_key:
        write(folder / MAC_FILE, f"{found.mac_key}\n".encode(), SECRET, user)
    write(folder / CA, found.ca.encode(), PUBLIC, user)
    write(folder / "node.pem", found.certificate.encode(), PUBLIC, user)
    return chain[0]
