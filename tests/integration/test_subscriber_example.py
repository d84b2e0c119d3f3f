"""docs/examples/subscriber prints what a broker passes on: each row once, of all encodings, of packs too."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import zstandard

from edgebed.broker import BrokerProcess
from edgebed.processes import Child
from tests.polling import wait_until

EXAMPLE = Path(__file__).parents[2] / "docs/examples/subscriber/rows.py"
NODE = "tb1/acme/robots/hall-a/node-1"
EP = "9f2c41d07ab3e586"


def batch(seq: int, **changes: object) -> bytes:
    fields = {"v": 1, "ep": EP, "seq": seq, "t0": 1_000, "dt": [0, 20], "f": {"speed": [1.5, None]}}
    return json.dumps(fields | changes).encode()


@pytest.fixture
def example(tmp_path: Path, broker: BrokerProcess) -> Iterator[Child]:
    command = [sys.executable, "-u", str(EXAMPLE), broker.url, "acme/robots"]
    child = Child("subscriber", command, tmp_path / "subscriber.log")
    child.start()
    yield child
    child.kill()


def test_the_example_prints_each_row_once(example: Child, publisher: mqtt.Client) -> None:
    assert example.first_line() == "subscribed"
    data = f"{NODE}/data/arm/joints"
    for topic, body in [
        (data, batch(1)),
        (data, batch(1)),  # again
        (data, gzip.compress(batch(2, dt=[0, 500], tu="us"))),
        (data, gzip.compress(bytes(50_000_000))),  # a bomb
        (data, b"[]"),
        (data, b'{"ep": 1}'),
        (f"{NODE}/pack", zstandard.compress(b'{"v":1,"m":[["data/arm/grip",%s]]}' % batch(3, n=2))),
        (f"{NODE.replace('acme', 'other')}/data/arm/joints", batch(4)),  # of another tenant
        (data, batch(5)),
    ]:
        publisher.publish(topic, body, qos=1)
    node = NODE.removeprefix("tb1/")
    wait_until(lambda: example.out.read_text().count("\n") == 9, "nine lines")
    # a broker keeps the order of a topic, but not between topics
    assert sorted(example.out.read_text().splitlines()[1:], key=lambda line: line.split()[1]) == [
        f'{node} arm/{stream} {at_ms} {{"speed": {value}}}'
        for stream, times in [
            ("grip", (1000.0, 1020.0)),
            ("joints", (1000.0, 1020.0)),
            ("joints", (1000.0, 1000.5)),
            ("joints", (1000.0, 1020.0)),
        ]
        for at_ms, value in zip(times, ("1.5", "null"), strict=True)
    ]
    assert [line.partition(": ")[2] for line in example.log.read_text().splitlines()] == [
        "not a batch (Expecting value: line 1 column 1 (char 0))",
        "not a batch (it is not an object)",
        "not a batch ('seq')",
    ]
