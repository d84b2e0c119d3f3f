"""The OPC UA connection: client, security, subscription, publications, and the errors of asyncua."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asyncua import Client, ua
from asyncua.common.utils import Buffer
from asyncua.crypto import security_policies, uacrypto
from asyncua.ua.ua_binary import struct_from_binary

from adapters.base import AdapterError, DeviceUnreachable, OptionsError, ProtocolViolation, why_no_connection
from adapters.opcua.options import OpcUaOptions, Security, age_s
from adapters.opcua.publish_response import Published, decode
from adapters.opcua.words import of_refusal, of_value
from wire.clock import NS_PER_S

log = logging.getLogger("edgebed.adapters.opcua")
logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # the errors of this adapter say it

_MAX_MESSAGE = 16 * 1024 * 1024  # bytes of one answer; a publication of 500 x 1,000 values is 15 MB
_MAX_CHUNK = 256 * 1024  # bytes of one chunk; the client asks for 64 KiB


async def new_client(options: OpcUaOptions) -> Client:
    client = Client(options.url, timeout=options.timeout_s, watchdog_intervall=age_s(options))
    client.name = client.description = "edgebed"
    client.session_timeout = int(_abandoned_s(options) * 1000)
    _bound(client)
    if options.user:
        client.set_user(options.user)
        client.set_password(_password(options.password_file))
    if options.security is not None:
        await _secure(client, options.security)
    return client


def _abandoned_s(options: OpcUaOptions) -> float:
    """Seconds after which the server may drop a session: soon, because small servers keep few sessions."""
    return max(5.0, 2 * age_s(options))


def _password(file: Path | None) -> str:
    try:
        return "" if file is None else file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionsError(f"cannot read password_file {file}: {error}") from error


def _bound(client: Client) -> None:
    """Limit the memory that a hostile server can use: asyncua accepts any announced length."""
    make = client.uaclient._make_protocol  # asyncua has no public hook between socket and parser

    def bounded() -> Any:
        protocol = make()
        limits, receive = protocol._connection._limits, protocol.data_received

        def data_received(data: bytes) -> None:
            if len(protocol.receive_buffer or b"") > _MAX_CHUNK:
                protocol.disconnect_socket()
                return
            if not 0 < limits.max_message_size <= _MAX_MESSAGE:
                limits.max_message_size = _MAX_MESSAGE
            receive(data)

        protocol.data_received = data_received
        return protocol

    client.uaclient._make_protocol = bounded


async def _secure(client: Client, security: Security) -> None:
    try:
        own = await uacrypto.load_certificate(security.cert)
        trusted = uacrypto.der_from_x509(await uacrypto.load_certificate(security.server_cert))
        await uacrypto.load_private_key(security.key)
    except (OSError, ValueError, TypeError) as error:
        raise OptionsError(f"cannot use the files of `security`: {error}") from error
    points = await client.connect_and_get_server_endpoints()
    shown = {point.ServerCertificate for point in points} - {None}
    if not any(cert.startswith(trusted) for cert in shown):
        seen = ", ".join(hashlib.sha256(cert).hexdigest()[:16] for cert in shown) or "none"
        raise ProtocolViolation(f"the server shows another certificate than server_cert (sha256 {seen}...)")
    client.application_uri = _application_uri(own) or client.application_uri
    mode = {"sign": "Sign", "sign-and-encrypt": "SignAndEncrypt"}[security.mode]
    offered = sorted(
        {f"{p.SecurityPolicyUri.rpartition('#')[2]} {p.SecurityMode.name.rstrip('_')}" for p in points}
    )
    if f"{security.policy} {mode}" not in offered:
        raise ProtocolViolation(
            f"the server does not offer {security.policy} {mode}: set `security.policy` and `security.mode`"
            f" to one of {', '.join(offered)}"
        )
    await client.set_security(
        getattr(security_policies, f"SecurityPolicy{security.policy}"),
        str(security.cert),
        str(security.key),
        server_certificate=str(security.server_cert),
        mode=getattr(ua.MessageSecurityMode, mode),
    )


def _application_uri(certificate: Any) -> str:
    """The URI in a certificate: the client must use it as its ApplicationUri."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")


