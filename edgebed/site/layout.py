"""Where each file of a site's folder is, who may read it, and which folder each machine gets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgebed.site.files import PUBLIC, SECRET, Owner, owner
from edgebed.site.settings import FILE, Site, viewer_user

ROOT = "root-keep-offline"
CA = "ca.pem"  # the root's certificate, which every client trusts
OLD, NEXT = "authority/old", "authority/next"  # while the authorities are rotated
ACL, CRL = "broker/acl", "broker/crl.pem"
MAC, ENROLLED = "authority/mac.key", "nodes/enrolled"
BROKER_CONFIGS = {"mosquitto": "mosquitto.conf", "nats": "nats.conf"}
_PRIVATE, _OPEN = 0o700, 0o755


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of the site: its name below the folder, its mode, whether the broker owns it."""

    name: str
    mode: int
    what: str
    is_brokers: bool = False
    is_optional: bool = False

    @property
    def is_secret(self) -> bool:
        """Whether it has a key."""
        return self.name.endswith(".key")


class Layout:
    """The files of one site."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.folder = folder
        self.site = site
        self.broker_user: Owner | None = owner(site.broker_user)
        self.broker_config = BROKER_CONFIGS[site.broker]
        self.folders = list(self._folders())
        self.files = list(self._files())
        self._by_name = {one.name: one for one in self.files}

    def path(self, name: str) -> Path:
        """The path of a file of the site."""
        return self.folder / name

    def entry(self, name: str) -> Entry:
        """The entry of a file."""
        return self._by_name[name]

    def owner_of(self, entry: Entry) -> Owner | None:
        """The user that it must belong to; None: the user that makes the site."""
        return self.broker_user if entry.is_brokers else None

    def _folders(self) -> list[Entry]:
        return [
            Entry(ROOT, _PRIVATE, "the root", is_optional=True),
            Entry(
                "authority", _PRIVATE, "the authorities that sign nodes, viewers, the broker and collectors"
            ),
            Entry(OLD, _PRIVATE, "the authorities before the rotation that runs", is_optional=True),
            Entry(NEXT, _PRIVATE, "the authorities that a rotation makes", is_optional=True),
            Entry("admins", _PRIVATE, "hashes of the tokens of administrators", is_optional=True),
            Entry("audit", _PRIVATE, "who did what to the site", is_optional=True),
            Entry("broker", _OPEN, "what the broker reads"),
            Entry("broker/data", _PRIVATE, "sessions and retained messages", is_brokers=True),
            Entry("nodes", _OPEN, "the certificates of the nodes"),
            Entry("nodes/removed", _OPEN, "those of removed nodes"),
            Entry("tokens", _PRIVATE, "hashes of the tokens that are not used yet"),
            Entry("tokens/used", _PRIVATE, "hashes of those that are"),
            Entry("agent", _OPEN, "what each agent gets beside its own certificate"),
            Entry("collectors", _OPEN, "one folder for each collector"),
            Entry("viewers", _OPEN, "one folder for each viewer"),
            *(Entry(f"collectors/{one}", _PRIVATE, "for this collector") for one in self.site.collectors),
            *(Entry(f"viewers/{viewer_user(one)}", _PRIVATE, "for this viewer") for one in self.site.viewers),
        ]

    def _files(self) -> list[Entry]:
        found = [
            Entry(FILE, PUBLIC, "what you decide about the site"),
            Entry(f"{ROOT}/root.key", SECRET, "root: signs the authority of nodes", is_optional=True),
            Entry(f"{ROOT}/README.txt", PUBLIC, "what to do with the root's key", is_optional=True),
            Entry(CA, PUBLIC, "root"),
            Entry("authority/nodes.key", SECRET, "signs nodes, viewers and the broker"),
            Entry("authority/nodes.pem", PUBLIC, "authority of nodes, viewers and the broker"),
            Entry("authority/collectors.key", SECRET, "signs collectors"),
            Entry("authority/collectors.pem", PUBLIC, "authority of collectors"),
            *(
                Entry(f"{folder}/{name}.key", SECRET, f"{name}, while a rotation runs", is_optional=True)
                for folder in (OLD, NEXT)
                for name in ("root", "nodes", "collectors")
            ),
            Entry(MAC, SECRET, "signs what collectors send to nodes"),
            Entry(ENROLLED, PUBLIC, "generations and statement keys of the nodes, for collectors"),
            Entry("broker/broker.key", SECRET, "the broker", is_brokers=True),
            Entry("broker/broker.pem", PUBLIC, "the broker"),
            *self._brokers(),
            Entry(f"agent/{CA}", PUBLIC, "root, for agents"),
            Entry("agent/broker.yaml", PUBLIC, "for the config of an agent"),
        ]
        for one in self.site.collectors:
            found += self._client(f"collectors/{one}", "collector", f"collector {one}")
            found.append(Entry(f"collectors/{one}/collector.yaml", PUBLIC, f"config of collector {one}"))
            found.append(Entry(f"collectors/{one}/mac.key", SECRET, "signs what it sends to nodes"))
            found.append(Entry(f"collectors/{one}/page.key", SECRET, f"page of collector {one}"))
            found.append(Entry(f"collectors/{one}/page.pem", PUBLIC, f"page of collector {one}"))
        for one in self.site.viewers:
            found += self._client(f"viewers/{viewer_user(one)}", "viewer", f"viewer of {one}")
        return found

    def _brokers(self) -> list[Entry]:
        config = Entry(self.broker_config, PUBLIC, "the broker's configuration")
        if self.site.broker == "nats":
            return [config, Entry("broker/clients-ca.pem", PUBLIC, "whose certificates clients show")]
        return [
            config,
            Entry("broker/nodes-ca.pem", PUBLIC, "whose certificates nodes and viewers show"),
            Entry("broker/collectors-ca.pem", PUBLIC, "whose certificates collectors show"),
            Entry(CRL, PUBLIC, "certificates that are revoked"),
            Entry(ACL, SECRET, "who may publish and read what", is_brokers=True),
        ]

    def _client(self, folder: str, name: str, what: str) -> list[Entry]:
        return [
            Entry(f"{folder}/{name}.key", SECRET, what),
            Entry(f"{folder}/{name}.pem", PUBLIC, what),
            Entry(f"{folder}/{CA}", PUBLIC, "root, for this client"),
        ]
