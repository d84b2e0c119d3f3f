"""Only numbers that judge a result can be set, to what the decoder takes."""

from __future__ import annotations

import msgspec
import pytest

from agent.inference import decoders
from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.tuning import refusal, tuned_output
from wire import shipped

MANIFESTS = {
    name: load_package(folder).manifest
    for name, folder in shipped.names().items()
    if (folder / "manifest.yaml").is_file()
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_each_number_of_a_package_that_judges_can_be_set_and_no_other(name: str) -> None:
    manifest = MANIFESTS[name]
    tunable = decoders.load(manifest.decoder).tunable
    for key, now in msgspec.structs.asdict(manifest.output).items():
        if key not in tunable or now is msgspec.UNSET:
            assert "has no number" in refusal(manifest, (key, 0.5)), key
            continue
        made = tuned_output(manifest, (key, 0.25))
        assert made == msgspec.structs.replace(manifest.output, **{key: 0.25})
        for number in (float("nan"), float("inf"), -float("inf")):
            assert "cannot be" in refusal(manifest, (key, number))
    assert "has no number" in refusal(manifest, ("__class__", 0.5))


def test_limits_of_the_options_hold() -> None:
    manifest = next(each for each in MANIFESTS.values() if each.decoder == "detection")
    assert refusal(manifest, ("score", 1.0)) == ""
    for number in (0.0, -1.0, 1.01):
        with pytest.raises(ModelError, match=r"output\.score cannot be"):
            tuned_output(manifest, ("score", number))