async def check_identity(client: Client, expected: str) -> None:
    if not expected:
        return
    servers = await client.get_node(ua.NodeId(ua.ObjectIds.Server_ServerArray)).read_value()
    actual = servers[0] if servers else ""
    if actual != expected:
        raise ProtocolViolation(f"this is server {actual!r}, declared is {expected!r}")


async def subscribe(
    client: Client, options: OpcUaOptions, nodes: Sequence[tuple[str, Any]]
) -> dict[str, int]:
    """Subscribe to the nodes of the fields; returns the fields whose node is the element of an array.

    Raises:
        ProtocolViolation: the server refuses a node.
    """
    request = ua.CreateSubscriptionRequest()
    wanted = request.Parameters
    wanted.RequestedPublishingInterval = options.publishing_ms
    beats = max(1, int(age_s(options) * 1000 / options.publishing_ms / 2))
    wanted.RequestedMaxKeepAliveCount = beats
    wanted.RequestedLifetimeCount = max(3 * beats, int(_abandoned_s(options) * 1000 / options.publishing_ms))
    wanted.MaxNotificationsPerPublish = 0
    wanted.PublishingEnabled = True
    protocol = client.uaclient.protocol
    if protocol is None:
        raise ConnectionError("connection lost")
    answer = struct_from_binary(ua.CreateSubscriptionResponse, await protocol.send_request(request))
    answer.ResponseHeader.ServiceResult.check()
    subscription = answer.Parameters.SubscriptionId
    refused = await _monitor(client, options, subscription, list(enumerate(nodes)), filtered=True)
    if refused:  # some servers lack the filter; they do not repeat unchanged values
        refused = await _monitor(client, options, subscription, [item for item, _ in refused], filtered=False)
    elements = {item: _array_of(item[1][1]) for item, _ in refused}
    arrays = [(handle, (field, array[0])) for (handle, (field, _)), array in elements.items() if array]
    if arrays and len(arrays) == len(refused):
        refused = await _monitor(client, options, subscription, arrays, filtered=True)
    for (_, (field, node)), status in refused:
        raise ProtocolViolation(
            f"the server has no {node.to_string()} for {field}: {of_value(status.value)}"
            if "NodeId" in status.name
            else f"the server refuses {node.to_string()} for {field}: {of_value(status.value)}"
        )
    return {field: array[1] for (_, (field, _)), array in elements.items() if array}


def _array_of(node: Any) -> tuple[Any, int] | None:
    """The array and the index that a node id such as `ns=2;s=JointPos[0]` may mean."""
    found = re.fullmatch(r"(.+)\[(\d{1,5})\]", str(node.Identifier), re.DOTALL)
    if found is None or node.NodeIdType != ua.NodeIdType.String:
        return None
    return ua.NodeId(found[1], node.NamespaceIndex), int(found[2])


async def _monitor(
    client: Client,
    options: OpcUaOptions,
    subscription: int,
    items: list[tuple[int, tuple[str, Any]]],
    *,
    filtered: bool,
) -> list[tuple[tuple[int, tuple[str, Any]], Any]]:
    """Ask for the values of the nodes; returns the refused nodes, each with its status."""
    params = ua.CreateMonitoredItemsParameters()
    params.SubscriptionId = subscription
    params.TimestampsToReturn = ua.TimestampsToReturn.Both
    for handle, (_, node) in items:
        item = ua.MonitoredItemCreateRequest()
        item.ItemToMonitor.NodeId = node
        item.ItemToMonitor.AttributeId = ua.AttributeIds.Value
        item.MonitoringMode = ua.MonitoringMode.Reporting
        item.RequestedParameters.ClientHandle = handle
        item.RequestedParameters.SamplingInterval = options.sampling_ms
        item.RequestedParameters.QueueSize = options.queue
        item.RequestedParameters.DiscardOldest = True
        if filtered:  # a sample with an unchanged value counts: a stuck sensor must be visible
            item.RequestedParameters.Filter = ua.DataChangeFilter(
                Trigger=ua.DataChangeTrigger.StatusValueTimestamp
            )
        params.ItemsToCreate.append(item)
    results = await client.uaclient.session.create_monitored_items(params)
    kept = min((r.RevisedQueueSize for r in results if r.StatusCode.is_good()), default=options.queue)
    if options.sampling_ms and kept * options.sampling_ms < options.publishing_ms:
        log.warning(
            "%s keeps only %d samples a node and will lose some: lower publishing_ms", options.url, kept
        )
    return [
        (item, result.StatusCode)
        for item, result in zip(items, results, strict=True)
        if not result.StatusCode.is_good()
    ]


