"""The `edgebed` command: a lazy group, one file of `edgebed/commands/` per subcommand."""

from __future__ import annotations

import importlib
import sys

import click

from edgebed import __version__
from wire.errors import EdgebedError

# subcommand -> its line in --help; the module is imported only when it runs, so --help stays quick
COMMANDS = {
    "agent": "The daemon beside a device: run, once, check, status.",
    "broker": "Run a real MQTT broker with its data on disk.",
    "collector": "The centre: store, prove and show what agents send.",
    "demo": "The whole story in a minute, without hardware.",
    "drill": "Faults on purpose, and the proof that nothing was lost by them.",
    "init": "A ready config of one of the testbeds, to make your own.",
    "key": "A new secret key for the pseudonyms of patients.",
    "ledger": "What was taken, stored, declared lost, missing.",
    "model": "Check a model package as the agent's gate would.",
    "record": "Record what devices say into a file.",
    "replay": "A recorded session through the models again; the regression gate.",
    "sim": "Simulated devices that speak the real protocols.",
}


class LazyGroup(click.Group):
    """Imports `edgebed.commands.<name>` when `<name>` runs, and turns edgebed's errors into exit codes."""

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
    69 unreachable, 75 try again, 78 configuration, 130 interrupted.
    """


def main() -> None:
    """Entry point of the console script."""
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
        click.echo(f"edgebed: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
