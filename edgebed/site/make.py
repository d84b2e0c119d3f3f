"""`edgebed site init`: make what is missing in a site's folder, renew what ends soon, keep everything else.

Every step looks at what is there and replaces one file at a time, so a folder that a kill left half made is
completed by the next run.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgebed.site import broker_config, nats_config
from edgebed.site.authorities import INTERRUPTED, NAMES, accepted, before, serving
from edgebed.site.certificates import (
    Authority,
    Usage,
    authority,
    crl_pem,
    current_list,
    hosts_of,
    is_due,
    is_key_of,
    is_signed_by,
    key_pem,
    leaf,
    name_of,
    new_key,
    pem,
    read_certificates,
    read_crls,
    read_key,
)
from edgebed.site.enrolled import text_of
from edgebed.site.files import Owner, make_folder, offer, read, write, wrong_rights
from edgebed.site.layout import ACL, CA, CRL, ENROLLED, MAC, NEXT, ROOT, Entry, Layout
from edgebed.site.nodes import KINDS, current, dropped, removed, removed_names
from edgebed.site.settings import plain_host, viewer_user
from wire.errors import ConfigError, TryAgain

ROOT_DAYS, AUTHORITY_DAYS, LEAF_DAYS = 20 * 365, 10 * 365, 730

Report = Callable[[str], None]


class Maker:
    """Makes one site; `report` gets a sentence for each thing that it did or left undone."""

    def __init__(self, layout: Layout, now: datetime, report: Report) -> None:
        self._layout = layout
        self._site = layout.site
        self._now = now
        self._report = report

    def make(self) -> None:
        """Do everything; a run with nothing to do reports nothing.

        Raises:
            ConfigError: a file is damaged, or a folder cannot be written.
            TryAgain: the disk is full, or the clock is before the certificates.
        """
        for each in self._layout.folders:
            if not each.is_optional:
                make_folder(self._layout.path(each.name), each.mode, self._owner(each))
        if self._layout.path(NEXT).exists():
            raise ConfigError(f"{self._layout.folder}: {INTERRUPTED}")
        root = self._root()
        nodes = self._authority("nodes", root)
        collectors = self._authority("collectors", None)
        revoked = self.trust()
        servers = serving(self._layout)
        self._leaf("broker/broker", f"{self._site.name} broker", servers, "server", revoked)
        for one in self._site.collectors:
            self._leaf(f"collectors/{one}/collector", one, collectors, "client", revoked)
            self._leaf(f"collectors/{one}/page", f"{self._site.name} page", servers, "server", revoked)
        for one in self._site.viewers:
            self._leaf(f"viewers/{viewer_user(one)}/viewer", viewer_user(one), nodes, "client", revoked)
        self._macs()
        self._texts()

    def revoke(self) -> None:
        """Write the revocation lists and the rules again, and nothing else."""
        self._crl()
        self._rules()

    def trust(self) -> set[int]:
        """Write whom broker and clients trust, and the revocation lists; returns the numbers in them."""
        self._trusted()
        return self._crl()

    def _root(self) -> x509.Certificate:
        """The root; it is made once. Its key may be elsewhere by now."""
        certificate = self._certificate(CA)
        if certificate is None:
            folder = self._layout.path(ROOT)
            make_folder(folder, self._layout.folders[0].mode)
            key = self._key(f"{ROOT}/root.key")
            self._offer(f"{ROOT}/README.txt", broker_config.ROOT_README)
            certificate = authority(f"{self._site.name} root", key, self._now, ROOT_DAYS)
            self._write(CA, pem(certificate))
            self._report(f"{CA}: made, the root of site {self._site.name}")
            self._report(f"{ROOT}/: move this folder to a disk that is kept apart")
        return certificate

    def _authority(self, name: str, root: x509.Certificate | None) -> Authority:
        """An authority that signs; without a root it signs itself."""
        file = f"authority/{name}.pem"
        certificate = self._certificate(file)
        key = self._key(f"authority/{name}.key", certificate)
        if certificate is not None and not is_due(certificate, self._now):
            return Authority(certificate, key)
        issuer = self._root_authority(root, file) if root is not None else None
        if root is not None and issuer is None and certificate is not None:
            return Authority(certificate, key)  # it works until its end
        called = name_of(certificate) if certificate is not None else f"{self._site.name} {name}"
        made = authority(called, key, self._now, AUTHORITY_DAYS, issuer)
        self._write(file, pem(made))
        self._report(f"{file}: {'renewed' if certificate else 'made'}")
        return Authority(made, key)

    def _root_authority(self, root: x509.Certificate, file: str) -> Authority | None:
        path = self._layout.path(f"{ROOT}/root.key")
        data = read(path)
        if data is not None:
            return Authority(root, self._fitting(read_key(data, path), root, f"{ROOT}/root.key"))
        if self._certificate(file) is None:
            raise ConfigError(f"{file} cannot be made without the root's key: bring back {path} for one run")
        self._report(f"{file}: two thirds of its life have passed; bring back {path} for one run to renew it")
        return None

    def _leaf(self, stem: str, name: str, issuer: Authority, usage: Usage, revoked: set[int]) -> None:
        """The certificate of a server or client, with its key."""
        file = f"{stem}.pem"
        hosts = [plain_host(one) for one in self._site.hosts] if usage == "server" else []
        old = self._certificate(file)
        is_issuers = old is not None and is_signed_by(old, issuer.certificate)
        if old is not None and not is_issuers and not self._is_rotated(old):
            self._report(f"{file}: not signed by this site's authority, so it is kept")
            return
        key = self._key(f"{stem}.key")
        why = "made"
        if old is not None:
            why = "renewed" if is_due(old, self._now) else ""
            if not is_issuers:
                why = "made again, of the other authority"
            elif old.serial_number in revoked:
                why = "made again, because it was revoked"
            elif name_of(old) != name or hosts_of(old) != hosts:
                why = "made again, for other names"
            elif not is_key_of(old, key):
                why = "made again, for another key"
        if why:
            made = leaf(name, key.public_key(), issuer, self._now, LEAF_DAYS, usage, hosts)
            self._write(file, pem(made, issuer.certificate))
            self._report(f"{file}: {why}")

    def _is_rotated(self, certificate: x509.Certificate) -> bool:
        """Whether the authority before or after the rotation that runs signed it."""
        known = [one for name in NAMES for one in (*accepted(self._layout, name), before(self._layout, name))]
        return any(one is not None and is_signed_by(certificate, one.certificate) for one in known)

    def _trusted(self) -> None:
        """What each side checks the other side's certificate with."""
        nodes = [one.certificate for one in accepted(self._layout, "nodes")]
        collectors = [one.certificate for one in accepted(self._layout, "collectors")]
        data = read(self._layout.path(CA)) or b""
        trusted = read_certificates(data, self._layout.path(CA))
        issuers = [one for one in trusted if any(is_signed_by(each, one) for each in nodes)]
        if self._site.broker == "nats":
            found = {"broker/clients-ca.pem": pem(*nodes, *issuers, *collectors)}
        else:
            found = {
                "broker/nodes-ca.pem": pem(*nodes, *issuers),
                "broker/collectors-ca.pem": pem(*collectors),
            }
        # the operator can put a second root into the site's own file: clients then trust both
        found |= {each.name: data for each in self._layout.files if each.name.endswith(f"/{CA}")}
        for name, content in found.items():
            self._keep(name, content)

    def _crl(self) -> set[int]:
        """Write the revocation lists; returns the serial numbers in them. nats-server has none."""
        if self._site.broker == "nats":
            return set()
        path = self._layout.path(CRL)
        old = {one.issuer: one for one in read_crls(read(path) or b"", path)}
        gone = {
            "nodes": [*removed(self._layout), *dropped(self._layout, "viewer").values()],
            "collectors": list(dropped(self._layout, "collector").values()),
        }
        lists = [
            current_list(
                one, self._now, old.get(one.certificate.subject), [each.serial_number for each in gone[name]]
            )
            for name in NAMES
            for one in accepted(self._layout, name)
        ]
        if read(path) not in (None, crl_pem(*lists)):
            self._report(f"{CRL}: updated")
        self._keep(CRL, crl_pem(*lists))
        return {one.serial_number for each in lists for one in each}

    def _macs(self) -> None:
        """The secret that collectors sign with, and what they need to know of the nodes."""
        path = self._layout.path(MAC)
        if read(path) is None:
            self._write(MAC, f"{secrets.token_hex(32)}\n".encode())
            self._report(f"{MAC}: made; give each collector its folder again")
        data = read(path) or b""
        self._keep(MAC, data)
        for one in self._site.collectors:
            self._keep(f"collectors/{one}/mac.key", data)
        known = read(self._layout.path(ENROLLED))
        self._keep(ENROLLED, text_of({}).encode() if known is None else known)

    def _texts(self) -> None:
        site, folder = self._site, self._layout.folder
        if site.broker == "mosquitto":
            self._offer(self._layout.broker_config, broker_config.mosquitto(site, folder))
        self._rules()
        self._offer("agent/broker.yaml", broker_config.agent(site))
        for one in site.collectors:
            self._offer(f"collectors/{one}/collector.yaml", broker_config.collector(site, one, folder))

    def _rules(self) -> None:
        if self._site.broker == "nats":
            text = nats_config.nats(self._site, self._layout.folder, list(current(self._layout)))
            self._offer(self._layout.broker_config, text)
            return
        gone = {name_of(one) for kind in KINDS for one in dropped(self._layout, kind).values()}
        gone |= set(removed_names(self._layout))
        self._offer(ACL, broker_config.access_rules(self._site, sorted(gone)))

    def _offer(self, name: str, text: str) -> None:
        entry, path = self._layout.entry(name), self._layout.path(name)
        done = offer(path, text, entry.mode, self._owner(entry))
        if done == "kept":
            self._report(f"{name}: changed by hand, so it is kept; what it would be now is in {name}.new")
        elif done != "same":
            self._report(f"{name}: {done}")

    def _certificate(self, name: str) -> x509.Certificate | None:
        path = self._layout.path(name)
        data = read(path)
        if data is None:
            return None
        found = read_certificates(data, path)[0]
        if found.not_valid_before_utc > self._now:
            raise TryAgain(
                f"the clock of this machine shows {self._now:%Y-%m-%d}, and {path} is valid from"
                f" {found.not_valid_before_utc:%Y-%m-%d}: set the clock, then run this command again"
            )
        return found

    def _key(self, name: str, certificate: x509.Certificate | None = None) -> ec.EllipticCurvePrivateKey:
        """The key in a file, with the rights of a key; a new one if there is none."""
        path = self._layout.path(name)
        data = read(path)
        if data is None:
            if certificate is not None:
                raise ConfigError(f"{path} is not there, but its certificate is: restore it from a copy")
            key = new_key()
            self._write(name, key_pem(key))
            return key
        key = self._fitting(read_key(data, path), certificate, name)
        self._keep(name, data)
        return key

    def _fitting(
        self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate | None, name: str
    ) -> ec.EllipticCurvePrivateKey:
        if certificate is not None and not is_key_of(certificate, key):
            raise ConfigError(
                f"{self._layout.path(name)} is not the key of its certificate: restore it from a copy"
            )
        return key

    def _keep(self, name: str, data: bytes) -> None:
        """Write a file unless it is as it must be, with its mode and owner."""
        entry, path = self._layout.entry(name), self._layout.path(name)
        old = read(path)
        if old != data:
            self._write(name, data)
        elif why := wrong_rights(path, entry.mode, self._owner(entry)):
            self._write(name, data)
            self._report(f"{name}: corrected: {why.partition(':')[0]}")

    def _owner(self, entry: Entry) -> Owner | None:
        """The owner to set; only root can give files away, and `site show` names what is left to do."""
        return self._layout.owner_of(entry) if os.geteuid() == 0 else None

    def _write(self, name: str, data: bytes) -> None:
        entry, path = self._layout.entry(name), self._layout.path(name)
        write(path, data, entry.mode, self._owner(entry))


def make(layout: Layout, now: datetime, report: Report) -> None:
    """Make or complete a site; see `Maker.make`."""
    Maker(layout, now, report).make()


def revoke(layout: Layout, now: datetime, report: Report) -> None:
    """Write what the broker reads about removed clients."""
    Maker(layout, now, report).revoke()