@dataclass(slots=True)
class OpcUaConnection:
    """The publications of a subscription; those that never came are counted as lost."""

    client: Client
    counters: Counter[str]
    url: str
    sequence: int = 0
    acks: tuple[Any, ...] = ()

    async def publish(self) -> Published:
        request = ua.PublishRequest()
        request.Parameters.SubscriptionAcknowledgements = list(self.acks)
        protocol = self.client.uaclient.protocol
        if protocol is None:
            raise DeviceUnreachable(f"{self.url} ended the connection")
        body = bytes(await protocol.send_request(request, timeout=0))
        published = decode(body) or decode_slowly(body)
        if published.ended:
            reason = ua.StatusCode(published.ended).name
            raise DeviceUnreachable(f"{self.url} ended the subscription: {reason}")
        self.acks = ()
        if published.items:
            lost = (published.sequence - self.sequence - 1) if self.sequence else 0
            if lost > 0:
                self.counters["lost_messages"] += lost
            self.sequence = published.sequence
            self.acks = (
                ua.SubscriptionAcknowledgement(
                    SubscriptionId=published.subscription, SequenceNumber=published.sequence
                ),
            )
        return published


def decode_slowly(body: bytes) -> Published:
    """Decode any publication: text, arrays, structures, diagnostics."""
    response = struct_from_binary(ua.PublishResponse, Buffer(body))
    found = response.Parameters
    out = Published(found.SubscriptionId, found.NotificationMessage.SequenceNumber)
    for notification in found.NotificationMessage.NotificationData or ():
        if isinstance(notification, ua.StatusChangeNotification):
            out.ended = notification.Status.value
        elif isinstance(notification, ua.DataChangeNotification):
            for item in notification.MonitoredItems:
                data = item.Value
                raw = data.Value.Value if data.Value is not None else None
                status = data.StatusCode.value if data.StatusCode is not None else 0
                times = (_unix_ns(data.SourceTimestamp), _unix_ns(data.ServerTimestamp))
                out.items.append((item.ClientHandle, raw, status, *times))
    return out


def _unix_ns(at: datetime | None) -> int | None:
    if at is None:
        return None
    since = (at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * NS_PER_S + since.microseconds * 1000


@contextlib.contextmanager
def translated(options: OpcUaOptions) -> Iterator[None]:
    """Turn any error of asyncua into one of `adapters.base`."""
    url = options.url
    try:
        yield
    except (AdapterError, TimeoutError):
        raise
    except OSError as error:
        raise DeviceUnreachable(f"{url}: {why_no_connection(error)}").at(url, error) from error
    except ua.UaStatusCodeError as error:
        why = of_refusal(error.code, user=options.user, secured=options.security is not None)
        raise DeviceUnreachable(f"{url} refuses: {why}") from error
    except Exception as error:  # bytes that are not OPC UA raise exceptions of any kind in asyncua
        if isinstance(error, ua.UaError) and "No matching endpoints" in str(error):
            raise ProtocolViolation(
                f"{url} offers no connection without encryption: "
                "set `security`, with the server's certificate"
            ) from error
        raise ProtocolViolation(f"{url} violates OPC UA: {type(error).__name__}: {error}") from error
