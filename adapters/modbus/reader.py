"""Reads the registers of a map from one device: its identity, one whole sample, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.base import DeviceUnreachable, ProtocolViolation, Value
from adapters.modbus.register_map import NamedMap
from adapters.modbus.session import ExceptionResponse, ModbusConnection
from adapters.modbus.values import Block, Item, blocks, value
from wire.messages import Quality

_TIME, _COUNTER = ":time", ":counter"  # no field can have these names
_TORN_TRIES = 3
_ASKED_ALONE = 130  # entries asked for one by one, to find those that the device refuses
_PASSING = (4, 5, 6)  # device failure, needs more time, busy: the next poll may succeed
_NOT_BEHIND_THE_GATEWAY = (10, 11)


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of one poll."""

    values: dict[str, Value]
    quality: Quality
    counter: int | None
    time: int | float | None
    sentinels: dict[str, int]  # fields without a value, each with the raw words that are in `invalid`

    @property
    def marker(self) -> int | float | None:
        """The value that differs from sample to sample; None where the map names none."""
        return self.time if self.counter is None else self.counter


class RegisterReader:
    """Reads the registers of a map; `url` and `unit_id` are for its errors."""

    def __init__(self, named: NamedMap, *, url: str, unit_id: int, counters: Counter[str]) -> None:
        self._named = named
        self.url = url
        self._unit_id = unit_id
        self._counters = counters
        found = named.map
        items = [Item.of(name, register, named) for name, register in found.registers.items()]
        marks = {_COUNTER: found.counter, _TIME: found.time}
        items += [Item.of(name, place, named) for name, place in marks.items() if place is not None]
        self._items = {item.name: item for item in items}
        self._marker = next((item for name in marks for item in items if item.name == name), None)
        self._blocks = blocks(items, most=found.max_registers, gap=found.gap)
        # the marker's block first: read again at the end, it shows whether all belongs to one sample
        self._blocks.sort(key=lambda block: self._marker not in block.items)

    @property
    def requests(self) -> int:
        """How many requests a poll takes."""
        together = self._marker is None or len(self._blocks) == 1
        return len(self._blocks) + (0 if together else 1)

    async def sample(self, session: ModbusConnection) -> Sample:
        """Read all registers once; again where the device took a new sample meanwhile.

        Raises:
            ExceptionResponse: the device is busy or reports a failure.
            AdapterError: it did not answer, or refuses a register of the map.
        """
        for _ in range(_TORN_TRIES):
            words: dict[str, Sequence[int]] = {}
            for block in self._blocks:
                answer = await self._ask(session, block)
                words.update({item.name: block.words(item, answer) for item in block.items})
            if self._marker is None or len(self._blocks) == 1:
                return self._judged(words, Quality.GOOD)
            if await self._number(session, self._marker) == self._marker.number(words[self._marker.name]):
                return self._judged(words, Quality.GOOD)
            self._counters["torn"] += 1
        return self._judged(words, Quality.UNCERTAIN)

    async def check_identity(self, session: ModbusConnection) -> None:
        """Check that the device is the one that the map describes.

        Raises:
            ExceptionResponse: the device is busy or reports a failure.
            AdapterError: it is another device, or does not report its identity.
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
                    f"{self.url} is another device: {place.kind} {place.register} holds {found}, and {where}"
                    f" expects {place.value}"
                )

    async def _check_objects(self, session: ModbusConnection, expected: dict[int, str], where: str) -> None:
        try:
            found = await session.identify()
        except ExceptionResponse as error:
            if error.code in _PASSING:
                raise
            raise ProtocolViolation(
                f"{self.url} does not report its identity ({error} on function 43/14), which {where} expects"
            ) from error
        wrong = {at for at, wanted in expected.items() if found.get(at) != wanted}
        if wrong:
            raise ProtocolViolation(f"{self.url} is {_names(found)}; {where} expects {_names(expected)}")

    def _judged(self, words: dict[str, Sequence[int]], quality: Quality) -> Sample:
        values: dict[str, Value] = {}
        sentinels: dict[str, int] = {}
        for name, register in self._named.map.registers.items():
            item = self._items[name]
            pattern = item.pattern(words[name]) if register.invalid else None
            values[name], found = value(register, item.number(words[name]), pattern)
            quality = quality.worse(found)
            if values[name] is None and pattern is not None:
                sentinels[name] = pattern
        marks = {name: self._items[name].number(words[name]) for name in (_COUNTER, _TIME) if name in words}
        counter = marks.get(_COUNTER)
        return Sample(values, quality, None if counter is None else int(counter), marks.get(_TIME), sentinels)

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
                raise DeviceUnreachable(f"{self.url}: unit {self._unit_id}: {error}") from error
            raise await self._refused_entries(session, block, error) from error

    async def _refused_entries(
        self, session: ModbusConnection, block: Block, refused: ExceptionResponse
    ) -> ProtocolViolation:
        """The error that names the refused entries of the map: each is asked for alone."""
        named: list[str] = []
        for item in block.items[:_ASKED_ALONE] if len(block.items) > 1 else ():
            try:
                await session.read(item.place.kind, item.address, item.place.words)
            except ExceptionResponse as error:
                named.append(self._refusal(item, error))
        if len(block.items) == 1:
            named.append(self._refusal(block.items[0], refused))
        if named:
            more = f"; and {len(named) - 5} more" if len(named) > 5 else ""
            return ProtocolViolation(f"{self.url} lacks registers of its map: {'; '.join(named[:5])}{more}")
        last = block.address + block.count - 1
        return ProtocolViolation(
            f"{self.url} refuses {block.kind} {block.address} to {last} in one request ({refused}), but none"
            " of them alone: set `max_registers` lower, or `gap` to 0"
        )

    def _refusal(self, item: Item, error: ExceptionResponse) -> str:
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
