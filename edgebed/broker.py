"""Start a real MQTT broker on this machine: nats-server from its PyPI wheel, or an installed mosquitto 2."""

from __future__ import annotations

import errno
import getpass
import itertools
import os
import random
import shutil
import socket
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from edgebed.processes import Child
from wire.errors import ConfigError, TryAgain, Unreachable, unwritable

Kind = Literal["nats", "mosquitto"]
KINDS: tuple[Kind, ...] = ("nats", "mosquitto")

_KERNELS_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 12_000  # above the well-known ports
_given = itertools.count(random.randrange(100_000))  # each process starts at another port

# ack_wait: how long nats-server waits before it sends an unacknowledged message again. The collector
# acknowledges after a commit of 100 ms; a killed collector is back within seconds: 10 s is far from both.
# sync_interval: edgebed does not rely on the broker's disk; nodes send again what a power cut deletes there.
# "always" syncs each message, PUBACK and ack in one queue: behind a node that floods, all others waited
# for seconds, at 500 messages a second (docs/decisions/0023).
_NATS = """\
server_name: edgebed
host: "{host}"
port: {nats_port}
max_payload: 1MB
jetstream {{ store_dir: "{folder}/jetstream", sync_interval: "1s" }}
mqtt {{ host: "{host}", port: {port}, ack_wait: "10s", max_ack_pending: 4096 }}
"""

# By default mosquitto keeps 1,000 messages for an absent collector and drops later ones after a PUBACK.
# autosave_interval counts changes here: a save after each change limits it to 150 messages/s, a save after 25
# costs nothing measurable. Nodes send again what a kill -9 deletes.
_MOSQUITTO = """\
listener {port} {host}
allow_anonymous true
user {user}
persistence {persistent}
persistence_location {folder}/
autosave_on_changes true
autosave_interval 25
max_queued_messages 1000000
max_inflight_messages 1000
max_packet_size 70000
max_keepalive 120
log_type error
log_type warning
"""


class BrokerProcess:
    """One broker process with its data in `folder`; `kill` and a new `start` keep port and data.

    With `persistent=False` mosquitto keeps its data in memory: with a thousand clients, a save after each 25
    changes takes more time than all messages.

    Raises on start:
        Unreachable: the program is not installed.
        TryAgain: the port is in use, the disk is full, or the broker did not start.
        ConfigError: the folder cannot be written.
    """

    def __init__(
        self,
        kind: Kind,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        persistent: bool = True,
    ) -> None:
        self.kind = kind
        self._persistent = persistent
        self.folder = folder.resolve()
        self.host = host
        self.port = port or free_port(host)
        self.child = Child(f"the {kind} broker", (), self.folder / "broker.log")

    @property
    def url(self) -> str:
        """The value of `broker: {url: ...}` for an agent or collector."""
        return f"mqtt://{self.host}:{self.port}"

    def command(self) -> list[str]:
        """Write the broker's configuration into `folder`; return its command line."""
        program = find(self.kind)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{self.kind}.conf"
            text = _NATS if self.kind == "nats" else _MOSQUITTO
            path.write_text(
                text.format(
                    host=self.host,
                    port=self.port,
                    nats_port=free_port(self.host),
                    folder=self.folder,
                    persistent=str(self._persistent).lower(),
                    user=getpass.getuser(),
                )
            )
        except OSError as error:
            raise unwritable(f"the broker's folder {self.folder}", error) from error
        return [program, "-c", str(path)]

    def start(self, deadline_s: float = 30.0) -> None:
        """Start the process and wait until it accepts connections."""
        require_free(self.host, self.port)
        self.child.command = self.command()
        self.child.start()
        until = time.monotonic() + deadline_s
        while not is_listening(self.host, self.port):
            if not self.pid or time.monotonic() > until:
                self.kill()
                raise TryAgain(f"the {self.kind} broker did not start; see {self.folder / 'broker.log'}")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """The process id; 0 while the broker does not run."""
        return self.child.pid

    def kill(self) -> None:
        """Send SIGKILL, as a power cut ends the process."""
        self.child.kill()

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if the process does not end."""
        self.child.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def become(broker: BrokerProcess) -> None:
    """Print the URL and replace this process by the broker: it gets all signals and has no orphans."""
    require_free(broker.host, broker.port)
    command = broker.command()
    print(broker.url, flush=True)  # noqa: T201 - a result: scripts read the address from the first line
    os.execv(command[0], command)  # noqa: S606 - without a shell on purpose


def find(kind: Kind) -> str:
    """Return the path of the broker's program.

    Raises:
        Unreachable: it is not installed.
    """
    if kind == "nats":
        bundled = Path(sysconfig.get_path("scripts")) / "nats-server"
        if bundled.exists():
            return str(bundled)
        hint = "pip install 'edgebed[broker]'"
    else:
        hint = "apt-get install mosquitto"
    name = "nats-server" if kind == "nats" else "mosquitto"
    # Debian installs mosquitto in /usr/sbin, which is often not on a user's PATH
    found = shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    if found is None:
        raise Unreachable(f"{name} is not installed: {hint}")
    return found


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nothing listens on and that the kernel does not assign to other programs.

    It is outside the kernel's range for connections and port 0: a killed broker finds its port free again.

    Raises:
        ConfigError: `host` is not an address of this machine.
    """
    for port in _own_ports():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES) and port:
                    continue
                raise ConfigError(f"cannot listen on {host}: {error.strerror or error}") from error
            found: int = probe.getsockname()[1]
            return found
    raise AssertionError("the last one is 0, which is always free")


def _own_ports() -> Iterator[int]:
    """Yield ports below the kernel's range, each once in a process, then 0."""
    try:
        end = int(_KERNELS_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):  # not Linux
        end = 0
    for _ in range(100):
        if end - _FIRST_PORT > 1_000:
            yield _FIRST_PORT + next(_given) % (end - _FIRST_PORT)
    yield 0


def require_free(host: str, port: int) -> None:
    """Check that nothing listens on a port.

    Raises:
        TryAgain: it is in use.
    """
    if is_listening(host, port):
        raise TryAgain(f"port {port} on {host} is in use: stop the program that listens there, or use --port")


def is_listening(host: str, port: int) -> bool:
    """Whether a program accepts TCP connections there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0
