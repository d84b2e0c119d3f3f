"""The contract suite of decoders, a pytest class: inherit it, give it outputs and examples, run pytest.

    class TestHottest(DecoderContract):
        decoder = Hottest
        good_options = {"names": ["left", "right"]}
        bad_options = [({"names": []}, "names")]
        outputs = [Tensor("heat", "float32", (1, 2))]
        bad_outputs = [([Tensor("heat", "float32", (1, 3))], "2 names")]
        examples = [([np.array([[20.0, 31.0]], np.float32)], {"part": "right", "heat": 31.0})]

The suite needs pytest; the daemon does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.inference import decoders
from agent.inference.decoders.base import Decoder, ModelError, Outputs, Placement, Result, Tensor
from agent.inference.inputs import Input
from wire.messages import Field, Scalar
from wire.topics import FIELD

__all__ = ["DecoderContract"]

_TYPES: dict[str, tuple[type, ...]] = {
    "f32": (float, int),
    "f64": (float, int),
    "i64": (int,),
    "bool": (bool,),
    "str": (str,),
    "json": (str,),
}
_RESERVED = {"infer_ms", "frame"}  # fields that the agent adds to each row
_HOSTILE = (0.0, -1.0, 1e38, -1e38, math.inf, -math.inf, math.nan)
_UNKNOWN = 7  # what stands for a dimension that is known only at run time; a first one is a batch of 1
_THREADS, _ROUNDS = 4, 50


class DecoderContract:
    """Tests of what the agent relies on. Subclasses set the class attributes."""

    decoder: ClassVar[type[Decoder]]
    word: ClassVar[str] = ""  # its entry point, if its package is installed
    good_options: ClassVar[Mapping[str, Any]]  # as in a manifest
    bad_options: ClassVar[Sequence[tuple[Mapping[str, Any], str]]]  # and a part of the error's text
    outputs: ClassVar[Sequence[Tensor]]  # of a model that fits `good_options`
    bad_outputs: ClassVar[Sequence[tuple[Sequence[Tensor], str]]]  # and a part of the error's text
    size: ClassVar[tuple[int, int] | None] = None  # width and height of a frame model
    spec: ClassVar[Input | None] = None  # the manifest's input, for a decoder that overrides `attach`
    placement: ClassVar[Placement | None] = None  # where the picture is in a frame model's input
    examples: ClassVar[Sequence[tuple[Sequence[NDArray[Any]], Mapping[str, Scalar]]]]  # outputs, and the row

    def test_its_entry_point_names_it(self) -> None:
        if self.word:
            assert decoders.load(self.word) is self.decoder

    def test_wrong_options_are_refused(self) -> None:
        unknown = {**self.good_options, "no_such_option": 1}
        for raw, part in [*self.bad_options, (unknown, "no_such_option")]:
            with pytest.raises((msgspec.ValidationError, ModelError)) as caught:
                self._made(raw)
            assert part in str(caught.value), f"{raw} should be refused with {part!r}: {caught.value}"

    def test_outputs_that_do_not_fit_are_refused(self) -> None:
        for tensors, part in self.bad_outputs:
            with pytest.raises(ModelError) as caught:
                self._made(self.good_options, tensors)
            assert part in str(caught.value), f"{tensors} should be refused with {part!r}: {caught.value}"

    def test_its_fields_can_be_sent(self) -> None:
        fields = self._made().fields()
        for name, field in fields.items():
            assert FIELD.fullmatch(name), f"field {name!r} is not [a-z][a-z0-9_]*, 48 characters at most"
            assert name not in _RESERVED, f"the agent itself adds a field {name!r}"
            assert isinstance(field, Field)

    def test_the_examples_give_their_rows(self) -> None:
        assert self.examples, "at least one example is needed"
        decoder = self._made()
        for outputs, row in self.examples:
            assert decoder.doubt(outputs) == "", "it doubts the outputs of an example"
            result = self._decoded(decoder, outputs)
            assert dict(result.values) == pytest.approx(dict(row), nan_ok=False, abs=1e-5)

    def test_any_numbers_give_a_row_or_a_model_error(self) -> None:
        decoder = self._made()
        for outputs in self._hostile():
            assert isinstance(decoder.doubt(outputs), str)
            self._decoded(decoder, outputs)

    def test_other_shapes_give_a_row_or_a_model_error(self) -> None:
        decoder = self._made()
        for shape in ((), (0,), (1,), (1, 0), (2, 3), (1, 1, 1), (1, 2, 3, 4)):
            outputs = [np.zeros(shape, output.dtype) for output in self.outputs]
            assert isinstance(decoder.doubt(outputs), str)
            self._decoded(decoder, outputs, may_fail=True)

    def test_several_threads_get_their_own_results(self) -> None:
        """One decoder serves every stream of a model."""
        decoder = self._made()
        cases = [(outputs, self._decoded(decoder, outputs).values) for outputs, _ in self.examples]
        cases += [(outputs, self._decoded(decoder, outputs).values) for outputs in self._hostile()]

        def work(begin: int) -> None:
            for step in range(_ROUNDS):
                outputs, row = cases[(begin + step) % len(cases)]
                assert decoder.decode(outputs, self.placement).values == row

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(work, range(_THREADS)))

    # --- helpers

    def _made(self, raw: Mapping[str, Any] | None = None, outputs: Sequence[Tensor] | None = None) -> Decoder:
        options = msgspec.convert(dict(self.good_options if raw is None else raw), self.decoder.Options)
        decoder = self.decoder(options, self.outputs if outputs is None else outputs, self.size)
        if self.spec is not None:
            decoder.attach(self.spec)
        return decoder

    def _hostile(self) -> Iterator[list[NDArray[Any]]]:
        """Outputs of the declared shapes with numbers that no good model gives."""
        rng = np.random.default_rng(1)
        shapes = [
            [dim if dim >= 0 else _UNKNOWN if at else 1 for at, dim in enumerate(output.shape)]
            for output in self.outputs
        ]
        types = [np.dtype(output.dtype) for output in self.outputs]
        with np.errstate(all="ignore"):
            for value in _HOSTILE:
                yield [np.full(s, value).astype(t) for s, t in zip(shapes, types, strict=True)]
            for scale in (1.0, 1e3, 1e30):
                yield [rng.normal(0, scale, s).astype(t) for s, t in zip(shapes, types, strict=True)]
            yield [rng.choice(_HOSTILE, s).astype(t) for s, t in zip(shapes, types, strict=True)]

    def _decoded(self, decoder: Decoder, outputs: Outputs, *, may_fail: bool = False) -> Result:
        """The result, which the declared fields allow; the outputs stay as they were."""
        before = [output.copy() for output in outputs]
        try:
            result = decoder.decode(outputs, self.placement)
        except ModelError as error:
            if not may_fail:
                raise AssertionError(f"outputs of the declared shapes are refused: {error}") from error
            return Result({})
        for was, now in zip(before, outputs, strict=True):
            assert np.array_equal(was, now, equal_nan=was.dtype.kind == "f"), "decode changed an output"
        _check_row(result, decoder.fields())
        return result


def _check_row(result: Result, fields: Mapping[str, Field]) -> None:
    assert result.values.keys() == fields.keys(), "the row has other fields than those that are declared"
    for name, value in result.values.items():
        kinds = _TYPES[fields[name].t]
        fits = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
        assert value is None or fits, f"{name} is {value!r}, not {fields[name].t}"
        assert not isinstance(value, float) or math.isfinite(value), f"{name} is {value!r}: give None"
    assert result.alarm in (True, False)
    assert result.score is None or math.isfinite(result.score), f"the score is {result.score!r}: give None"
    for box in result.boxes:
        x, y, width, height = box.box
        assert min(x, y) >= 0, f"{box} is outside of the frame"
        assert max(x + width, y + height) <= 1.001, f"{box} is outside of the frame"
        assert min(width, height) > 0, f"{box} has no area"
