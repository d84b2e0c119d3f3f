"""The answers of a worker are checked like those of an unknown client."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from agent.inference.decoders import ModelError, Result, Tensor
from agent.inference.decoders.embedding import Embedding, EmbeddingOptions
from agent.inference.isolation import worker_wire
from agent.inference.isolation.worker_wire import Answer, Opened
from wire.messages import Box, Field

FIELDS = {"n": Field(t="i64"), "ratio": Field(t="f32"), "alarm": Field(t="bool"), "label": Field(t="str")}
BOX = Box(label="car", cls=2, score=0.5, box=(0.1, 0.2, 0.3, 0.4))


def read(**changes: Any) -> Answer:
    """The answer to job 3 with a result that is right except for `changes`."""
    result = Result(**{"values": {"n": 1, "ratio": None, "alarm": True, "label": "car"}, **changes})
    return worker_wire.answer(worker_wire.packet(Answer(3, result=result)), 3, FIELDS)


def test_a_result_comes_as_the_decoder_gave_it() -> None:
    found = read(boxes=[BOX], top="car", score=0.5, alarm=True, infer_ms=1.5).result
    values = {"n": 1, "ratio": None, "alarm": True, "label": "car"}
    assert found == Result(values, [BOX], "car", 0.5, alarm=True, infer_ms=1.5)
    outlined = msgspec.structs.replace(BOX, area=0.1, points=[(0.1, 0.2, 0.9)], polygon=[(0.1, 0.2)] * 64)
    assert read(boxes=[outlined]).result == Result(values, [outlined])
    assert read(values={"n": np.int64(3), "ratio": np.float32(0.5)}).result == Result({"n": 3, "ratio": 0.5})


@pytest.mark.parametrize(
    "changes",
    [
        {"values": {"other": 1}},
        {"values": {"n": "text"}},
        {"values": {"n": True}},
        {"values": {"alarm": 1}},
        {"values": {"label": 3.0}},
        {"values": {"label": "x" * 600}},
        {"boxes": [BOX] * 1_001},
        {"boxes": [msgspec.structs.replace(BOX, score=float("nan"))]},
        {"boxes": [msgspec.structs.replace(BOX, box=(0.0, 0.0, float("inf"), 1.0))]},
        {"boxes": [msgspec.structs.replace(BOX, label="x" * 200)]},
        {"boxes": [msgspec.structs.replace(BOX, cls=2**40)]},
        {"boxes": [msgspec.structs.replace(BOX, area=float("nan"))]},
        {"boxes": [msgspec.structs.replace(BOX, points=[(0.1, float("inf"), 1.0)])]},
        {"boxes": [msgspec.structs.replace(BOX, polygon=[(0.1, float("nan"))])]},
        {"boxes": [msgspec.structs.replace(BOX, polygon=[(0.1, 0.1)] * 65)]},
        {"top": "x" * 600},
        {"score": float("nan")},
        {"infer_ms": float("inf")},
    ],
)
def test_a_result_beyond_what_was_declared_is_not_one(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError)):
        read(**changes)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x91" * 10_000,  # nested without end
        b"\xdd\xff\xff\xff\xff",  # a list of four billion
        worker_wire.packet(Answer(4, why="for another job")),
        worker_wire.packet(Answer(3)),
        worker_wire.packet(Answer(3, why="x" * 5_000)),
        worker_wire.packet(Opened()),
        msgspec.msgpack.encode(["answer", 3, "", {"values": {"n": 2**63}}]),
    ],
)
def test_garbage_and_answers_to_other_jobs_are_not_answers(body: bytes) -> None:
    with pytest.raises((ValueError, msgspec.MsgspecError, RecursionError)):
        worker_wire.answer(body, 3, FIELDS)


def test_what_a_worker_declares_has_limits() -> None:
    cpu = "CPUExecutionProvider"
    assert worker_wire.opened(worker_wire.packet(Opened(provider=cpu, fields=FIELDS)), cpu).fields == FIELDS
    for wrong in (
        Opened(provider="CUDAExecutionProvider"),
        Opened(provider=cpu, fields={"no such name": Field()}),
        Opened(provider=cpu, fields={f"f{number}": Field() for number in range(2_001)}),
    ):
        with pytest.raises((ValueError, msgspec.ValidationError)):
            worker_wire.opened(worker_wire.packet(wrong), cpu)


def test_a_result_that_fits_no_packet_is_a_failed_run() -> None:
    with pytest.raises(ModelError, match="its result takes"):
        worker_wire.packet(Answer(1, result=Result({"label": "x" * 200_000})))


def test_the_largest_vector_of_an_embedding_comes_through() -> None:
    decoder = Embedding(EmbeddingOptions(size=512, dec=12), [Tensor("y", "float32", (1, 512))], None)
    result = decoder.decode([np.full((1, 512), -1.2345678e37, np.float32)], None)
    body = worker_wire.packet(Answer(3, result=result))
    assert worker_wire.answer(body, 3, decoder.fields()).result == result
    result.values["vector"] = "x" * 20_000
    with pytest.raises(ValueError, match="has not declared"):
        worker_wire.answer(worker_wire.packet(Answer(3, result=result)), 3, decoder.fields())
