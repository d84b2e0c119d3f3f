"""The HL7 adapter over TLS with certificates on both sides, in both ways of connecting."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from adapters.base import DeviceUnreachable, OptionsError
from adapters.hl7.adapter import Hl7
from adapters.hl7.options import Hl7Options
from adapters.hl7.tls import Tls
from adapters.testing import AdapterContract, Rig, read
from edgebed.broker import free_port
from simulators.devices.hl7.device import BedsideMonitor
from simulators.faults import FaultProxy
from wire.clock import Clock
from wire.messages import Quality

RATE = 20.0  # seconds of the monitor in a real second
NOW = datetime.now(UTC)


class Authority:
    """A certificate authority that writes what it issues into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.file = folder / f"{name}.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        ca = x509.BasicConstraints(ca=True, path_length=None)
        self.file.write_bytes(self._signed(self._name, self._key, ca, NOW + timedelta(days=2)))

    def issue(
        self, name: str, *, ends: datetime = NOW + timedelta(days=1), address: str = "127.0.0.1"
    ) -> None:
        """Write NAME.pem and NAME.key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternative = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(address))])
        (self.folder / f"{name}.pem").write_bytes(self._signed(subject, key, alternative, ends))
        (self.folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extra: x509.ExtensionType, ends: datetime
    ) -> bytes:
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=2))
            .not_valid_after(ends)
            .add_extension(extra, critical=isinstance(extra, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the certificates: `other` issued that of `unknown`, `site` all others."""
    folder = tmp_path_factory.mktemp("certificates")
    authority, other = Authority(folder, "site"), Authority(folder, "other")
    for name in ("agent", "monitor"):
        authority.issue(name)
    authority.issue("expired", ends=NOW - timedelta(days=1))
    authority.issue("elsewhere", address="192.0.2.1")
    other.issue("unknown")
    return folder


def tls(site: Path, cert: str = "agent", ca: str = "site", name: str = "") -> Tls:
    return Tls(cert=site / f"{cert}.pem", key=site / f"{cert}.key", ca=site / f"{ca}.pem", name=name)


def shown(site: Path, cert: str = "monitor", ca: str = "site") -> dict[str, str]:
    """The files of the simulated monitor."""
    return {"cert": f"{site}/{cert}.pem", "key": f"{site}/{cert}.key", "ca": f"{site}/{ca}.pem"}


def quick(url: str, secure: Tls | None, silence_s: float = 1.5) -> Hl7Options:
    return Hl7Options(url=url, tls=secure, silence_s=silence_s, rejoin_s=0.0, half_message_s=1.0)


class TestHl7OverTls(AdapterContract):
    adapter = Hl7
    good_options: ClassVar = {
        "url": "mllp://127.0.0.1:2575",
        "tls": {"cert": "agent.pem", "key": "agent.key", "ca": "site.pem"},
    }
    bad_options: ClassVar = [
        (
            {"url": "mllp://x:1", "tls": {"cert": "a", "key": "b"}},
            "ca",
        ),  # without `ca` no monitor can be checked
        ({"url": "mllp://x:1", "tls": {**good_options["tls"], "verify": False}}, "verify"),
    ]

    @pytest.fixture
    async def rig(self, site: Path) -> AsyncIterator[Rig]:
        clock = Clock(RATE)
        async with (
            BedsideMonitor(seed=7, clock=clock, ack_s=0.3, **shown(site)) as monitor,
            FaultProxy(monitor.port) as link,
        ):
            yield Rig(lambda: Hl7(quick(f"mllp://127.0.0.1:{link.port}", tls(site)), clock), link)


class TestHl7ListeningOverTls(AdapterContract):
    adapter = Hl7
    good_options: ClassVar = {**TestHl7OverTls.good_options, "url": "mllp-listen://127.0.0.1:2575"}
    bad_options: ClassVar = TestHl7OverTls.bad_options

    @pytest.fixture
    async def rig(self, site: Path) -> AsyncIterator[Rig]:
        clock, port = Clock(RATE), free_port()
        async with (
            FaultProxy(port) as link,
            BedsideMonitor(seed=7, clock=clock, ack_s=0.3, connect=f"127.0.0.1:{link.port}", **shown(site)),
        ):
            yield Rig(lambda: Hl7(quick(f"mllp-listen://127.0.0.1:{port}", tls(site)), clock), link)


async def test_a_monitor_that_listens_must_show_a_certificate_of_the_site_and_the_name(site: Path) -> None:
    for cert, name, message in [
        ("unknown", "", "certificate is not accepted: (unable to get local issuer|self.signed)"),
        ("expired", "", "certificate is not accepted: certificate has expired"),
        ("elsewhere", "", "certificate is not accepted: IP address mismatch"),
    ]:
        async with BedsideMonitor(clock=Clock(RATE), **shown(site, cert)) as monitor:
            with pytest.raises(DeviceUnreachable, match=message):
                await Hl7(quick(monitor.url, tls(site, name=name)), Clock()).open()
    async with (
        BedsideMonitor(clock=(clock := Clock(RATE)), **shown(site, "elsewhere")) as monitor,
        Hl7(quick(monitor.url, tls(site, name="192.0.2.1")), clock) as adapter,
    ):
        assert {row.quality for row in await read(adapter, 300)} == {Quality.GOOD}


