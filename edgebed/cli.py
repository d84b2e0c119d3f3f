"""The `edgebed` command: a lazy group, one file of `edgebed/commands/` per subcommand."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

import click

from edgebed import __version__, signals
from wire.errors import EdgebedError
from wire.printable import printable

_LONGEST_LINE = 10_000  # characters of a line of an error

# subcommand -> its line in --help; a module is imported only when its command runs: --help stays fast
COMMANDS = {
    "agent": "Run, check and query the daemon beside a device.",
    "broker": "Run a real MQTT broker with its data on disk.",
    "cmd": "Send a command to a node through a running collector, and follow it.",
    "collector": "Run the collector: it stores, proves and shows what agents send.",
    "config": "Request another configuration of a node from a running collector.",
    "demo": "Show a whole installation in a minute, without hardware.",
    "drill": "Cause faults and prove that nothing was lost.",
    "init": "Write the ready config of a testbed, to change into your own.",
    "key": "Make secret keys, for pseudonyms and for signatures of model packages.",
    "ledger": "Show how many messages are taken, stored, declared lost or missing.",
    "model": "Check, sign or verify a model package, or draft a manifest.",
    "node": "Give nodes of a shared site their certificates, list them, and take them away.",
    "pilot": "Check, freeze, sign and follow the plan of a pilot.",
    "record": "Record the readings of devices in a file.",
    "replay": "Run a recording through the models again; the regression gate.",
    "site": "Make a site that several companies share: certificates, access rules, broker configuration.",
    "rollout": "Give a version of a model to nodes stage by stage, and take it back.",
    "sim": "Run simulated devices that speak the real protocols.",
    "user": "Say who may see and change what on a collector's page and API.",
}


class LazyGroup(click.Group):
    """Imports `edgebed.commands.<name>` only when `<name>` runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"edgebed.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from wire.config import did_you_mean

            ctx.fail(f"no such command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgebed")
def command() -> None:
    """Run AI pilots on shared testbed hardware.

    Results go to stdout, everything else to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 3 partly failed,
    69 unreachable, 75 try again, 78 configuration, 130 interrupted, 143 ended by SIGTERM.
    """


def main() -> None:
    """Run the command line; errors of edgebed become exit codes."""
    code: str | int | None = 0
    try:
        _run()
    except SystemExit as end:
        code = end.code
    threads = sys.modules.get("agent.pipeline.model_threads")
    if threads is not None and threads.at_work():
        # onnxruntime ends a process with "terminate called" if one of its threads still runs a model
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1 if code else 0)
    sys.exit(code)


def _run() -> None:
    signals.install()
    try:
        command(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EdgebedError as error:
        # the text can have names of files, which a terminal must not act on
        shown = "\n".join(printable(line, _LONGEST_LINE) for line in str(error).split("\n"))
        click.echo(f"edgebed: {shown}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
