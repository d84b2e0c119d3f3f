"""Keys, certificates and revocation lists of a site: EC P-256, signed with SHA-256."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgebed.site.settings import is_address
from wire.errors import ConfigError

Usage = Literal["server", "client"]

_SKEW = timedelta(days=1)  # a device whose clock is a little behind must not refuse a new certificate
_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


class Authority(NamedTuple):
    """What signs: a certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as PEM without a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(data: bytes, path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in a PEM file.

    Raises:
        ConfigError: it is not one.
    """
    try:
        found = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a private key without a passphrase: restore it from a copy, or move it away"
        ) from error
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is not a key of an elliptic curve: restore the one that was here")
    return found


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as PEM, one after the other."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def read_certificates(data: bytes, path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file, at least one.

    Raises:
        ConfigError: it has none.
    """
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ConfigError(
            f"{path} is not a certificate in PEM: restore it from a copy, or move it away"
        ) from error


def authority(
    name: str, key: ec.EllipticCurvePrivateKey, now: datetime, days: int, issuer: Authority | None = None
) -> x509.Certificate:
    """The certificate of an authority; it signs itself without an issuer."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer.key if issuer else key
    builder = _builder(subject, issuer.certificate.subject if issuer else subject, key.public_key())
    builder = _times(builder, now, days, issuer)
    # the root signs authorities, which sign no others
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0 if issuer else 1), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )


def leaf(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: Authority,
    now: datetime,
    days: int,
    usage: Usage,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    """The certificate of a client or server; `hosts` are the names and addresses of a server."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _times(_builder(subject, issuer.certificate.subject, key), now, days, issuer)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGES[usage]]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False
        )
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The names and addresses of a server's certificate."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(one.value) for one in found]


def name_of(certificate: x509.Certificate) -> str:
    """Its common name."""
    return "".join(
        str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[:1]
    )


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether this authority signed it."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_key_of(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether the certificate is about this key."""
    return certificate.public_key() == key.public_key()


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether two thirds of its life have passed."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return now >= certificate.not_valid_before_utc + life * 2 / 3


def fingerprint(certificate: x509.Certificate) -> str:
    """Its SHA-256 in hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def current_list(
    issuer: Authority,
    now: datetime,
    before: x509.CertificateRevocationList | None = None,
    serials: Iterable[int] = (),
) -> x509.CertificateRevocationList:
    """The revocation list of an authority: the list `before`, if it has these serial numbers, else a new one.

    It is valid as long as its authority: a broker refuses every client when its list has expired.
    """
    if before is not None and not before.is_signature_valid(issuer.certificate.public_key()):  # type: ignore[arg-type]
        before = None
    known = {one.serial_number: one for one in before or ()}
    fresh = [serial for serial in serials if serial not in known]
    if before is not None and not fresh:
        return before
    start = now - _SKEW
    if before is not None:  # OpenSSL takes the newest of those that a broker has loaded
        start = max(start, before.last_update_utc + timedelta(seconds=1))
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(start)
        .next_update(issuer.certificate.not_valid_after_utc)
    )
    for one in known.values():
        builder = builder.add_revoked_certificate(one)
    for serial in fresh:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(entry.build())
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return builder.add_extension(identifier, critical=False).sign(issuer.key, hashes.SHA256())


def crl_pem(*lists: x509.CertificateRevocationList) -> bytes:
    """Revocation lists as PEM, one after the other."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in lists)


def read_crls(data: bytes, path: Path) -> list[x509.CertificateRevocationList]:
    """The revocation lists in a PEM file.

    Raises:
        ConfigError: one cannot be read.
    """
    end = b"-----END X509 CRL-----"
    try:
        return [x509.load_pem_x509_crl(part + end) for part in data.split(end)[:-1]]
    except ValueError as error:
        raise ConfigError(f"{path} is not a revocation list in PEM: restore it from a copy") from error


def utc(now_ms: int) -> datetime:
    """A time of `wire.clock.Clock`, in whole seconds, as certificates have them."""
    return datetime.fromtimestamp(now_ms // 1000, UTC)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _times(
    builder: x509.CertificateBuilder, now: datetime, days: int, issuer: Authority | None
) -> x509.CertificateBuilder:
    end = now + timedelta(days=days)
    if issuer is not None:
        end = min(end, issuer.certificate.not_valid_after_utc)
    return builder.not_valid_before(now - _SKEW).not_valid_after(end)


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    return [
        x509.IPAddress(ipaddress.ip_address(one)) if is_address(one) else x509.DNSName(one) for one in hosts
    ]
