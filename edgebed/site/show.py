"""`edgebed site show`: what a site has, what ends when, which files are secret, and their rights."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import datetime, timedelta

from cryptography import x509
from msgspec import Struct

from edgebed.site.certificates import fingerprint, is_due, name_of, read_certificates
from edgebed.site.files import read, unreachable_folder, user_name, wrong_rights
from edgebed.site.layout import CA, OLD, Entry, Layout
from edgebed.site.nodes import KINDS, current, dropped, removed_names
from edgebed.site.rotation import state
from wire.errors import ConfigError
from wire.printable import counted

WARN = timedelta(days=30)
NODES_AUTHORITY = "authority/nodes.pem"
BEFORE = (f"{OLD}/root.pem", f"{OLD}/nodes.pem", f"{OLD}/collectors.pem")  # while a rotation runs
_BROKERS = "broker/broker.key, broker/acl and broker/data"


class Shown(Struct):
    """A certificate: its file, the name in it, and when it ends."""

    file: str
    name: str
    until: str
    days: int


class Secret(Struct):
    """A secret file; `problem` is empty when its rights are as they must be."""

    file: str
    what: str
    mode: str
    owner: str
    problem: str = ""


class Overview(Struct):
    """Everything that `site show` prints."""

    folder: str
    name: str
    url: str
    collector_url: str
    ca_sha256: str
    certificates: list[Shown]
    secrets: list[Secret]
    removed: list[str]
    problems: list[str]


def overview(layout: Layout, now: datetime) -> Overview:
    """What the site has now."""
    site = layout.site
    problems: list[str] = []
    shown = []
    ca_sha256 = ""
    for name, certificate in _certificates(layout, problems):
        days = (certificate.not_valid_after_utc - now).days
        shown.append(Shown(name, name_of(certificate), f"{certificate.not_valid_after_utc:%Y-%m-%d}", days))
        problems += _time_problem(name, certificate, now)
        if name == CA:
            ca_sha256 = fingerprint(certificate)
    secrets = [_secret(layout, each) for each in layout.files if each.mode & 0o077 == 0]
    found = [each for each in secrets if each is not None]
    problems += [f"{each.file}: {each.problem}" for each in found if each.problem]
    problems += [*_missing(layout), *_kept(layout), *_dropped(layout), *state(layout, now)]
    problems += _for_broker(layout)
    return Overview(
        str(layout.folder), site.name, site.url, site.collector_url,
        ca_sha256, shown, found, removed_names(layout), problems,
    )  # fmt: skip


def _certificates(layout: Layout, problems: list[str]) -> Iterator[tuple[str, x509.Certificate]]:
    shown = (CA, NODES_AUTHORITY, "authority/collectors.pem", "broker/broker.pem", *BEFORE)
    names = [
        *shown,
        *(
            each.name
            for each in layout.files
            if each.name.endswith(("/collector.pem", "/page.pem", "/viewer.pem"))
        ),
    ]
    for name in names:
        path = layout.path(name)
        try:
            data = read(path)
            if data is not None:
                yield name, read_certificates(data, path)[0]
        except ConfigError as error:
            problems.append(str(error))
    yield from current(layout).items()


def _time_problem(name: str, certificate: x509.Certificate, now: datetime) -> Iterator[str]:
    end, start = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    cure = "run `edgebed site init`" if name.endswith(".pem") else "give the node a new certificate"
    if now < start:
        yield f"{name}: valid from {start:%Y-%m-%d} on, and the clock of this machine shows {now:%Y-%m-%d}"
    elif end <= now:
        yield f"{name}: it ended on {end:%Y-%m-%d}: {cure}"
    elif name == NODES_AUTHORITY and is_due(certificate, now):
        yield f"{name}: it ends on {end:%Y-%m-%d}: bring back root.key and run `edgebed site init`"
    elif end - now < WARN:
        yield f"{name}: it ends on {end:%Y-%m-%d}, in {counted((end - now).days, 'day')}: {cure}"


def _secret(layout: Layout, entry: Entry) -> Secret | None:
    path = layout.path(entry.name)
    try:
        found = path.stat()
    except OSError:
        return None
    wrong = wrong_rights(path, entry.mode, layout.owner_of(entry))
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    return Secret(entry.name, entry.what, mode, user_name(found.st_uid), wrong)


def _missing(layout: Layout) -> Iterator[str]:
    for each in layout.files:
        if not each.is_optional and not layout.path(each.name).exists():
            yield f"{each.name}: it is not there: run `edgebed site init`"
    for each in layout.folders:
        path = layout.path(each.name)
        if path.is_dir() and (wrong := wrong_rights(path, each.mode, layout.owner_of(each))):
            yield f"{each.name}/: {wrong}"


def _kept(layout: Layout) -> Iterator[str]:
    """The files whose new text waits beside them."""
    for each in layout.files:
        if layout.path(f"{each.name}.new").exists():
            yield (
                f"{each.name}: changed by hand, and {each.name}.new has what this release would write:"
                " take over what you need, then delete it"
            )


def _dropped(layout: Layout) -> Iterator[str]:
    for kind in KINDS:
        for folder in dropped(layout, kind):
            yield (
                f"{folder}/: not in site.yaml any more: run `edgebed site init`, which revokes it,"
                " then delete the folder"
            )


def _for_broker(layout: Layout) -> Iterator[str]:
    """Why the broker could not read its files."""
    user = layout.broker_user
    if user is None:
        yield (
            f"there is no user {layout.site.broker_user} on this machine: where the broker runs,"
            f" {_BROKERS} must belong to it"
        )
    elif (folder := unreachable_folder(layout.path("broker/broker.key"), user)) is not None:
        yield f"user {user.name} of the broker may not enter {folder}: chmod o+x {folder}, or move the site"
