"""Each decoder takes its seeds, what once failed, and some mutations; `make fuzz` runs for minutes."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from tests.fuzz.__main__ import seeds_of
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS

MUTATIONS = 300
LIMIT_S = 1.5  # of the mutations: some decoders read a file for each


@pytest.mark.parametrize("name", TARGETS)
def test_only_foreseen_errors(name: str) -> None:
    target, seeds = TARGETS[name], seeds_of(name)
    assert seeds
    until_s = time.monotonic() + LIMIT_S
    for at, data in enumerate(itertools.islice(mutated(seeds, random.Random(name)), len(seeds) + MUTATIONS)):
        if at >= len(seeds) and time.monotonic() > until_s:
            break
        try:
            target.run(data)
        except target.expected:
            continue


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_seeds(name: str) -> None:
    """A target that refuses every valid input would test nothing."""
    target, taken = TARGETS[name], 0
    for data in target.seeds():
        try:
            target.run(data)
        except target.expected:
            continue
        taken += 1
    assert taken
