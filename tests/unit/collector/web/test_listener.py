"""A listening socket that bounds how many connections are open."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing

import pytest

from collector.web import listener as module
from collector.web.listener import BoundedListener


@pytest.mark.parametrize(("total", "share", "taken"), [(5, 100, 5), (100, 3, 3)])
def test_more_connections_are_closed_until_one_ends(
    monkeypatch: pytest.MonkeyPatch, total: int, share: int, taken: int
) -> None:
    monkeypatch.setattr(module, "MOST_SOCKETS", total)
    monkeypatch.setattr(module, "LEAVING", 0)
    with ExitStack() as stack:
        made = BoundedListener(socket.AF_INET, socket.SOCK_STREAM, 0, share=share, proxies=["192.0.2.1"])
        listener = stack.enter_context(closing(made))
        listener.bind(("127.0.0.1", 0))
        listener.listen(20)
        peers = [
            stack.enter_context(closing(socket.create_connection(listener.getsockname(), timeout=20)))
            for _ in range(taken + 2)
        ]
        accepted = [stack.enter_context(closing(listener.accept()[0])) for _ in range(taken)]
        with pytest.raises(ConnectionAbortedError):
            listener.accept()
        assert peers[taken].recv(1) == b"", "it was closed"
        accepted[0].close()
        accepted[0].close()
        stack.enter_context(closing(listener.accept()[0])).sendall(b"x")
        assert peers[taken + 1].recv(1) == b"x"
