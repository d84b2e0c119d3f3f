"""Server-sent events: each frame is encoded once for all viewers; slow viewers are dropped."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import msgspec

from collector.fleet.board import Ask
from collector.rights.user import LOCAL, Grant, User
from collector.web.connections import network_of

MAX_VIEWERS = 200
MAX_FROM_ADDRESS = 50  # viewers
MAX_FROM_PROXY = 150  # viewers that a proxy brings without their addresses
QUEUE_FRAMES = 256  # per viewer
MAX_DROPPED = 256  # frames that a viewer may miss before it is dropped
QUEUE_BYTES = 8_000_000  # of frames that wait for one viewer
HEARTBEAT_S = 10.0

_encoder = msgspec.json.Encoder()


class TooManyViewers(Exception):
    """A viewer beyond `MAX_VIEWERS`, or beyond those of its address."""


class Viewer:
    """One open page: who opened it, the node and device that it shows, and the frames that wait for it."""

    def __init__(
        self, node: str, device: str, address: str = "", ask: Ask | None = None, user: User = LOCAL
    ) -> None:
        self.node = node
        self.device = device
        self.address = address
        self.ask = ask  # which nodes of the fleet it shows; None for all
        self.user = user
        self.newest: dict[str, bytes] = {}  # event -> frame that `broadcast` sent last
        self.dropped = 0
        self.closed = False
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._ready = asyncio.Event()

    def put(self, frame: bytes) -> None:
        """Queue a frame; a full queue drops its oldest, and a viewer that never catches up is closed."""
        self._frames.append(frame)
        self._size += len(frame)
        while len(self._frames) > QUEUE_FRAMES or self._size > QUEUE_BYTES:
            self._size -= len(self._frames.popleft())
            self.dropped += 1
        if self.dropped > MAX_DROPPED:
            self.close()
        self._ready.set()

    def close(self) -> None:
        """End the stream; a page that is still open connects again."""
        self.closed = True
        self._ready.set()

    async def frames(self) -> AsyncIterator[bytes]:
        """The waiting frames, joined; a comment when there are none, to detect dead connections."""
        while not self.closed:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._ready.wait()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            self._ready.clear()
            waiting = b"".join(self._frames)
            self._frames.clear()
            self._size = self.dropped = 0
            if waiting:
                yield waiting


class Hub:
    """All viewers; any thread may call `post` and `is_wanted`, the event loop calls the rest."""

    def __init__(self, proxies: Iterable[str] = ()) -> None:
        self._proxies = {network_of(proxy) for proxy in proxies}
        self._viewers: set[Viewer] = set()
        self._wanted: frozenset[tuple[str, str]] = frozenset()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def open(self) -> None:
        """Bind to the running event loop; frames that were posted before are dropped."""
        with self._lock:
            self._loop = asyncio.get_running_loop()

    @property
    def viewers(self) -> int:
        """How many pages are open."""
        return len(self._viewers)

    def is_wanted(self, node: str, device: str) -> bool:
        """Whether a page shows this device; only then is a frame worth encoding."""
        wanted = self._wanted
        return bool(wanted) and not wanted.isdisjoint(((node, device), (node, "")))

    def post(self, event: str, data: Mapping[str, Any], node: str = "", device: str = "") -> None:
        """Send to the viewers of a device."""
        frame = encode(event, data)
        with self._lock:  # after `close` the loop may have ended
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._deliver, frame, node, device)

    def broadcast(self, event: str, shown: Callable[[User], Any]) -> None:
        """Send to each viewer what `shown` gives for its user, from the event loop; nothing if that is None.

        Who does not see all gets no frame that is like the one before: its time would show that something
        changed that this viewer must not see.
        """
        frames: dict[tuple[Grant, ...], bytes] = {}  # users with the same rights see the same
        for viewer in list(self._viewers):
            grants = viewer.user.grants
            if grants not in frames:
                data = shown(viewer.user)
                frames[grants] = b"" if data is None else encode(event, data)
            frame = frames[grants]
            if frame and (viewer.user.sees_all or viewer.newest.get(event) != frame):
                viewer.newest[event] = frame
                viewer.put(frame)

    def drop(self, is_current: Callable[[User], bool]) -> None:
        """Close the viewers whose rights ended or changed; from the event loop."""
        for viewer in self._viewers:
            if not is_current(viewer.user):
                viewer.close()

    def _deliver(self, frame: bytes, node: str, device: str) -> None:
        for viewer in list(self._viewers):
            if node and viewer.node == node and (device == "_" or viewer.device in ("", device)):
                viewer.put(frame)

    def asks(self) -> set[Ask | None]:
        """Which nodes of the fleet the viewers show; None is all of them."""
        return {viewer.ask for viewer in self._viewers}

    def show(self, ask: Ask | None, frame: bytes) -> None:
        """Send a frame to the viewers of these nodes of the fleet, from the event loop."""
        for viewer in list(self._viewers):
            if viewer.ask == ask:
                viewer.put(frame)

    def join(
        self, node: str, device: str, address: str = "", ask: Ask | None = None, user: User = LOCAL
    ) -> Viewer:
        """A new viewer of a node and device; "" means any.

        Raises:
            TooManyViewers: all places are in use, or those of its address.
        """
        if len(self._viewers) >= MAX_VIEWERS:
            raise TooManyViewers(f"{MAX_VIEWERS} pages are open already: close one of them")
        address = network_of(address)
        most = MAX_FROM_PROXY if address in self._proxies else MAX_FROM_ADDRESS
        if address and sum(one.address == address for one in self._viewers) >= most:
            raise TooManyViewers(f"{address} has {most} pages open already: close one of them")
        viewer = Viewer(node, device, address, ask, user)
        self._viewers.add(viewer)
        self._recount()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer."""
        self._viewers.discard(viewer)
        self._recount()

    def _recount(self) -> None:
        # a viewer without a node gets the fleet only: the rows of all nodes would be too many
        watched = [viewer for viewer in self._viewers if viewer.node]
        self._wanted = frozenset(
            pair for viewer in watched for pair in ((viewer.node, viewer.device), (viewer.node, "_"))
        )

    def close(self) -> None:
        """Close every viewer and take no more frames."""
        with self._lock:
            self._loop = None
        for viewer in self._viewers:
            viewer.close()


def encode(event: str, data: Any) -> bytes:
    """One frame; JSON has no line breaks, so it fits in one data line."""
    return b"event: " + event.encode() + b"\ndata: " + _encoder.encode(data) + b"\n\n"
