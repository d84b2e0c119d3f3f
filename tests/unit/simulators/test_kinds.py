"""Every kind of `edgebed sim` is a `Simulator`."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from simulators import KINDS, load
from simulators.simulator import Simulator


async def made(kind: str) -> Any:
    device = load(kind)
    # a client of a broker has no port of its own
    own = {"broker_url": "mqtt://127.0.0.1:1"} if "broker_url" in inspect.signature(device).parameters else {}
    return device(seed=3, **own)


@pytest.mark.parametrize("kind", KINDS)
async def test_it_has_what_a_simulator_has(kind: str) -> None:
    assert isinstance(await made(kind), Simulator)
    for method in ("truth", "inject", "repair", "__aenter__", "__aexit__"):
        actual, expected = getattr(load(kind), method), getattr(Simulator, method)
        assert inspect.signature(actual).parameters.keys() == inspect.signature(expected).parameters.keys()
        assert inspect.iscoroutinefunction(actual) == inspect.iscoroutinefunction(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_its_constructor_takes_keywords_and_needs_none(kind: str) -> None:
    taken = inspect.signature(load(kind)).parameters
    assert taken.keys() >= {"seed", "host", "port", "clock", "faults"}
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in taken.values())
    assert all(parameter.default is not parameter.empty for parameter in taken.values())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_fault_that_it_cannot_have_is_refused_with_those_that_it_can(kind: str) -> None:
    device = await made(kind)
    with pytest.raises(ValueError, match=r"fault 'dragon' is not one of \w+"):
        device.inject("dragon")
    device.repair()
