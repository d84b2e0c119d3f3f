"""The configuration of mosquitto and its access rules, and the parts of configs that clients get."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgebed.site.layout import ENROLLED
from edgebed.site.settings import Site, viewer_user
from wire.topics import ROOT

# What a node publishes, and what it receives, below its own base.
NODE_WRITES = (
    "status",
    "birth",
    "live/#",
    "snap/#",
    "data/#",
    "event/#",
    "pack",
    "res/#",
    "reported/#",
    "log/#",
)
NODE_READS = ("ack", "cmd/#", "desired/#", "status")
COLLECTOR_WRITES = ("ack", "cmd/#", "desired/#")

_MOSQUITTO = """\
# mosquitto 2 as the broker of site {name}: mosquitto -c {folder}/mosquitto.conf
# Started as root, it becomes user {user} before it opens any file below: {user} must be able to read them.
# SIGHUP reads access rules, revocations and the broker's certificate again; other settings need a restart.

user {user}
allow_anonymous false
acl_file {folder}/broker/acl
pid_file {folder}/broker/data/mosquitto.pid

# Nodes and viewers. A client is what its certificate names: the name is its user and its client id, whatever
# it asks for, so no client can end or take the session of another one.
listener {port}{listen}
cafile {folder}/broker/nodes-ca.pem
certfile {folder}/broker/broker.pem
keyfile {folder}/broker/broker.key
crlfile {folder}/broker/crl.pem
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
use_username_as_clientid true

# Collectors. They hold more than one connection, so client ids are free here, and only certificates of an
# authority of their own can connect: those of nodes and viewers cannot.
listener {collector_port}{listen}
cafile {folder}/broker/collectors-ca.pem
certfile {folder}/broker/broker.pem
keyfile {folder}/broker/broker.key
crlfile {folder}/broker/crl.pem
tls_version tlsv1.2
require_certificate true
use_identity_as_username true

# With the default of 1,000 mosquitto drops messages after their PUBACK; with 0, 2.0.16 drops all.
max_queued_messages 1000000
# Both limits protect the machine when the collector is away for long. Nodes keep what the collector has not
# acknowledged, so messages that do not fit here are late, not lost.
max_queued_bytes 2147483648
max_inflight_messages 1000

# A body of the contract has at most 60,000 bytes.
max_packet_size 70000
max_keepalive 120
# no persistent_client_expiration: 2.0.11 crashes when it reads its files again while a client is away whose
# session ends by itself; `edgebed node remove` ends that of a node

# Sessions and retained states survive a restart. The interval counts changes: each save writes everything.
persistence true
persistence_location {folder}/broker/data/
autosave_on_changes true
autosave_interval 1000

# Otherwise an answer that follows another one waits for the client's TCP acknowledgement, up to 40 ms.
set_tcp_nodelay true

log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages true
"""

_ACL = """\
# Access rules of site {name}: what is not listed is denied, for publishing and for receiving.
# The user is the name in the certificate: tenant/pilot/site/node, a collector's id, viewer_tenant_pilot.
{blocks}
# Each node, below its own base alone. Only nodes have names of four parts: no other user has a node's topics.
{patterns}
"""

_COLLECTOR = """\
# Config of collector {name} at site {site}: edgebed collector run collector.yaml
# Copy this folder to its machine; collector.key and mac.key are secret.
id: "{name}"
broker:
  url: "{url}"
  ca_file: ca.pem
  cert_file: collector.pem
  key_file: collector.key
store: store  # a folder with room: a day of data is a file
# What it sends to nodes is signed with this secret: enrolled nodes refuse everything else.
mac_file: mac.key
# The site writes this file when a node is enrolled or removed. On another machine, copy it there after each.
enrolled_file: {enrolled}
# The page and the API for other machines, with TLS; browsers must trust ca.pem, and page.key is secret too:
# http: {{host: 0.0.0.0, names: {hosts}, cert_file: page.pem, key_file: page.key}}
"""

_AGENT = """\
# For the config of each agent of site {name}, instead of its sections `broker` and `trust`.
# Its own certificate and key are beside ca.pem; paths are relative to the folder of the config.
broker:
  url: "{url}"
  ca_file: ca.pem
  cert_file: node.pem
  key_file: node.key
trust:
  keys: ["edgebed:edgebed.pem"]  # add the public keys that sign your own model packages
  require_signature: true
"""

ROOT_README = """\
root.key signs authority/nodes.pem, which signs nodes, viewers and the broker. Nothing that runs needs it.

Move this folder to a disk that is kept apart, and keep a second copy. With root.key one can make brokers and
nodes that this site accepts. `edgebed site init` asks for it once more after about seven years, to renew that
authority, and `edgebed site show` reports it.
"""


def mosquitto(site: Site, folder: Path) -> str:
    """The text of `mosquitto.conf`."""
    return _MOSQUITTO.format(
        name=site.name,
        folder=folder,
        user=site.broker_user,
        port=site.port,
        collector_port=site.collector_port,
        listen=f" {site.listen}" if site.listen else "",
    )


def access_rules(site: Site, revoked: Sequence[str] = ()) -> str:
    """The text of the access rules; who is revoked receives and sends nothing, on an open connection too."""
    blocks = [f"\n# Revoked.\nuser {name}\ntopic deny #\n" for name in revoked]
    for name in site.collectors:
        rules = [f"topic read {ROOT}/#"]
        rules += [f"topic write {ROOT}/+/+/+/+/{tail}" for tail in COLLECTOR_WRITES]
        rules += [f"topic readwrite {ROOT}/_sys/{name}/#"]  # its probes, to find out that it hears nothing
        blocks.append(
            f"\n# A collector reads everything; it acknowledges, commands and configures.\nuser {name}\n"
        )
        blocks.append("\n".join(rules) + "\n")
    for name in site.viewers:
        user, pilot = viewer_user(name), "/".join(name.split("/")[:2])
        # without the second line the patterns below would let it publish under its own name
        blocks.append(
            f"\n# A viewer of pilot {pilot}.\nuser {user}\ntopic read {ROOT}/{pilot}/#\n"
            f"topic deny {ROOT}/{user}/#\n"
        )
    patterns = [f"pattern write {ROOT}/%u/{tail}" for tail in NODE_WRITES]
    patterns += [f"pattern read {ROOT}/%u/{tail}" for tail in NODE_READS]
    return _ACL.format(name=site.name, blocks="".join(blocks), patterns="\n".join(patterns))


def collector(site: Site, name: str, folder: Path) -> str:
    """The text of a collector's config."""
    return _COLLECTOR.format(
        name=name,
        site=site.name,
        url=site.collector_url,
        hosts=json.dumps(site.hosts),
        enrolled=json.dumps(str(folder / ENROLLED)),
    )


def agent(site: Site) -> str:
    """The text of the sections `broker` and `trust` of an agent's config."""
    return _AGENT.format(name=site.name, url=site.url)
