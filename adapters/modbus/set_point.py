"""A register or coil that may be written: its limits, its coding, and the requests."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any, TypeVar

from msgspec import Meta

from adapters.base import AdapterError, DeviceUnreachable, OptionsError
from adapters.modbus.reader import RegisterReader
from adapters.modbus.register_map import NamedMap, Register
from adapters.modbus.session import ExceptionResponse, ModbusConnection
from adapters.modbus.values import Item, raw_of, value, words_of
from adapters.set_point import SetPoint, WriteLimits

T = TypeVar("T")


class ModbusWrite(WriteLimits, frozen=True, kw_only=True):
    """The one register that a pilot may set."""

    register: Annotated[
        str, Meta(min_length=1, max_length=64, description="Its name in `registers`, or in the map.")
    ]


class ModbusSetPoint(SetPoint):
    """One holding register, or several that hold one number, or one coil."""

    def __init__(
        self, write: ModbusWrite, named: NamedMap, reader: RegisterReader, session: ModbusConnection
    ) -> None:
        super().__init__(write.register, write)
        register = named.map.registers.get(write.register)
        if register is None:
            raise OptionsError(f"write.register: the map has no register {write.register!r}")
        if register.kind not in ("holding", "coil"):
            raise OptionsError(f"write.register: {write.register} is {register.kind}, which is read only")
        if (register.coded == "bit" and not register.of_bits) or register.mask != 0xFFFF:
            raise OptionsError(f"write.register: {write.register} is a part of a register: name a whole one")
        self._register: Register = register
        self._item = Item.of(write.register, register, named)
        self._session, self._reader = session, reader
        self.target = (self._item, register, named.map.identity)
        if why := self.refusal(write.safe):
            raise OptionsError(f"write.safe: {why}")

    def refusal(self, number: float) -> str:
        """Also numbers that the register cannot hold."""
        if why := super().refusal(number):
            return why
        try:
            self._words(number)
        except ValueError as error:
            return f"register {self.name} cannot hold {number:g}: {error}"
        return ""

    def same(self, one: float, other: float | None) -> bool:
        """Whether both are the same words."""
        try:
            return other is not None and self._words(one) == self._words(other)
        except ValueError:
            return False

    async def open(self) -> None:
        """Join the line of the device, and check that it is the one of the map."""
        try:
            await self._session.open()
            await self._asked(lambda: self._reader.check_identity(self._session), "its identity")
        except BaseException:
            await self._session.close()
            raise

    async def close(self) -> None:
        """Leave the line."""
        await self._session.close()

    async def write(self, number: float) -> None:
        """Write the words of a number in one request."""
        words, item = self._words(number), self._item
        write = partial(self._session.write, item.place.kind, item.address, words)
        await self._asked(write, f"{number:g}")

    async def read(self) -> float | None:
        """The number that the words stand for."""
        item = self._item
        read = partial(self._session.read, item.place.kind, item.address, item.place.words)
        words = await self._asked(read, "a read")
        found, _ = value(self._register, item.number(words), None)
        return None if found is None or isinstance(found, str) else float(found)

    async def _asked(self, request: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
        """The answer to a request, if it came on the connection that `open` made."""
        url = self._reader.url
        try:
            self._require_same()
            answer = await self._session.alone(request())
        except ExceptionResponse as error:
            raise AdapterError(f"{url} refuses {what} in {self.name}: {error}") from error
        self._require_same()
        return answer

    def _require_same(self) -> None:
        """Raise if the connection was lost meanwhile: the device may have started again, or be another."""
        if self._session.reconnected():
            raise DeviceUnreachable(f"{self._reader.url} ended the connection, and takes a new one")

    def _words(self, number: float) -> list[int]:
        """The words of a number, or its bit. Raises ValueError if there are none."""
        register = self._register
        raw = raw_of(number, register.scale, register.offset, of_floats=register.coded in ("f32", "f64"))
        if raw in register.invalid:
            raise ValueError("it stands for no reading")
        return words_of(raw, register.coded, self._item.order)
