"""Three devices of pilots on an MQTT broker: the trip computer of a car, a ward's alarm desk, a signal.

    car/1/trip         {"at": 1767225600000, "distance": 1.25, "energy": 0.21, "speed": 48.2, "outside": 12.1}
    ward/3/alarms      {"at": ..., "false_alarms": 3, "deteriorations": 1, "answered": 1}
    junction/1/counts  {"at": ..., "conflicts": 12, "vehicles": 250, "clearance": 3.0}

`at` is in milliseconds since 1970: the start of a second, whose message is sent when it is over. Counters
count from the start and include that second. The class says what a device listens to.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import msgspec

from simulators.devices.mqtt.base import MqttDevice
from simulators.devices.mqtt.publisher import Publisher
from simulators.plants.trial import PERIOD_S, Comparison, TrialPlant, TrialRun
from simulators.plants.trial_plants import EPISODE_S, SLOT_S, Crossing, EcoCar, Ward
from simulators.simulator import Value
from wire.clock import NS_PER_MS, NS_PER_S, Clock

FAULTS = {
    "silent": "nothing is published, the connection stays up",
    "broken": "the connection breaks without DISCONNECT, and comes back when the fault ends",
}
_KEPT = 100_000  # rows whose truth is known
_JUDGED = 120  # seconds


class TrialDevice(MqttDevice):
    """A device that publishes once a second what its plant has done, and lets the change act on it."""

    faults = FAULTS
    plant_faults: ClassVar[dict[str, str]] = {}
    plant: ClassVar[type[TrialPlant]]
    topic: ClassVar[str]
    listens: ClassVar[str]

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",  # noqa: ARG002 - every simulator takes one; this is a client
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[str] = (),
        broker_url: str = "",
        trial_s: float = PERIOD_S,
        effect: float = -1.0,
    ) -> None:
        made = self.plant(seed, period_s=trial_s, effect=None if effect < 0 else effect)
        super().__init__(
            made, period_ns=NS_PER_S, broker_url=broker_url, port=port, clock=clock, faults=faults
        )
        self._made = made
        self._run_of: TrialRun | None = None
        self._rows: dict[int, dict[str, float]] = {}  # turn -> what was shown

    def truth(self, at_ns: int) -> Mapping[str, Value]:
        """The row of a second, as it was published."""
        turn, rest = divmod(at_ns - self.start_ns, NS_PER_S)
        return {} if rest else {**self._rows.get(turn, {})}

    def compare(self, from_ns: int, to_ns: int) -> Comparison:
        """The counts between two times, and those that each arm would have given."""
        if self._run_of is None:
            raise ValueError("the device has not started")
        return self._run_of.compare(self._step_at(from_ns), self._step_at(to_ns))

    @abstractmethod
    def _acts(self, index: int) -> bool:
        """Whether the change acts in a step that is over."""

    @abstractmethod
    def _shown(self, totals: Mapping[str, float], index: int) -> dict[str, float]:
        """The fields of the message about step `index`, which is over."""

    @abstractmethod
    def _take(self, topic: str, body: bytes) -> None:
        """Take a message of the topic that the device listens to."""

    def _step(self, turn: int, at_s: float) -> None:
        index = self._step_at(self._due_ns(turn))
        if self._run_of is None:
            self._run_of = TrialRun(self._made, index)
            return
        shown = self._shown(self._run_of.advance(index, self._acts), index - 1)
        self._rows[turn - 1] = shown
        self._rows.pop(turn - 1 - _KEPT, None)
        if self._publisher is None or self._faults.size("silent", at_s):
            return
        body = {"at": self._due_ns(turn - 1) // NS_PER_MS, **shown}
        self._publisher.publish(self.topic, json.dumps(body).encode())
        self.written += 1

    def _step_at(self, at_ns: int) -> int:
        return self._made.step_at(at_ns, self.start_ns)

    def _new_publisher(self) -> Publisher:
        return Publisher(
            self._broker, f"{self.kind}-{id(self):x}"[:23], topic=self.listens, on_message=self._take
        )


class _SetPoint(TrialDevice):
    """The change acts while the number on the topic is that of the plan for on, or beyond it."""

    off: ClassVar[float]  # without a message
    on: ClassVar[float]
    _received: float | None = None

    @property
    def set_point(self) -> float:
        """The number in force."""
        return self.off if self._received is None else self._received

    def _acts(self, index: int) -> bool:  # noqa: ARG002 - it holds for the step that is over now
        return self.set_point >= self.on if self.on > self.off else self.set_point <= self.on

    def _take(self, topic: str, body: bytes) -> None:  # noqa: ARG002
        try:
            number = float(body)
        except ValueError:
            return
        if math.isfinite(number):
            self._received = number


class TripComputer(_SetPoint):
    """A car's trip computer; `car/1/advice` is the speed in km/h that it advises to its driver.

    Use: `async with TripComputer(broker_url="mqtt://127.0.0.1:1883") as trip: trip.url`.
    """

    kind = "trip"
    plant = EcoCar
    topic = "car/1/trip"
    listens = "car/1/advice"
    off, on = 130.0, 90.0

    def _shown(self, totals: Mapping[str, float], index: int) -> dict[str, float]:
        car = self._made
        assert isinstance(car, EcoCar)  # noqa: S101
        return {
            "distance": totals["distance"],
            "energy": totals["energy"],
            "speed": car.speed(index, self._acts(index)),
            "outside": car.outside(index),
        }


class Signal(_SetPoint):
    """The controller of a crossing's signal; `junction/1/clearance` is the clearance time in seconds.

    Use: `async with Signal(broker_url="mqtt://127.0.0.1:1883") as signal: signal.url`.
    """

    kind = "signal"
    plant = Crossing
    topic = "junction/1/counts"
    listens = "junction/1/clearance"
    off, on = 3.0, 5.0

    def _shown(self, totals: Mapping[str, float], index: int) -> dict[str, float]:  # noqa: ARG002
        return {
            "conflicts": int(totals["conflicts"]),
            "vehicles": int(totals["vehicles"]),
            "clearance": self.set_point,
        }


class _Judgement(msgspec.Struct):
    """What an event of a model says."""

    ts: int
    type: str


class AlarmDesk(TrialDevice):
    """A ward's alarm desk: it hears the monitor's alarm for each episode of its patient.

    A model that acts sends an event for each second (`events: each`). The desk holds back an alarm if the
    model judged its seconds, and found none of them wrong. Without a model, or with one in shadow, it hears
    every alarm. It has the same plant as `hl7` with `ward: true` and the same seed.
    """

    kind = "ward"
    plant = Ward
    topic = "ward/3/alarms"
    listens = "tb1/+/+/+/+/event/monitor/+"
    _judged: dict[int, bool]  # second -> whether the model found nothing wrong in it

    async def __aenter__(self) -> Self:
        self._judged = {}
        return await super().__aenter__()

    def _acts(self, index: int) -> bool:
        begin = index // SLOT_S * SLOT_S
        found = [self._judged.get(second) for second in range(begin, begin + EPISODE_S)]
        return all(calm is True for calm in found)

    def _take(self, topic: str, body: bytes) -> None:  # noqa: ARG002
        try:
            event = msgspec.json.decode(body, type=_Judgement)
        except msgspec.MsgspecError:
            return
        if event.type in ("normal", "anomaly-end", "anomaly"):
            second = self._step_at(event.ts * NS_PER_MS)
            self._judged[second] = event.type != "anomaly" and self._judged.get(second, True)
            if len(self._judged) > _JUDGED:
                del self._judged[next(iter(self._judged))]

    def _shown(self, totals: Mapping[str, float], index: int) -> dict[str, float]:  # noqa: ARG002
        return {name: int(totals[name]) for name in ("false_alarms", "deteriorations", "answered")}
