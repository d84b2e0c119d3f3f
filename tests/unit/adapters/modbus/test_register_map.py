"""Register maps: mistakes with their line, few requests, numbers in any byte order."""

from __future__ import annotations

import math
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import OptionsError
from adapters.modbus.register_map import MAX_BITS, NamedMap, Register, RegisterMap, read_map
from adapters.modbus.values import Item, blocks, number, value
from wire.messages import Quality

MAPS = sorted((Path(__file__).parents[4] / "configs/maps").glob("*-modbus.yaml"))


@pytest.mark.parametrize("path", MAPS, ids=lambda path: path.stem)
def test_every_map_of_configs_is_valid(path: Path) -> None:
    named = read_map(path)
    assert named.map.registers
    assert named.map.source
    for name in named.map.registers:
        where = named.where(name)
        line = int(where.split(":")[1])
        assert path.read_text().split("\n")[line - 1].strip().startswith((f"{name}:", "{register")), where


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("registers: {a: {register: 70000}}", "1:27: registers.a.register: expected a whole number <= 65536"),
        ("registers: {a: {kind: holding}}", "1:16: registers.a.register: is missing"),
        ("registers: {a: {register: 1, kind: hold}}", "1:36: registers.a.kind: 'hold' is not one of"),
        ("registers: {a: {register: 1, type: u8}}", "1:36: registers.a.type: 'u8' is not one of"),
        (
            "registers:\n  a:\n    register: 1\n    scal: 2",
            "4:5: registers.a.scal: unknown key; did you mean",
        ),
        ("registers: {a: {register: 1, kind: coil, type: u16}}", "1:16: registers.a: a coil is one bit"),
        ("registers: {a: {register: 1, type: bit}}", "1:16: registers.a: `type: bit` needs `bit`"),
        ("registers: {a: {register: 1, bit: 3}}", "1:16: registers.a: `bit` goes with"),
        ("registers: {a: {register: 1, type: u32, mask: 3}}", "1:16: registers.a: `mask` goes with"),
        ("registers: {a: {register: 1, min: 3, max: 2}}", "1:16: registers.a: min 3 is above max 2"),
        (
            "registers: {a: {register: 1, scale: .nan}}",
            "1:37: registers.a.scale: .nan is not a finite number",
        ),
        ("registers: {Air: {register: 1}}", "1:18: registers.Air: 'Air' is not a field name"),
        ("base: 1\nregisters: {a: {register: 0}}", "2:16: registers.a: holding 0 of 1 lies outside"),
        (
            "registers: {a: {register: 65533, type: f64}}",
            "1:16: registers.a: holding 65533 of 4 lies outside",
        ),
        (
            "max_registers: 1\nregisters: {a: {register: 1, type: f32}}",
            "2:16: registers.a: takes 2 registers",
        ),
        ("registers: {}", "1:12: registers: is empty"),
        ("title: none", "1:1: registers: is empty"),
        (
            "registers: {a: {register: 1}}\ncounter: {register: 1, type: f32}",
            "2:10: counter: a sample counter",
        ),
        ("registers: {a: {register: 1}}\ntime: {register: 1}", "2:7: time: a time since 1970"),
        (
            "registers: {a: {register: 1}}\nidentity: {registers: [{register: 1, type: f32, value: 1}]}",
            "2:24: identity.registers.0: an expected value is a whole number",
        ),
        (
            "registers: {a: {register: 1}}\nidentity: {registers: [{register: 1}]}",
            "2:24: identity.registers.0",
        ),
        ("- 1", "1:1: expected keys and values, got a list"),
        ("", "1:1: the file is empty"),
    ],
)
def test_mistakes_have_a_line_and_a_column(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(OptionsError) as caught:
        read_map(path)
    assert f"{path}:{said}" in str(caught.value)


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("registers:\n" + "".join(f"  a{at}: {{register: -1}}\n" for at in range(20)))
    with pytest.raises(OptionsError) as caught:
        read_map(path)
    assert str(caught.value).count("registers.a") == 20


# --- numbers


@pytest.mark.parametrize(
    ("order", "sent"),
    [("abcd", "41AC0000"), ("cdab", "000041AC"), ("badc", "AC410000"), ("dcba", "0000AC41")],
)
def test_four_orders_of_four_bytes(order: str, sent: str) -> None:
    words = struct.unpack(">2H", bytes.fromhex(sent))
    assert number(words, "f32", order) == 21.5


@given(st.binary(min_size=8, max_size=8), st.sampled_from(["u64", "s64", "f64"]))
def test_eight_bytes_follow_the_same_rule(raw: bytes, coded: str) -> None:
    plain = number(struct.unpack(">4H", raw), coded, "abcd")
    words = [raw[at : at + 2] for at in (0, 2, 4, 6)]
    sent = {
        "cdab": b"".join(reversed(words)),
        "badc": b"".join(word[::-1] for word in words),
        "dcba": raw[::-1],
    }
    for order, layout in sent.items():
        found = number(struct.unpack(">4H", layout), coded, order)
        assert found == plain or (math.isnan(found) and math.isnan(plain))


def test_a_single_register_is_never_swapped() -> None:
    assert {number([0x0102], "u16", order) for order in ("abcd", "cdab", "badc", "dcba")} == {0x0102}


@pytest.mark.parametrize(
    ("register", "raw", "expected"),
    [
        (Register(register=0, scale=0.01), 1234, (12.34, Quality.GOOD)),
        (Register(register=0, scale=0.1, offset=-40), 655, (25.5, Quality.GOOD)),
        (Register(register=0, scale=2.5), 3, (7.5, Quality.GOOD)),
        (Register(register=0, scale=-0.1), 15, (-1.5, Quality.GOOD)),
        (Register(register=0, type="s16", invalid=[-32_768, 32_767]), -32_768, (None, Quality.BAD)),
        (Register(register=0, mask=0x00F0), 0xABCD, (0xC, Quality.GOOD)),
        (Register(register=0, type="bit", bit=15), 0x8000, (True, Quality.GOOD)),
        (Register(register=0, type="bit", bit=14), 0x8000, (False, Quality.GOOD)),
        (Register(register=0, kind="coil"), 1, (True, Quality.GOOD)),
        (Register(register=0, type="f32", invalid=[-9999.0]), -9999.0, (None, Quality.BAD)),
    ],
)
def test_values(register: Register, raw: Any, expected: Any) -> None:
    assert value(register, raw) == expected


@pytest.mark.parametrize(
    ("coded", "order", "words", "invalid"),
    [
        ("s16", "abcd", [0x8000], 0x8000),  # as a manual prints it
        ("s16", "abcd", [0x8000], -32_768),  # as the number
        ("s16", "abcd", [0xFFFF], 0xFFFF),
        ("u16", "abcd", [0xFFFF], 0xFFFF),
        ("s32", "abcd", [0x8000, 0], 0x80000000),
        ("s32", "cdab", [0, 0x8000], 0x80000000),
        ("s32", "dcba", [0, 0x0080], 0x80000000),
        ("s32", "abcd", [0x8000, 0], -(2**31)),
        ("u32", "badc", [0xFFFF, 0xFEFF], 0xFFFFFFFE),
        ("s64", "abcd", [0x8000, 0, 0, 0], 2**63),
        ("u64", "abcd", [0xFFFF] * 4, 2**64 - 1),
        ("f32", "abcd", [0x7FC0, 0], 0x7FC00000),  # NaN, by its words
        ("f32", "abcd", [0xFFFF, 0xFFFF], 0xFFFFFFFF),
        ("f32", "cdab", [0x4000, 0xC61C], -10_000.0),
        ("f32", "abcd", [0x7FC0, 0], math.nan),
        ("f64", "abcd", [0xFFF0, 0, 0, 0], 0xFFF0000000000000),
    ],
)
def test_a_sentinel_is_compared_with_the_raw_words(
    coded: Any, order: Any, words: list[int], invalid: int | float
) -> None:
    register = Register(register=0, type=coded, order=order, scale=0.1, offset=5, invalid=[invalid])
    item = Item.of("a", register, NamedMap(map=RegisterMap(), places={}))
    assert value(register, item.number(words), item.pattern(words)) == (None, Quality.BAD)
    other = [word ^ 0x4000 for word in words]
    assert value(register, item.number(other), item.pattern(other))[1] is Quality.GOOD


def test_a_sentinel_of_masked_bits() -> None:
    register = Register(register=0, mask=0x00FF, invalid=[0xFF])
    assert value(register, 0x12FF, 0x12FF) == (None, Quality.BAD)
    assert value(register, 0xFF12, 0xFF12) == (0x12, Quality.GOOD)


@pytest.mark.parametrize(
    ("register", "declared"),
    [
        (Register(register=0), "i64"),
        (Register(register=0, scale=0.1), "f64"),
        (Register(register=0, type="f32"), "f32"),
        (Register(register=0, type="f32", scale=2), "f64"),
        (Register(register=0, type="f64"), "f64"),
        (Register(register=0, kind="discrete"), "bool"),
        (Register(register=0, type="bit", bit=1), "bool"),
    ],
)
def test_declared_types_of_fields(register: Register, declared: str) -> None:
    assert register.field.t == declared


# --- requests

PLACES = st.builds(
    Register,
    register=st.integers(0, 60_000) | st.integers(0, 300),
    kind=st.just("holding"),
    type=st.sampled_from(["u16", "f32", "u64"]),
) | st.builds(Register, register=st.integers(0, 4_000), kind=st.sampled_from(["coil", "discrete"]))


@given(st.lists(PLACES, min_size=1, max_size=60), st.integers(4, 125), st.integers(0, 124))
def test_requests_cover_everything_within_the_limits(places: list[Register], most: int, gap: int) -> None:
    named = NamedMap(map=RegisterMap(), places={})
    items = [Item.of(f"f{at}", place, named) for at, place in enumerate(places)]
    made = blocks(items, most=most, gap=gap)
    assert sorted(item.name for block in made for item in block.items) == sorted(item.name for item in items)
    for block in made:
        of_bits = block.kind in ("coil", "discrete")
        assert 1 <= block.count <= (MAX_BITS if of_bits else most)
        touched = set()
        for item in block.items:
            assert block.address <= item.address
            assert item.end <= block.address + block.count
            assert len(block.words(item, range(block.count))) == item.place.words
            touched |= set(range(item.address, item.end))
        holes = [b - a - 1 for a, b in pairwise(sorted(touched))]
        assert max(holes, default=0) <= gap  # only small gaps of unused registers are read
    for one, next_one in pairwise(made):
        if one.kind == next_one.kind:  # two blocks that fit one request are merged
            end = max(item.end for item in (*one.items, next_one.items[0]))
            limit = MAX_BITS if one.kind in ("coil", "discrete") else most
            assert next_one.address > one.address + one.count + gap or end - one.address > limit


def test_neighbours_are_one_request() -> None:
    named = NamedMap(map=RegisterMap(), places={})
    items = [Item.of(f"f{at}", Register(register=at), named) for at in range(300)]
    assert [(block.address, block.count) for block in blocks(items, most=125, gap=0)] == [
        (0, 125),
        (125, 125),
        (250, 50),
    ]


@pytest.mark.parametrize(
    ("registers", "most", "gap", "requests"),
    [
        # a short entry inside a long one does not shorten the request
        ([(0, "u64"), (1, "u16"), (4, "u16")], 125, 0, [(0, 5)]),
        ([(0, "u64"), (1, "u16"), (6, "u16")], 125, 2, [(0, 7)]),
        ([(0, "u64"), (1, "u16"), (6, "u16")], 125, 1, [(0, 4), (6, 1)]),
        # entries that overlap stay below the limit too
        ([(0, "u64"), (3, "f32")], 5, 0, [(0, 5)]),
        ([(0, "u64"), (3, "f32")], 4, 0, [(0, 4), (3, 2)]),
        ([(0, "u64"), (2, "u64"), (4, "u64")], 6, 0, [(0, 6), (4, 4)]),
        ([(0, "f32"), (0, "u64"), (1, "u64")], 4, 0, [(0, 4), (1, 4)]),
    ],
)
def test_entries_that_overlap_share_a_request_within_the_limit(
    registers: list[tuple[int, Any]], most: int, gap: int, requests: list[tuple[int, int]]
) -> None:
    named = NamedMap(map=RegisterMap(), places={})
    items = [
        Item.of(f"f{at}", Register(register=register, type=coded), named)
        for at, (register, coded) in enumerate(registers)
    ]
    made = blocks(items, most=most, gap=gap)
    assert [(block.address, block.count) for block in made] == requests