@pytest.mark.parametrize(
    ("cert", "message"),
    [
        ("unknown", "certificate is not accepted: (unable to get local issuer|self.signed)"),
        ("expired", "certificate is not accepted: certificate has expired"),
        ("", "does not send TLS: is it set to plain MLLP"),
    ],
)
async def test_a_monitor_that_connects_must_show_one_of_the_site_too(
    site: Path, cert: str, message: str
) -> None:
    port = free_port()
    adapter = Hl7(quick(f"mllp-listen://127.0.0.1:{port}", tls(site)), Clock())
    certificate = shown(site, cert) if cert else {}
    async with BedsideMonitor(clock=Clock(RATE), connect=f"127.0.0.1:{port}", **certificate):
        with pytest.raises(DeviceUnreachable, match=f"no monitor has connected.*refused: .*{message}"):
            await adapter.open()
    assert adapter.counters["tls_refused"] >= 1
    assert "messages" not in adapter.counters


@pytest.mark.parametrize("listens", [True, False])
async def test_a_monitor_that_does_not_trust_the_agent_is_an_error(site: Path, listens: bool) -> None:
    """The monitor trusts another authority than that of the agent's certificate."""
    port = free_port()
    connect = {} if listens else {"connect": f"127.0.0.1:{port}"}
    async with BedsideMonitor(clock=Clock(RATE), **connect, **shown(site, ca="other")) as monitor:
        with pytest.raises(DeviceUnreachable, match=r"does it trust tls\.cert\?"):
            await Hl7(quick(monitor.url, tls(site)), Clock()).open()


async def test_an_error_contains_the_alert_of_the_other_side(site: Path) -> None:
    """The other side is OpenSSL itself: it sends an alert, while asyncio's servers only hang up."""
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secure.load_cert_chain(site / "monitor.pem", site / "monitor.key")
    secure.load_verify_locations(site / "other.pem")
    secure.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)

        def refuse() -> None:
            peer, _ = server.accept()
            with peer, contextlib.suppress(OSError):
                peer.settimeout(60)
                secure.wrap_socket(peer, server_side=True)

        refusing = asyncio.create_task(asyncio.to_thread(refuse), name="refusing")
        url = f"mllp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(DeviceUnreachable, match="'unknown ca': does it trust tls"):
            await Hl7(quick(url, tls(site)), Clock()).open()
        await refusing


@contextlib.asynccontextmanager
async def listening(options: Hl7Options) -> AsyncIterator[tuple[Hl7, asyncio.Task[None]]]:
    adapter = Hl7(options, Clock())
    opening = asyncio.create_task(adapter.open(), name="opening")
    await asyncio.sleep(0.1)
    yield adapter, opening
    opening.cancel()
    await asyncio.wait({opening})
    await adapter.close()


def old(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT@SECLEVEL=0")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda _: None, "presents no certificate"), (old, "does not support TLS 1.2 or later")],
    ids=["no certificate", "TLS 1.1"],
)
async def test_no_certificate_and_no_old_tls(
    site: Path, change: Callable[[ssl.SSLContext], None], message: str
) -> None:
    port = free_port()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(site / "site.pem")
    change(context)
    options = quick(f"mllp-listen://127.0.0.1:{port}", tls(site), silence_s=5.0)
    async with listening(options) as (adapter, opening):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.close()
        with pytest.raises(DeviceUnreachable, match=message):
            await opening
        assert adapter.counters["tls_refused"] == 1


async def test_an_unknown_client_does_not_replace_a_monitor(site: Path) -> None:
    """A new connection replaces the oldest only after its TLS handshake."""
    clock, port = Clock(RATE), free_port()
    async with (
        BedsideMonitor(clock=clock, connect=f"127.0.0.1:{port}", **shown(site)),
        Hl7(quick(f"mllp-listen://127.0.0.1:{port}", tls(site)), clock) as adapter,
    ):
        hellos = iter((b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05half", b"\x0bMSH|\x1c\r"))
        writers = []
        async with asyncio.timeout(60), contextlib.aclosing(adapter.readings()) as readings:
            async for reading in readings:
                assert reading.quality is Quality.GOOD
                if adapter.counters.get("tls_refused", 0) < len(writers):
                    continue
                if (hello := next(hellos, None)) is None:
                    break
                writers.append((await asyncio.open_connection("127.0.0.1", port))[1])
                writers[-1].write(hello)
                writers[-1].write_eof()
        for writer in writers:
            writer.close()
    assert adapter.counters["tls_refused"] == 3
    assert "replaced_connections" not in adapter.counters


@pytest.mark.parametrize("which", ["cert", "key", "ca"])
async def test_the_error_names_an_unusable_file(site: Path, which: str, tmp_path: Path) -> None:
    for content in (None, b"", b"-----BEGIN CERTIFICATE-----\nx\n"):
        file = tmp_path / "there.pem"
        if content is not None:
            file.write_bytes(content)
        files = {"cert": site / "agent.pem", "key": site / "agent.key", "ca": site / "site.pem", which: file}
        with pytest.raises(OptionsError, match=rf"tls\.{which} {file}"):
            await Hl7(quick("mllp://127.0.0.1:9", Tls(**files)), Clock()).open()


async def test_a_key_with_a_passphrase_is_an_error_without_a_question(site: Path, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key((site / "agent.key").read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"geheim"),
        )
    )
    files = Tls(cert=site / "agent.pem", key=locked, ca=site / "site.pem")
    with pytest.raises(OptionsError, match="without a passphrase"):
        await Hl7(quick("mllp://127.0.0.1:9", files), Clock()).open()
