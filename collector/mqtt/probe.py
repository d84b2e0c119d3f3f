"""Messages from the collector to itself, one through each subscription that the ledger depends on."""

from __future__ import annotations

from wire.topics import ROOT

SYSTEM = f"{ROOT}/_sys/"
TAILS = {"data": "data/_/probe", "event": "event/_/probe", "status": "status"}
CLASSES = tuple(TAILS)


class Probe:
    """Distinguishes a dead subscription from silent nodes. Times are of any steady clock.

    A probe has the form of a node's topic below `tb1/_sys/`, so it comes back through the filter that data,
    events or statuses use; some brokers have a queue for each. A broker may hold thousands of messages before
    it: while any message of that class arrives, the probe is not late. When one class's probe came back and
    neither the probe nor a message of another class arrives, that other filter is dead.
    """

    def __init__(self, name: str, by: str = "", first: int = 0) -> None:
        self._by = by
        self.topics = {cls: f"{SYSTEM}{name}/probe/_/{tail}" for cls, tail in TAILS.items()}
        self._classes = {topic: cls for cls, topic in self.topics.items()}
        self._sent = first  # numbers begin behind it: an old probe is not taken for a new one
        self._back = dict.fromkeys(CLASSES, first)
        self._behind_s: dict[str, float] = {}  # class -> since when only other classes arrive

    def next(self) -> list[tuple[str, bytes]]:
        """Topic and body of the probes to publish now."""
        self._sent += 1
        return [(topic, self._body(self._sent)) for topic in self.topics.values()]

    def _body(self, number: int) -> bytes:
        return b'{"probe":%d,"by":"%s"}' % (number, self._by.encode())

    @property
    def number(self) -> int:
        """The number of the last probe."""
        return self._sent

    def came(self, topic: str, body: bytes, now_s: float) -> int:
        """Note a message below `tb1/_sys/`; those of other collectors are ignored.

        Returns the number of a probe that came the way of the data, else 0.
        """
        cls, number = self._classes.get(topic), body[9:].split(b",", 1)[0].removesuffix(b"}")
        if cls is None or not number.isdigit() or len(number) > 18:
            return 0
        self._back[cls] = max(self._back[cls], min(int(number), self._sent))
        self._behind_s.pop(cls, None)
        for other, back in self._back.items():
            if back < self._back[cls]:
                self._behind_s.setdefault(other, now_s)
        # only a probe of this process and connection shows how long it waited
        is_own = cls == "data" and body == self._body(int(number)) and int(number) <= self._sent
        return int(number) if is_own else 0

    def flows(self, topic: str) -> None:
        """Note a node's message."""
        if self._behind_s:
            self._behind_s.pop(topic.split("/", 6)[5] if topic.count("/") > 4 else "", None)

    def excuse(self) -> None:
        """Forget lateness: the broker was kept from sending."""
        self._behind_s.clear()

    def dead(self, now_s: float, after_s: float) -> str:
        """The class whose messages stopped, "" for none."""
        return next((cls for cls, since_s in self._behind_s.items() if now_s - since_s > after_s), "")
