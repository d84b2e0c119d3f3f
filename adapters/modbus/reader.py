"""The registers of one device as its map names them: who it is, one whole sample, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.base import DeviceUnreachable, ProtocolViolation, Value
from adapters.modbus.register_map import NamedMap
from adapters.modbus.session import ExceptionResponse, ModbusConnection
from adapters.modbus.values import Block, Item, blocks, value
from wire.messages import Quality

_TIME, _COUNTER = ":time", ":counter"  # no field can be called so
_TORN_TRIES = 3
_BLAMED = 130  # entries asked for alone, to find those the device refuses
_PASSING = (4, 5, 6)  # device failure, needs more time, busy: it may be well at the next poll
_NOT_BEHIND_THE_GATEWAY = (10, 11)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one poll found."""

    values: dict[str, Value]
    quality: Quality
    counter: int | None
    time: int | float | None

    @property
    def marker(self) -> int | float | None:
        """What differs from sample to sample; None where the device does not say."""
        return self.time if self.counter is None else self.counter


class RegisterReader:
    """Reads what the map names; `url` and `unit_id` are for what it has to say."""

    def __init__(self, named: NamedMap, *, url: str, unit_id: int, counters: Counter[str]) -> None:
        self._named = named
        self._url = url
        self._unit_id = unit_id
        self._counters = counters
        found = named.map
        items = [Item.of(name, register, named) for name, register in found.registers.items()]
        marks = {_COUNTER: found.counter, _TIME: found.time}
        items += [Item.of(name, place, named) for name, place in marks.items() if place is not None]
        self._marker = next((item for name in marks for item in items if item.name == name), None)
        self._blocks = blocks(items, most=found.max_registers, gap=found.gap)
        # the marker's block first: read again at the end, it says whether all belongs to one sample
        self._blocks.sort(key=lambda block: self._marker not in block.items)

    @property
    def requests(self) -> int:
        """How many requests a poll takes."""
        together = self._marker is None or len(self._blocks) == 1
        return len(self._blocks) + (0 if together else 1)

    async def sample(self, session: ModbusConnection) -> Sample:
        """All registers once; again where the device took a new sample meanwhile.

        Raises:
            ExceptionResponse: the device is busy or says that it is broken.
            AdapterError: it did not answer, or refuses what the map says it has.
        """
        for _ in range(_TORN_TRIES):
            raw: dict[str, int | float] = {}
            for block in self._blocks:
                answer = await self._ask(session, block)
                raw.update({item.name: item.number(block.words(item, answer)) for item in block.items})
            if self._marker is None or len(self._blocks) == 1:
                return self._judged(raw, Quality.GOOD)
            if await self._number(session, self._marker) == raw[self._marker.name]:
                return self._judged(raw, Quality.GOOD)
            self._counters["torn"] += 1
        return self._judged(raw, Quality.UNCERTAIN)

    async def check_identity(self, session: ModbusConnection) -> None:
        """See that the device is the one the map is for.

        Raises:
            ExceptionResponse: the device is busy or says that it is broken.
            AdapterError: it is another one, or does not say.
        """
        expected = self._named.map.identity
        if expected is None:
            return
        where = self._named.where(":identity")
        if expected.objects:
            await self._check_objects(session, expected.objects, where)
        for place in expected.registers:
            item = Item.of(":identity", place, self._named)
            found = await self._number(session, item)
            if found != place.value:
                raise ProtocolViolation(
                    f"{self._url} is another device: {place.kind} {place.register} holds {found}, and {where}"
                    f" expects {place.value}"
                )

    async def _check_objects(self, session: ModbusConnection, expected: dict[int, str], where: str) -> None:
        try:
            found = await session.identify()
        except ExceptionResponse as error:
            if error.code in _PASSING:
                raise
            raise ProtocolViolation(
                f"{self._url} does not say who it is ({error} on function 43/14), and {where} expects it to"
            ) from error
        wrong = {at for at, wanted in expected.items() if found.get(at) != wanted}
        if wrong:
            raise ProtocolViolation(f"{self._url} is {_names(found)}; {where} expects {_names(expected)}")

    def _judged(self, raw: dict[str, int | float], quality: Quality) -> Sample:
        values: dict[str, Value] = {}
        for name, register in self._named.map.registers.items():
            values[name], said = value(register, raw[name])
            quality = quality.worse(said)
        counter = raw.get(_COUNTER)
        return Sample(values, quality, None if counter is None else int(counter), raw.get(_TIME))

    async def _number(self, session: ModbusConnection, item: Item) -> int | float:
        block = Block(item.place.kind, item.address, item.place.words, (item,))
        return item.number(await self._ask(session, block))

    async def _ask(self, session: ModbusConnection, block: Block) -> Sequence[int]:
        try:
            return await session.read(block.kind, block.address, block.count)
        except ExceptionResponse as error:
            if error.code in _PASSING:
                raise
            if error.code in _NOT_BEHIND_THE_GATEWAY:
                raise DeviceUnreachable(f"{self._url}: unit {self._unit_id}: {error}") from error
            raise await self._blame(session, block, error) from error

    async def _blame(
        self, session: ModbusConnection, block: Block, refused: ExceptionResponse
    ) -> ProtocolViolation:
        """Which entries of the map the device refuses, each asked for alone."""
        told: list[str] = []
        for item in block.items[:_BLAMED] if len(block.items) > 1 else ():
            try:
                await session.read(item.place.kind, item.address, item.place.words)
            except ExceptionResponse as error:
                told.append(self._said(item, error))
        if len(block.items) == 1:
            told.append(self._said(block.items[0], refused))
        if told:
            more = f"; and {len(told) - 5} more" if len(told) > 5 else ""
            return ProtocolViolation(
                f"{self._url} does not have what its map says: {'; '.join(told[:5])}{more}"
            )
        last = block.address + block.count - 1
        return ProtocolViolation(
            f"{self._url} refuses {block.kind} {block.address} to {last} in one request ({refused}), and none"
            " of them alone: set `max_registers` lower, or `gap` to 0"
        )

    def _said(self, item: Item, error: ExceptionResponse) -> str:
        number = item.place.register
        name, where = item.name.lstrip(":"), self._named.where(item.name)
        hint = ""
        if 30_001 <= number <= 49_999:
            hint = f"; a manual's {number} means register {number % 10_000} with `base: 1`"
        return f"{name} ({item.place.kind} {number}, {where}): {error}{hint}"


def _names(objects: dict[int, str]) -> str:
    named = [
        f"{name} {objects[at]!r}"
        for at, name in enumerate(("vendor", "product", "revision"))
        if at in objects
    ]
    return ", ".join(named) or "without a name"
