"""`edgebed model`: check a model package as the agent's gate does, or draft a manifest for an ONNX file."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(name="model")
def command() -> None:
    """Check a model package, a folder with an ONNX file and a manifest, or draft a manifest."""


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--provider",
    "providers",
    multiple=True,
    default=("CPUExecutionProvider",),
    show_default=True,
    help="onnxruntime execution provider; may be repeated, best first.",
)
@click.option("--json", "as_json", is_flag=True, help="The report as a JSON object.")
def check(folder: Path, providers: tuple[str, ...], as_json: bool) -> None:
    """Check whether the agent's gate accepts FOLDER, and measure the cost of a run on this machine.

    Loads and runs the model in a child process with limits, and compares it with its golden vectors.
    """
    import msgspec

    from agent.inference import gate
    from agent.inference.package import load_package

    package = load_package(folder)
    report = gate.verify(package, providers=providers)
    if as_json:
        document = msgspec.to_builtins(report)
        del document["scanned"]  # for the agent
        click.echo(msgspec.json.encode(document))
        return
    found = package.manifest
    click.echo(f"{found.ref}: ok on {report.provider}")
    click.echo(
        f"  {report.golden} golden vectors agree" if report.golden else "  no golden vectors to compare with"
    )
    click.echo(f"  half of the runs within {report.p50_ms:g} ms, 99 of 100 within {report.p99_ms:g} ms")
    exact = ", 8 bits exact" if report.scanned.int8 else ""
    click.echo(f"  {report.rss_mb:g} MB of memory, {found.decoder}{exact}, sha256 {found.sha256[:12]}")


@command.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def draft(file: Path) -> None:
    """Print a draft manifest for the ONNX FILE; TODO marks what its tensors do not define.

    Loads the file in a child process with limits.
    """
    from agent.inference.scaffold import draft_in_child

    click.echo(draft_in_child(file), nl=False)
