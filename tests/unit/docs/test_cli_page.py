"""docs/cli.md shows every command and option as `--help` does; EDGEBED_WRITE_DOCS=1 writes it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from edgebed.cli import COMMANDS, command

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/cli.md"
HEAD = """# The command

Results go to stdout, everything else to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 3 partly failed,
69 something is not there, 75 try again, 78 the config is wrong, 130 interrupted,
143 ended by SIGTERM. SIGTERM ends a command within 5 s with what it has; a daemon then exits 0.
SIGHUP ends nothing.
"""


def _walk(found: click.Command, path: str, parent: click.Context | None = None) -> Iterator[str]:
    # a width of its own: a terminal's would change the page
    settings = {"terminal_width": 100, **found.context_settings}
    with click.Context(found, info_name=path.rpartition(" ")[2], parent=parent, **settings) as context:
        yield f"## {path}\n\n```text\n{found.get_help(context)}\n```\n"
        if isinstance(found, click.Group):
            for name in found.list_commands(context):
                inner = found.get_command(context, name)
                assert inner is not None, f"{path} {name} is listed but not there"
                yield from _walk(inner, f"{path} {name}", context)


def whole() -> str:
    """The page."""
    return "\n".join([HEAD, *_walk(command, "edgebed")])


def test_the_page_shows_every_command_as_help_does() -> None:
    # in a process of its own: click keeps the help option of a command that another test ran by itself
    walk = "from tests.unit.docs.test_cli_page import whole; print(whole(), end='')"
    text = subprocess.run(
        [sys.executable, "-c", walk], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    if os.environ.get("EDGEBED_WRITE_DOCS") == "1":
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "docs/cli.md is old: run this test with EDGEBED_WRITE_DOCS=1"


def test_every_line_of_help_has_its_file() -> None:
    files = {path.stem for path in (ROOT / "edgebed/commands").glob("*.py")} - {"__init__"}
    assert files == set(COMMANDS)


def test_help_imports_no_heavy_library() -> None:
    script = (
        "import sys; from edgebed.cli import command\n"
        "command.main(['--help'], standalone_mode=False)\n"
        "print([n for n in ('numpy', 'onnxruntime', 'cv2', 'asyncua', 'paho', 'yaml') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_readme_names_only_commands_and_pages_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    for first, second in re.findall(
        r"\bedgebed (\w+)(?: (\w+))?", " ".join(re.findall(r"^    .*$|`.*?`", readme, re.MULTILINE))
    ):
        assert first in COMMANDS, f"README names `edgebed {first}`"
        with click.Context(command) as context:
            inner = command.get_command(context, first)
            if isinstance(inner, click.Group):
                assert second in inner.list_commands(context), f"README names `edgebed {first} {second}`"
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), f"README links to {link}, which is not there"


def _printed() -> Iterator[tuple[str, str]]:
    """Every command line that a page or a config's head prints, as (page, line)."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").glob("*.yaml")]
    begin = r"^(?:    |      - run: |#   |# [^:]*:  )(edgebed .*)$"
    for page in sorted(set(pages) - {PAGE}):
        text = page.read_text()
        pasted = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace(
            "\\\n", " "
        )
        for line in re.findall(begin, text, re.MULTILINE) + re.findall(
            r"^(edgebed .*)$", pasted, re.MULTILINE
        ):
            for one in re.split(r"\s&\s*|\s{2,}and\s+|\s{2,}\(|\s#\s|\s>\s", line):
                if one.startswith("edgebed "):
                    yield page.name, one.strip()


def test_every_command_line_that_a_page_prints_can_be_typed() -> None:
    lines = list(_printed())
    assert {"README.md", "operations.md", "robot.yaml", "smart-city.yaml"} <= {page for page, _ in lines}
    for page, line in lines:
        found, words = command, shlex.split(line)[1:]
        with click.Context(command) as context:
            while isinstance(found, click.Group):
                inner = found.get_command(context, words.pop(0)) if words else None
                assert inner is not None, f"{page}: {line}"
                found = inner
        with click.Context(found) as context:
            given, rest, _ = found.make_parser(context).parse_args(words)  # an unknown option raises
        assert not rest, f"{page}: {line}"
        lacking = [one.name for one in found.params if one.required and not given.get(one.name or "")]
        assert not lacking, f"{page}: {line} lacks {lacking}"
        if line.startswith("edgebed collector run"):
            assert given.get("config") or given.get("store"), f"{page}: {line} names no store"
