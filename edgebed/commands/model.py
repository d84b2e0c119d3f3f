"""`edgebed model`: draft, check, measure, sign and verify model packages; the store of a device."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from edgebed.collector_api import CollectorApi, collector_options
from edgebed.number_range import NumberRange
from wire.errors import ConfigError, EdgebedError

OVER_BUDGET = 3  # exit code


@click.group(name="model")
def command() -> None:
    """Draft, check, measure, sign and verify model packages, folders with an ONNX file and its manifest."""


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

    from agent.inference import execution_providers, gate, manifest, package_files
    from agent.inference.package import load_package
    from agent.inference.signing.signature import FILE
    from edgebed.model_tools.manifest_text import TODO
    from wire.yaml12 import MAX_BYTES

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
    if todo := package_files.read(folder, manifest.FILE, MAX_BYTES).count(TODO.encode()):
        click.echo(f"  guesses left in {manifest.FILE}: {todo} (lines with {TODO})")


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
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--fix", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path), help="Write it repaired."
)
@click.option(
    "--dim", "dims", metavar="NAME=LENGTH", multiple=True, help="Fix an open axis; may be repeated."
)
@click.option(
    "--keep",
    metavar="OUTPUT",
    multiple=True,
    help="Output that is read; may be repeated.  [default: those that the manifest names]",
)
@click.option("--force", is_flag=True, help="Replace OUT if it is there already.")
@click.option("--json", "as_json", is_flag=True, help="The findings as a JSON object.")
def doctor(
    file: Path, fix: Path | None, dims: tuple[str, ...], keep: tuple[str, ...], force: bool, as_json: bool
) -> None:
    """Show what costs the ONNX FILE time or breaks it; with --fix, write it repaired.

    The repaired file is compared with FILE on seeded inputs, in a child process with limits, and is only
    written if its outputs are the same.
    """
    import msgspec

    from edgebed.model_tools.compare import TOLERANCE
    from edgebed.model_tools.doctor import diagnose

    found = diagnose(file, fix=fix, dims=_lengths(dims), keep=keep, force=force)
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for each in found.findings:
        click.echo(
            f"{'repaired' if found.out else 'can be repaired'}: {each.text}" if each.repaired else each.text
        )
    if not found.findings:
        click.echo(f"{file}: nothing to repair")
    elif fix is not None and not found.out:
        click.echo(f"{fix} was not written: nothing that --fix repairs")
    if found.compared is not None:
        same = found.compared
        click.echo(
            f"{found.out}: the same outputs on {same.inputs} inputs (largest difference {same.worst:.1g}, "
            f"{TOLERANCE:g} allowed)"
        )
        low, high = same.interval
        click.echo(f"  {same.gain:.2f} times as fast (95 %: {low:.2f} to {high:.2f}), sha256 {found.sha256}")


def _lengths(dims: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for each in dims:
        name, equal, length = each.rpartition("=")
        if (
            not equal
            or not name
            or not length.isascii()
            or not length.isdigit()
            or not 0 < int(length) <= 65_536
        ):
            raise click.BadParameter(f"{each!r} is not NAME=LENGTH, as height=640", param_hint="--dim")
        found[name] = int(length)
    return found


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace a README.md that this command did not write.")
def card(folder: Path, force: bool) -> None:
    """Write README.md, a Hugging Face model card, and sbom.cdx.json (CycloneDX) of FOLDER from its manifest.

    A signed package needs a new signature afterwards.
    """
    from agent.inference.signing.signature import FILE
    from edgebed.model_tools.card import write

    for name in write(folder, force=force):
        click.echo(folder / name)
    if (folder / FILE).exists():
        click.echo(f"sign the package again: edgebed model sign {folder} --key KEY")


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument(
    "recordings", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1, required=True
)
@click.option(
    "--window",
    "window_s",
    type=NumberRange(10, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds of a window of time; the device compares windows of this length.",
)
@click.option("--input", "source", default="", help="device/stream, if the model can see several.")
def reference(folder: Path, recordings: tuple[Path, ...], window_s: float, source: str) -> None:
    """Write FOLDER/reference.json from RECORDINGS of the input that the model was made for.

    The device compares its input with it and shows drift. Record what is usual: every product, every shift.
    A signed package needs a new signature.
    """
    from agent.inference import reference as references
    from agent.inference.package import load_package
    from agent.offline.model_reference import from_recordings
    from agent.state_dir import keep
    from wire.errors import unwritable

    made = from_recordings(load_package(folder).manifest, recordings, window_s, source)
    try:
        keep(folder / references.FILE, references.written(made))
    except OSError as error:
        raise unwritable(str(folder / references.FILE), error) from error
    click.echo(f"{folder / references.FILE}: {len(made.features)} features, {made.windows} windows")


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
    from agent.inference import package_files
    from agent.inference.signing import signature
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
    from agent.inference import package_files
    from agent.inference.decoders import ModelError
    from agent.inference.signing import signature
    from agent.inference.signing.trust import KeyMistake, Trust, public_key

    try:
        key = public_key(package_files.read_file(key_file, 65_536).decode("ascii", "replace"))
    except KeyMistake as error:
        raise ConfigError(f"{key_file} {error}") from error
    try:
        found = signature.verify(folder, Trust(trusted={key: key_file.stem}, required=True))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}").coded(error.reason_code, **error.reason_args) from error
    click.echo(f"{folder}: signed by {found.by}, {len(found.files)} files")


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="cores",
    help="Most threads that run the model at the same time; measured at 1, 2, 4, ... of them.",
)
@click.option(
    "--seconds",
    type=NumberRange(0.05, 20),
    default=1.0,
    show_default=True,
    help="Time of each measurement; less if all together would take too long.",
)
@click.option("--json", "as_json", is_flag=True, help="The measurement as a JSON object.")
def bench(folder: Path, threads: int, seconds: float, as_json: bool) -> None:
    """Measure the package FOLDER on this machine: times, CPU and memory, against its budgets.

    Ends with 3 if a budget is exceeded. As in the gate, p99_ms counts the CPU time of one run in one thread.
    """
    import msgspec

    from agent.inference.package import load_package
    from edgebed.model_tools.bench import bench as measure

    found = measure(load_package(folder), threads, seconds)
    if as_json:
        document = msgspec.to_builtins(found)
        del document["why"]
        click.echo(msgspec.json.encode(document))
    else:
        click.echo(f"{found.model} on {found.provider}: opened in {found.open_ms:g} ms, {found.rss_mb:g} MB")
        click.echo("  threads   p50 ms   p99 ms  CPU p50  CPU p99  cores   runs/s")
        for each in found.levels:
            click.echo(
                f"  {each.threads:7} {each.p50_ms:8.2f} {each.p99_ms:8.2f} {each.cpu_p50_ms:8.2f} "
                f"{each.cpu_p99_ms:8.2f} {each.cores:6.2f} {each.per_s:8.1f}"
            )
        for sentence in found.over:
            click.echo(f"  over budget: {sentence}")
    if found.over:
        sys.exit(OVER_BUDGET)


_state = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="State folder of the agent, as `state_dir` in its config.",
)


@command.command()
@click.argument("folders", type=click.Path(path_type=Path), nargs=-1, required=True)
@_state
def add(folders: tuple[Path, ...], state: Path) -> None:
    """Copy packages into the store of a device, and print their digests.

    Checks the manifest and the ONNX file; the agent's gate runs a package before a slot uses it.
    """
    from agent.inference.package import check_package
    from agent.slots.model_store import ModelStore

    for folder in folders:
        package = check_package(folder)
        click.echo(f"sha256:{ModelStore(state).add(folder)}  {package.manifest.ref}")


@command.command()
@_state
@click.option("--json", "as_json", is_flag=True, help="The packages as a JSON list.")
def ls(state: Path, as_json: bool) -> None:
    """List the packages in the store of a device, the newest first, and the slots that need them."""
    import msgspec

    from agent.slots.model_store import ModelStore

    found = ModelStore(state).ls()
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for each in found:
        ref = f"{each.name}@{each.ver}" if each.name else "its manifest cannot be read"
        slots = f"  slot {', '.join(each.slots)}" if each.slots else ""
        click.echo(f"{each.digest[:12]}  {each.size / 1e6:8.1f} MB  {ref}{slots}")


@command.command()
@click.argument("digests", nargs=-1, required=True)
@_state
def rm(digests: tuple[str, ...], state: Path) -> None:
    """Remove packages from the store of a device, by digest or how it begins; one that a slot needs stays."""
    from agent.slots.model_store import ModelStore

    store = ModelStore(state)
    for digest in digests:
        store.rm(store.named(digest))
        click.echo(f"{digest} removed")


def _of_collector(command: Callable[..., None]) -> Callable[..., None]:
    command = collector_options(" that keeps the packages", "the tenant")(command)
    help_text = "The company whose nodes may use the packages."
    return click.option("--tenant", required=True, callback=_company, help=help_text)(command)


def _company(_ctx: click.Context, _param: click.Parameter, tenant: str) -> str:
    from wire.messages import is_id

    if not is_id(tenant):
        raise click.BadParameter(f"{tenant[:40]!r} is not the name of a company: a-z, 0-9 and '-'")
    return tenant


@command.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_of_collector
def push(folder: Path, url: str, token_file: Path | None, tenant: str) -> None:
    """Push the package FOLDER, with its signature, to a collector, from which nodes download it.

    Prints the digest. The package must pass `edgebed model check` on a device; this does not run it.
    """
    import msgspec

    from agent.inference import package_files
    from agent.inference.package import load_package
    from agent.inference.signing import signature
    from wire.model_package import Listing, PackedFile, read_listing

    found = load_package(folder).manifest
    names = [*signature.digests(folder), *([signature.FILE] if (folder / signature.FILE).exists() else [])]
    sums = {name: package_files.sha256(folder, name, 4_000_000_000) for name in sorted(names)}
    listing = Listing({name: PackedFile(*each) for name, each in sums.items()})
    try:
        line = msgspec.json.encode(listing) + b"\n"
    except UnicodeEncodeError as error:
        raise EdgebedError(f"{folder} has a file whose name is not UTF-8: rename it") from error
    read_listing(line, listing.digest)  # before anything is sent

    def parts() -> Iterator[bytes]:
        yield line
        for name, file in listing.files.items():
            with package_files.opened(folder, name, file.size) as descriptor:
                while part := os.read(descriptor, 1 << 20):
                    yield part

    CollectorApi(url, token_file).send(f"models/{tenant}/{listing.digest}", parts(), len(line) + listing.size)
    click.echo(f"{found.ref}: pushed to {tenant}, sha256:{listing.digest}")


@command.command()
@_of_collector
@click.option("--remove", "gone", help="Remove the package with this sha256 instead.")
def pushed(url: str, token_file: Path | None, tenant: str, gone: str | None) -> None:
    """List the packages that a collector keeps for a tenant, or remove one."""
    from agent.slots.model_store import digest_of
    from wire.printable import printable

    api = CollectorApi(url, token_file)
    if gone is not None:
        api.change("DELETE", f"models/{tenant}/{digest_of(gone)}")
        click.echo(f"{printable(gone, 80)}: removed from {tenant}")
        return
    for one in api.ask("models")["models"]:
        if one["tenant"] == tenant:
            signed = "" if one["signed"] else ", not signed"
            ref = printable(f"{one['name']}@{one['ver']}", 80)
            click.echo(f"{ref}  sha256:{one['digest']}  {one['size'] / 1e6:.1f} MB{signed}")
