"""`edgebed site rotate-ca`: another root and other authorities, while the ones before still count.

`start` makes both trusted, then signs with the new ones; the servers keep a certificate of the old root, as
each device trusts that. `finish` gives the servers new certificates and takes the trust in the old root away.
Each step replaces one file: after a kill the next run looks at what is there and goes on.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime

from edgebed.site.authorities import (
    FINISHING,
    INTERRUPTED,
    NAMES,
    before,
    check_clock,
    old_root,
    roots,
    signing,
)
from edgebed.site.broker_config import ROOT_README
from edgebed.site.certificates import (
    Authority,
    authority,
    is_signed_by,
    key_pem,
    name_of,
    new_key,
    pem,
    read_certificates,
    read_key,
)
from edgebed.site.files import PUBLIC, SECRET, make_folder, read, write
from edgebed.site.layout import CA, NEXT, OLD, ROOT, Layout
from edgebed.site.make import AUTHORITY_DAYS, ROOT_DAYS, Maker, Report
from edgebed.site.nodes import current, keep_issued, removed_names, take_away
from edgebed.site.running import end_connection, reload
from edgebed.site.token_store import void_all
from wire.errors import ConfigError, EdgebedError, unwritable
from wire.folder_sync import sync_folder
from wire.printable import counted
from wire.topics import Address

_GONE = "authority/.gone"
_KEY = f"{ROOT}/root.key"
_KEY_BEFORE = f"{ROOT}/root-before.key"
_SHOWN = 20  # names of one sentence

Reload = Callable[[Layout], str]


def is_running(layout: Layout) -> bool:
    """Whether a rotation was begun and is not finished."""
    return layout.path(OLD).exists() or layout.path(NEXT).exists()


def left_nodes(layout: Layout, now: datetime) -> list[str]:
    """The nodes whose newest certificate is a valid one of the authority before."""
    old = before(layout, "nodes")
    return [
        name
        for name, one in current(layout).items()
        if old is not None and one.not_valid_after_utc > now and is_signed_by(one, old.certificate)
    ]


def state(layout: Layout, now: datetime) -> Iterator[str]:
    """What is to do about a rotation, for `site show`."""
    if layout.path(NEXT).exists():
        yield INTERRUPTED
    elif layout.path(FINISHING).exists():
        yield "the end of a rotation was interrupted: run `edgebed site rotate-ca --finish` again"
    elif layout.path(OLD).exists():
        left = left_nodes(layout, now)
        if left:
            yield (
                f"a rotation of the authorities runs: {counted(len(left), 'node')} of {len(current(layout))}"
                f" still on the old one: {_names(left)}"
            )
        else:
            yield (
                "a rotation of the authorities runs, and no node is left on the old one: run"
                " `edgebed site rotate-ca --finish` when collectors and viewers have their new files"
            )


def start(layout: Layout, now: datetime, report: Report, tell_broker: Reload = reload) -> list[str]:
    """Make a new root and new authorities, trusted beside the old ones; returns what is left to do.

    Raises:
        ConfigError: the site is not complete, or its broker is not mosquitto.
        EdgebedError: a rotation is being finished.
        TryAgain: the clock is before the site's certificates, or the disk is full.
    """
    if layout.site.broker != "mosquitto":
        raise ConfigError("a rotation needs mosquitto as the site's broker: make a new site for nats-server")
    if layout.path(FINISHING).exists():
        raise EdgebedError(
            "the rotation before is being finished: run `edgebed site rotate-ca --finish` first"
        )
    maker = Maker(layout, now, report)
    if not layout.path(NEXT).exists() and layout.path(OLD).exists():
        maker.make()
        report("a rotation runs already: `edgebed site show` lists the nodes that are left")
        return _told(layout, tell_broker)
    if not layout.path(NEXT).exists():
        check_clock(layout, now)
    _remove(layout, _GONE)
    _prepare(layout, now)
    _keep_old(layout)
    write(layout.path(CA), read(layout.path(f"{NEXT}/{CA}")) or b"", PUBLIC)
    maker.trust()
    report("broker and clients trust both roots")
    left = _told(layout, tell_broker)  # before a certificate of the new authority is shown
    _switch(layout)
    report(f"new certificates are signed by the new authority; move {ROOT}/ to a disk that is kept apart")
    maker.make()
    return [*left, *_told(layout, tell_broker)]


def finish(
    layout: Layout, now: datetime, report: Report, tell_broker: Reload = reload, *, is_forced: bool = False
) -> list[str]:
    """Take away the trust in the old root; returns what is left to do.

    Raises:
        EdgebedError: no rotation runs, or nodes are left on the old authority.
    """
    if layout.path(NEXT).exists():
        raise EdgebedError(f"{layout.folder}: {INTERRUPTED}")
    _remove(layout, _GONE)
    if not layout.path(OLD).exists():
        raise EdgebedError(f"no rotation runs: `edgebed site rotate-ca {layout.folder}` begins one")
    was_begun, nodes = layout.path(FINISHING).exists(), left_nodes(layout, now)
    if nodes and not was_begun and not is_forced:
        raise EdgebedError(
            f"{counted(len(nodes), 'node')} would lose the site: {_names(nodes)}; a node that is on renews by"
            " itself within a day, `edgebed node add NODE --renew` and a new enrolment do it now, and --force"
            " removes them"
        )
    write(layout.path(FINISHING), b"", PUBLIC)
    ended = set(removed_names(layout)) if was_begun else set()
    for name in nodes:
        take_away(layout, Address.parse(name))
        report(f"{name}: removed, it had no certificate of the new authority")
    keep_issued(layout, signing(layout, "nodes").certificate)
    gone = list(old_root(layout))
    write(layout.path(CA), pem(*(one for one in roots(layout) if one not in gone)), PUBLIC)
    Maker(layout, now, report).make()
    if voided := void_all(layout):
        report(f"{counted(voided, 'token')} for the old root taken back: make new ones")
    left = _told(layout, tell_broker)
    for name in sorted({*nodes, *ended}):
        if not left and (why := end_connection(layout, name)):
            left = [f"the open connection of {name} is not ended: {why}: restart the broker"]
    with contextlib.suppress(FileNotFoundError):
        layout.path(_KEY_BEFORE).unlink()
    _remove(layout, OLD)
    report("the old root is not trusted any more")
    return left


def _prepare(layout: Layout, now: datetime) -> None:
    """Make the new authorities in a folder of their own; the file with both roots is the last one."""
    folder = layout.path(NEXT)
    if read(folder / CA) is not None:
        return
    make_folder(folder, 0o700)
    current_roots = roots(layout)
    root = _made(layout, "root", name_of(current_roots[0]), now, ROOT_DAYS, None)
    for name in NAMES:
        called = name_of(signing(layout, name).certificate)
        _made(layout, name, called, now, AUTHORITY_DAYS, root if name == "nodes" else None)
    write(folder / CA, pem(root.certificate, *current_roots), PUBLIC)


def _made(
    layout: Layout, name: str, before_it: str, now: datetime, days: int, issuer: Authority | None
) -> Authority:
    """A new authority; what a run that was killed made of it is used."""
    path, key_path = layout.path(f"{NEXT}/{name}.pem"), layout.path(f"{NEXT}/{name}.key")
    data = read(key_path)
    key = new_key() if data is None else read_key(data, key_path)
    if data is None:
        write(key_path, key_pem(key), SECRET)
    if (made := read(path)) is not None:
        return Authority(read_certificates(made, path)[0], key)
    certificate = authority(_next_name(before_it), key, now, days, issuer)
    write(path, pem(certificate), PUBLIC)
    return Authority(certificate, key)


def _next_name(name: str) -> str:
    """Another name, since revocation lists are found by it: "site nodes", "site nodes 2", "site nodes 3"."""
    stem, _, number = name.rpartition(" ")
    return f"{stem} {int(number) + 1}" if number.isdecimal() and len(number) < 9 else f"{name} 2"


def _keep_old(layout: Layout) -> None:
    """Copy the authorities that sign now; a copy that is there is from this rotation."""
    folder = layout.path(OLD)
    if read(folder / "root.pem") is not None:
        return
    make_folder(folder, 0o700)
    for name in NAMES:
        found = signing(layout, name)
        write(folder / f"{name}.key", key_pem(found.key), SECRET)
        write(folder / f"{name}.pem", pem(found.certificate), PUBLIC)
    write(folder / "root.pem", pem(roots(layout)[0]), PUBLIC)


def _switch(layout: Layout) -> None:
    """Sign with the new authorities from now on, and put the new root's key where the old one was."""
    make_folder(layout.path(ROOT), 0o700)
    key, old = read(layout.path(f"{NEXT}/root.key")) or b"", read(layout.path(_KEY))
    if old not in (None, key):
        write(layout.path(_KEY_BEFORE), old or b"", SECRET)
    write(layout.path(_KEY), key, SECRET)
    if read(layout.path(f"{ROOT}/README.txt")) is None:
        write(layout.path(f"{ROOT}/README.txt"), ROOT_README.encode(), PUBLIC)
    for name in NAMES:
        for kind, mode in (("key", SECRET), ("pem", PUBLIC)):
            write(
                layout.path(f"authority/{name}.{kind}"),
                read(layout.path(f"{NEXT}/{name}.{kind}")) or b"",
                mode,
            )
    _remove(layout, NEXT)


def _remove(layout: Layout, name: str) -> None:
    """Remove a folder in one step."""
    path, gone = layout.path(name), layout.path(_GONE)
    try:
        if name != _GONE:
            shutil.rmtree(gone, ignore_errors=True)
            path.rename(gone)
            sync_folder(path.parent)
        if gone.exists():
            shutil.rmtree(gone)
    except OSError as error:
        raise unwritable(str(path), error) from error


def _told(layout: Layout, tell_broker: Reload) -> list[str]:
    why = tell_broker(layout)
    return [f"{why}: reload the broker where it runs; until then nothing has changed for it"] if why else []


def _names(nodes: list[str]) -> str:
    more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
    return ", ".join(nodes[:_SHOWN]) + more
