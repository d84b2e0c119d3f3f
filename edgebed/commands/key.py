"""`edgebed key`: the secret that pseudonyms are made with."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(name="key")
def command() -> None:
    """Secret keys of a site; none ever travels or is printed."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
def new(file: Path) -> None:
    """Make a key for the pseudonyms of patients and write it to FILE, which only this user can read.

    FILE is what `patient_key_file` of the adapter hl7 names. One that exists is never overwritten.
    """
    from adapters.hl7.deidentify import create_key

    create_key(file)
    click.echo(f"{file} is written; keep a copy: the same pseudonyms cannot be made without it", err=True)
