"""`edgebed key`: make the secret key for pseudonyms."""

from __future__ import annotations

from pathlib import Path

import click


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
