"""`edgebed model`: check, sign and verify model packages, and draft a manifest for an ONNX file."""

from __future__ import annotations

from pathlib import Path

import click

from wire.errors import ConfigError


@click.group(name="model")
def command() -> None:
    """Check, sign or verify a model package, a folder with an ONNX file and its manifest; draft one."""


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--provider",
    "providers",
    multiple=True,
    default=("cpu",),
    show_default=True,
    help="cpu, openvino, cuda, or a name of onnxruntime; may be repeated, best first.",
)
@click.option("--json", "as_json", is_flag=True, help="The report as a JSON object.")
def check(folder: Path, providers: tuple[str, ...], as_json: bool) -> None:
    """Check whether the agent's gate accepts FOLDER, and measure the cost of a run on this machine.

    Loads and runs the model in a child process with limits, and compares it with its golden vectors.
    """
    import msgspec

    from agent.inference import execution_providers, gate
    from agent.inference.package import load_package
    from agent.inference.signature import FILE

    package = load_package(folder)
    report = gate.verify(package, providers=execution_providers.names(providers))
    if as_json:
        document = msgspec.to_builtins(report)
        del document["scanned"]  # for the agent
        click.echo(msgspec.json.encode(document))
        return
    found = package.manifest
    part = "" if report.share == 1 else f", which runs {report.share:.0%} of its nodes"
    click.echo(f"{found.ref}: ok on {report.provider}{part}")
    click.echo(
        f"  {report.golden} golden vectors agree" if report.golden else "  no golden vectors to compare with"
    )
    click.echo(f"  half of the runs within {report.p50_ms:g} ms, 99 of 100 within {report.p99_ms:g} ms")
    if (folder / FILE).exists():
        click.echo(f"  {FILE} fits the files; `edgebed model verify` shows whether a key made it")
    scanned = report.scanned
    exact = "" if not scanned.int8 else ", 8 bits exact" if scanned.exact else ", 8 bits as on this CPU"
    click.echo(f"  {report.rss_mb:g} MB of memory, {found.decoder}{exact}, sha256 {found.sha256[:12]}")


@command.command()
@click.argument("path", metavar="FILE|FOLDER", type=click.Path(exists=True, path_type=Path))
@click.option("--force", is_flag=True, help="Replace files of FOLDER that are there already.")
def draft(path: Path, force: bool) -> None:
    """Draft a manifest for an ONNX file; TODO marks what only its maker knows.

    Prints it for a FILE. For a FOLDER with one ONNX file it writes manifest.yaml, and golden vectors from
    ONNX's test data (test_data_set_0, ...). Loads the file in a child process with limits.
    """
    from edgebed.model_tools.draft import draft_folder, draft_in_child

    if path.is_dir():
        for name in draft_folder(path, force=force):
            click.echo(path / name)
        return
    click.echo(draft_in_child(path).text, nl=False)


@command.command()
@click.argument(
    "folders", type=click.Path(exists=True, file_okay=False, path_type=Path), nargs=-1, required=True
)
@click.option(
    "--key",
    "key_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Private key as PEM, as `edgebed key signing` writes it.",
)
def sign(folders: tuple[Path, ...], key_file: Path) -> None:
    """Sign each package of FOLDERS: write model.sig (OpenSSF Model Signing v1.0), which covers every file.

    A package that changes needs a new signature.
    """
    from agent.inference import package_files, signature
    from wire.errors import unwritable

    key = package_files.read_file(key_file, 65_536)
    for folder in folders:
        try:
            fingerprint = signature.sign(folder, key)
        except OSError as error:
            raise unwritable(str(folder / signature.FILE), error) from error
        click.echo(f"{folder}: signed by the key with sha256 {fingerprint}")


@command.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--public-key",
    "key_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Public key as PEM; of P-256, P-384 or P-521.",
)
def verify(folder: Path, key_file: Path) -> None:
    """Verify that the key signed the package FOLDER, and that every file is as it was and none was added."""
    from agent.inference import package_files, signature
    from agent.inference.decoders import ModelError
    from agent.inference.trust import KeyMistake, Trust, public_key

    try:
        key = public_key(package_files.read_file(key_file, 65_536).decode("ascii", "replace"))
    except KeyMistake as error:
        raise ConfigError(f"{key_file} {error}") from error
    try:
        found = signature.verify(folder, Trust(trusted={key: key_file.stem}, required=True))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}").coded(error.reason_code, **error.reason_args) from error
    click.echo(f"{folder}: signed by {found.by}, {len(found.files)} files")
