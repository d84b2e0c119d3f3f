"""Says in words what the status codes of OPC UA mean, and what to do about a refusal."""

from __future__ import annotations

from asyncua import ua

# of a value, or of a node: OPC UA Part 4, 7.38, and Part 8
_VALUE = {
    "BadNoCommunication": "the server has no connection to the device behind it",
    "BadNotConnected": "the variable is not connected to a device",
    "BadDeviceFailure": "the device behind the server has failed",
    "BadSensorFailure": "the sensor has failed",
    "BadOutOfService": "the variable is out of service",
    "BadWaitingForInitialData": "the server waits for its first value",
    "BadConfigurationError": "the server's configuration of the variable is wrong",
    "BadNoData": "the server has no data",
    "BadNotReadable": "no client may read it",
    "BadUserAccessDenied": "the server does not let this user read it",
    "BadNodeIdUnknown": "there is no such node",
    "BadNodeIdInvalid": "the node id is not valid",
    "BadAttributeIdInvalid": "the node is not a variable",
    "BadNotSupported": "the server does not support it",
    "BadTooManyMonitoredItems": "the server monitors no more nodes",
    "BadOutOfRange": "the value is out of its range",
    "BadTypeMismatch": "the value has another type than its variable",
    "BadNoMatch": "the path does not exist",
}
_SERVER = {
    "BadSecurityPolicyRejected": "it does not accept this policy: set `security.policy` to one it offers",
    "BadSecurityModeRejected": "it does not accept this mode: set `security.mode` to one it offers",
    "BadSecurityModeInsufficient": "it needs an encrypted connection: set `security`",
    "BadTcpEndpointUrlInvalid": "it does not serve this url: check host, port and path against its endpoint",
    "BadServerUriInvalid": "it does not serve this url: check host, port and path against its endpoint",
    "BadTooManySessions": "all its sessions are in use: close another client",
    "BadTooManySubscriptions": "all its subscriptions are in use: close another client",
    "BadServerHalted": "the server has stopped: start it",
    "BadShutdown": "the server is shutting down",
    "BadTcpServerTooBusy": "it is too busy",
}
_CERTIFICATE = {
    "BadSecurityChecksFailed",
    "BadCertificateUntrusted",
    "BadCertificateInvalid",
    "BadCertificateTimeInvalid",
    "BadCertificateIssuerUnknown",
    "BadCertificateChainIncomplete",
    "BadCertificateRevoked",
    "BadCertificateUseNotAllowed",
    "BadCertificatePolicyCheckFailed",
    "BadCertificateUriInvalid",
    "BadCertificateHostNameInvalid",
    "BadApplicationSignatureInvalid",
}
_LOGIN = {
    "BadIdentityTokenRejected",
    "BadIdentityTokenInvalid",
    "BadUserAccessDenied",
    "BadUserSignatureInvalid",
    "BadLicenseLimitsExceeded",
}


def name_of(status: int) -> str:
    """The name of a status code, without its info bits."""
    return str(ua.StatusCode(ua.UInt32(status & 0xFFFF0000)).name)


def of_value(status: int) -> str:
    """The status of a value or node: `BadNoCommunication: the server has no connection to ...`."""
    name = name_of(status)
    return f"{name}: {_VALUE[name]}" if name in _VALUE else name


def of_refusal(status: int, *, user: str, secured: bool) -> str:
    """Why a server refuses a connection, and the option that helps."""
    name = name_of(status)
    if name in _LOGIN and not user:
        return f"{name}: it accepts no anonymous login: set `user` and `password_file`"
    if name in _LOGIN:
        return f"{name}: it does not accept user {user!r}: check `user` and `password_file`"
    if name in _CERTIFICATE and secured:
        return f"{name}: it does not trust the agent's certificate: add `security.cert` to its trusted ones"
    if name in _CERTIFICATE:
        return f"{name}: it needs a certificate that it trusts: set `security`"
    return f"{name}: {_SERVER[name]}" if name in _SERVER else of_value(status)
