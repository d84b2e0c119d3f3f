"""Every shipped package is signed by the project's key."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.inference.decoders import ModelError
from agent.inference.signing import signature
from agent.inference.signing.trust import Trust, public_key
from wire import shipped

KEY = shipped.names()["edgebed.pem"]
PACKAGES = sorted(path.parent for path in shipped.folder("models").glob("*/manifest.yaml"))


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_a_shipped_package_is_signed_by_the_key_of_the_project(folder: Path) -> None:
    trust = Trust(trusted={public_key(KEY.read_text()): KEY.stem}, required=True)
    try:
        assert signature.verify(folder, trust).by == "edgebed"
    except ModelError as error:
        pytest.fail(f"sign it again (docs/releasing.md): edgebed model sign models/{folder.name}: {error}")


def test_only_the_public_key_is_in_the_repository() -> None:
    place = shipped.folder("configs") / "keys"
    assert [each.name for each in place.iterdir()] == ["edgebed.pem"]
    assert "PRIVATE" not in KEY.read_text()
