"""Mistakes on the command line: one sentence, the right exit code, never a traceback."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from edgebed.processes import Child, edgebed_command
from wire.shipped import folder


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = edgebed_command(*arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["agnt"], 2, "no such command 'agnt'; did you mean 'agent'?"),
        (["broker", "--port", "99999"], 2, "99999"),
        (["broker", "--port", "0", "--host", "192.0.2.1"], 78, "cannot listen on 192.0.2.1"),
        (["broker", "--port", "0", "--data", "/proc/x"], 78, "the broker's folder /proc/x cannot be written"),
        (["collector", "run", "--store", "/proc/x", "--port", "0"], 78, "store folder /proc/x cannot be"),
        (["demo", "--port", "99999"], 2, "99999"),
        (["demo", "--seconds", "-1"], 2, "--seconds"),
        (["demo", "--port", "0", "--keep", "/proc/x"], 78, "folder /proc/x cannot be written"),
        (["sim", "run", "modbus", "--host", "999.1.1.1"], 2, "'999.1.1.1' is neither an address"),
        (["sim", "run", "modbus", "--option", "foo=1"], 2, "option foo; it has the options "),
        (["init", "robot", "-o", "/proc/none/my.yaml"], 78, "create its folder or choose another"),
        (["init", "robot", "--broker", "my-broker"], 2, "'my-broker' is not mqtt://host"),
        (["ledger", "--url", "http://[::bad"], 2, "http://[::bad"),
        (["ledger", "--url", "http://a b"], 2, "http://a b"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], status: int, said: str) -> None:
    done = run(*arguments)
    assert said in done.stderr
    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_ends_a_look_without_a_word(tmp_path: Path) -> None:
    command = edgebed_command("sim", "run", "modbus", "--port", "0")
    with Child("sim", command, tmp_path / "sim.log") as air:
        config = tmp_path / "my.yaml"
        config.write_text(
            "node: acme/try/lab/box\nstate: ./state\nbroker: {url: 'mqtt://127.0.0.1:1'}\n"
            f"devices: {{air: {{adapter: modbus, options: {{url: '{air.first_line()}', "
            f"map: {folder('configs') / 'maps/particulate-modbus.yaml'}, stream: air}}}}}}\n"
        )
        look = edgebed_command("agent", "once", str(config), "--seconds", "60")
        with subprocess.Popen(look, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as once:
            assert once.stdout is not None
            assert once.stderr is not None
            assert b"/live/air/air" in once.stdout.readline()
            once.stdout.close()
            assert once.stderr.read() == b""
    assert once.returncode == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_an_interrupted_collector_says_so_and_a_stopped_one_is_well(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    command = edgebed_command("collector", "run", "--store", str(tmp_path / "store"), "--port", "0")
    with Child("collector", command, tmp_path / "collector.log") as collector:
        collector.first_line()
        assert collector.end(number) == status


def test_a_demo_on_a_used_port_does_not_begin() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("demo", "--headless", "--port", str(port))
    assert done.returncode == 75
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert "Dashboard" not in done.stderr


def test_what_is_no_web_server_is_no_collector() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        peer = threading.Thread(target=answer)
        peer.start()
        done = run("ledger", "--url", f"http://127.0.0.1:{server.getsockname()[1]}")
        peer.join()
    assert done.returncode == 1
    assert "is not a collector" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_first_line_is_that_of_the_last_start(tmp_path: Path) -> None:
    for word in ("before", "after"):  # as in a folder of an earlier demo
        with Child(
            "child", ["sh", "-c", f"sleep 0.2; echo {word}; exec sleep 30"], tmp_path / "x.log"
        ) as child:
            assert child.first_line() == word
