"""`edgebed key`: make the secret keys of a site, for pseudonyms and for signatures of model packages."""

from __future__ import annotations

import os
from pathlib import Path

import click

from wire.errors import EdgebedError, unwritable


@click.group(name="key")
def command() -> None:
    """Make secret keys of a site; they are never sent or printed."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
def new(file: Path) -> None:
    """Make a key for the pseudonyms of patients and write it to FILE, which only this user can read.

    Name FILE as `patient_key_file` of the adapter hl7. An existing file is never overwritten.
    """
    from adapters.hl7.deidentify import create_key

    create_key(file)
    click.echo(
        f"{file} is written; keep a copy: without it the same pseudonyms cannot be made again", err=True
    )


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
def signing(file: Path) -> None:
    """Make a P-256 key pair for `edgebed model sign`: the private key FILE and, beside it, FILE.pem.

    FILE has no ending or another one than .pem, as maker.key; its public key is then maker.pem. Only this
    user can read FILE. An existing file is never overwritten.
    """
    from agent.inference.signing.signature import new_key
    from agent.inference.signing.trust import TRUSTED, fingerprint

    if not file.name:
        raise click.UsageError(f"{file} is a folder: name a file for the private key")
    public_file = file.with_suffix(TRUSTED)
    if public_file == file:
        raise click.UsageError(f"{file}: choose another ending than {TRUSTED}, which the public key has")
    if public_file.exists():
        raise EdgebedError(f"{public_file} exists and stays as it is: choose another name")
    private, public = new_key()
    for path, text, mode in ((file, private, 0o600), (public_file, public, 0o644)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError as error:
            raise EdgebedError(f"{path} exists and stays as it is: choose another name") from error
        except OSError as error:
            raise unwritable(str(path), error) from error
        with open(descriptor, "wb") as to:  # noqa: PTH123 - the descriptor was never readable by others
            to.write(text)
    click.echo(f"{public_file} is the public key, sha256 {fingerprint(public.decode())}")
    click.echo(f"{file} is the private key: keep it away from devices", err=True)
