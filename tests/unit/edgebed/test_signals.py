"""SIGTERM ends each command with what it has, SIGHUP ends none."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgebed.processes import edgebed_command

WITHIN_S = 60  # against hanging only

MAP = Path(__file__).parents[3] / "configs/maps/particulate-modbus.yaml"


def modbus(port: str) -> str:
    return f"{{adapter: modbus, options: {{url: 'tcp://127.0.0.1:{port}', map: {MAP}, stream: air}}}}"


AGENT = (
    "node: a/b/c/d\nbroker: {url: 'mqtt://127.0.0.1:1'}\nstate: st\n"
    f"devices:\n  none: {modbus('1')}\n"  # nothing listens there
)

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command with pipes, and end it."""
    running: list[subprocess.Popen[str]] = []

    def start(*command: str, sighup: signal.Handlers = signal.SIG_DFL) -> subprocess.Popen[str]:
        # given, because the parent of the tests may ignore SIGHUP, as nohup does
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, sighup),  # noqa: PLW1509 - one call of signal(), safe between fork and exec
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def line_with(stream: object, text: str) -> str:
    line = next((line for line in stream if text in line), "")  # type: ignore[attr-defined]
    assert line, f"no line with {text!r}"
    return line


CLOCK = "import asyncio, signal, threading\nfrom edgebed import signals\nsignals.install()\n"


def test_a_part_that_hangs_is_left_behind(start: Start) -> None:
    """A driver that never returns, in a thread: asyncio.run would wait for it without end."""
    code = CLOCK + (
        "async def work():\n"
        "    print('up', flush=True)\n"
        "    await asyncio.to_thread(threading.Event().wait)\n"
        "signals.run(work())\n"
    )
    process = start(sys.executable, "-c", code)
    assert process.stdout is not None
    line_with(process.stdout, "up")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 143
    assert "a part did not end within 4.5 s" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_agent_once_shows_what_it_has(start: Start, tmp_path: Path, number: int, code: int) -> None:
    """Of two devices one is silent: the rows of the other are printed when the command is ended."""
    device = start(*edgebed_command("sim", "run", "modbus"))
    assert device.stdout is not None
    port = device.stdout.readline().rsplit(":", 1)[1].strip()
    config = tmp_path / "agent.yaml"
    config.write_text(AGENT + f"  air: {modbus(port)}\n")
    process = start(*edgebed_command("agent", "once", str(config), "--seconds", "600"))
    assert process.stdout is not None
    first = line_with(process.stdout, "/live/air/")
    process.send_signal(number)
    rest, said = process.communicate(timeout=WITHIN_S)
    assert "/data/air/" in first + rest, said
    assert "none: " in said
    assert process.returncode in (3, code)
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "command",
    [
        ("sim", "run", "modbus"),
        ("sim", "run", "robot", "--rate", "1"),
        ("drill", "run", "agent-kill", "--rounds", "50"),
        ("demo", "--headless", "--seconds", "600", "--port", "0"),
    ],
    ids=" ".join,
)
def test_sigterm_ends_a_command_in_order(start: Start, command: tuple[str, ...]) -> None:
    process = start(*edgebed_command(*command))
    stream = process.stdout if command[-1] == "modbus" else process.stderr
    assert stream is not None
    assert stream.readline()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=WITHIN_S)
    assert process.returncode in (0, 130, 143), said
    assert "Traceback" not in said


def test_sighup_ends_nothing(start: Start, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("broker: {url: 'mqtt://127.0.0.1:1'}\nstore: st\nhttp: {port: 0}\n")
    (tmp_path / "a.yaml").write_text(AGENT)
    for command, up, then in [
        (("collector", "run", str(tmp_path / "c.yaml")), "retrying", "SIGHUP is ignored"),
        (("agent", "run", str(tmp_path / "a.yaml")), "degraded", "nothing differs"),
    ]:
        process = start(*edgebed_command(*command))
        assert process.stderr is not None
        line_with(process.stderr, up)
        process.send_signal(signal.SIGHUP)
        line_with(process.stderr, then)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WITHIN_S)
        assert process.returncode == 0


def test_an_ignored_sighup_stays_ignored(start: Start) -> None:
    """As with nohup."""
    code = CLOCK + "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    process = start(sys.executable, "-c", code, sighup=signal.SIG_IGN)
    assert process.communicate(timeout=WITHIN_S)[0] == "True\n"
