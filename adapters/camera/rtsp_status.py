"""What the statuses of an RTSP server mean, as sentences that name what to do."""

from __future__ import annotations

from adapters.base import DeviceUnreachable


class Unexplained(DeviceUnreachable):
    """FFmpeg cannot read the stream; the server can be asked for the reason."""


_BUSY = "its bandwidth or its number of viewers is used up: close other viewers or ask for a smaller stream"
_WHY = {
    400: "it does not understand the request: check the path of url",
    403: "it forbids this stream to this user: give the user the right to view, or check the path of url",
    405: "this path cannot be viewed: check the path of url",
    406: "it cannot describe this stream: check the path of url",
    415: "it cannot describe this stream: check the path of url",
    451: "it does not understand a parameter of url: check the path of url",
    453: _BUSY,
    454: "it ended the session while the stream started: close other viewers, or restart the camera",
    500: "it has an internal error: restart the camera",
    501: "it cannot play streams: check the path of url",
    503: "it is overloaded or still starts: close other viewers, or wait",
    505: "it speaks another version of RTSP: check the port",
    551: "it lacks an option that this adapter needs: update its firmware",
}


def sentence(name: str, status: int, transport: str = "tcp") -> str:
    """Why a camera refuses its stream, and what to do."""
    if status == 401:
        return f"{name} refuses the login (status 401): check the user and password of url"
    if status == 404:
        return f"{name} has no such stream: check the path of url"
    if status == 461:
        other = "udp" if transport == "tcp" else "tcp"
        return f"{name} does not send RTP over {transport} (status 461): set transport: {other}"
    if status in {459, 460}:
        return f"{name} plays this path only in another way (status {status}): check the path of url"
    if (why := _WHY.get(status)) is None:
        why = "its own error: restart the camera" if status >= 500 else "check the path of url"
    return f"{name} refuses the stream with status {status}: {why}"
