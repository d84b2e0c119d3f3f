"""The configuration of nats-server for a site of one company: a user with permissions for each client."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from edgebed.site.broker_config import COLLECTOR_WRITES, NODE_READS, NODE_WRITES
from edgebed.site.settings import Site, viewer_user
from wire.topics import ROOT

# ack_wait and sync_interval: see edgebed/broker.py
_NATS = """\
# nats-server 2.12.3 or later as the broker of one company: nats-server -c {folder}/nats.conf
# It does not bind the client id to the user: a node can take over the session of another one. A site that
# several companies share needs mosquitto. SIGHUP reads users and certificates again.

server_name: {name}
host: "127.0.0.1"  # of its own protocol, which no user below may use
port: {own_port}
pid_file: {pid}
max_payload: 1MB
jetstream {{ store_dir: {data}, sync_interval: "1s" }}
mqtt {{
  host: {listen}
  port: {port}
  ack_wait: "10s"
  max_ack_pending: 4096
  tls {{
    cert_file: {certificate}
    key_file: {key}
    ca_file: {clients_ca}
    verify_and_map: true
  }}
}}
authorization {{ users: [
{users}
] }}
"""


def nats(site: Site, folder: Path, nodes: Iterable[str]) -> str:
    """The text of `nats.conf`."""
    broker = folder / "broker"
    files = {
        "certificate": broker / "broker.pem",
        "key": broker / "broker.key",
        "clients_ca": broker / "clients-ca.pem",
        "data": broker / "data",
        "pid": broker / "data/nats.pid",
    }
    return _NATS.format(
        folder=folder,
        name=json.dumps(site.name),
        own_port=site.collector_port,
        listen=json.dumps(site.listen or "0.0.0.0"),
        port=site.port,
        users="\n".join(_users(site, nodes)),
        **{key: json.dumps(str(path)) for key, path in files.items()},
    )


def _users(site: Site, nodes: Iterable[str]) -> Iterator[str]:
    for name in site.collectors:
        writes = [f"{ROOT}/{site.tenant}/+/+/+/{tail}" for tail in COLLECTOR_WRITES]
        yield _user(name, [*writes, f"{ROOT}/_sys/{name}/#"], [f"{ROOT}/#"])
    for name in site.viewers:
        yield _user(viewer_user(name), [], [f"{ROOT}/{'/'.join(name.split('/')[:2])}/#"])
    for name in nodes:
        base = f"{ROOT}/{name}"
        yield _user(name, [f"{base}/{one}" for one in NODE_WRITES], [f"{base}/{one}" for one in NODE_READS])


def _user(name: str, writes: Sequence[str], reads: Sequence[str]) -> str:
    allowed = {"publish": _subjects(writes), "subscribe": _subjects(reads)}
    user = {"user": f"CN={name}", "permissions": allowed, "allowed_connection_types": ["MQTT"]}
    return f"  {json.dumps(user)}"


def _subjects(filters: Sequence[str]) -> dict[str, list[str]]:
    """The subjects of topic filters; an empty list would allow everything."""
    found = [] if filters else [f"{ROOT}._none"]
    for one in filters:
        subject = one.replace("/", ".").replace("+", "*")
        # `a/#` matches `a` too
        found += [subject[:-2], f"{subject[:-2]}.>"] if subject.endswith("#") else [subject]
    return {"allow": found}
