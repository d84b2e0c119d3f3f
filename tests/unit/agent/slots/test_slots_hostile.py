"""Hostile and mistaken packages offered to a running agent: refused with a sentence, and all goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.inference.signing import signature
from tests.polling import until
from tests.unit.agent.slots.sites import INPUT, QUICK, Running, Site, running


class Signed:
    """Makes packages that a key signed; the site trusts `ours` alone, and revoked `former`."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.keys = site, folder / "keys"
        self.keys.mkdir()
        self.private = {}
        for name, kind in (("ours", "pem"), ("former", "revoked"), ("other", "")):
            self.private[name], public = signature.new_key()
            if kind:
                (self.keys / f"{name}.{kind}").write_bytes(public)
        site.document["trust"] = {"keys": [str(self.keys)], "require_signature": True}
        self.sign(site.base)

    def sign(self, package: Path, by: str = "ours") -> Path:
        signature.sign(package, self.private[by])
        return package

    def golden(self, name: str, output: float) -> Path:
        """A package that gives 1, with a golden vector."""
        made = self.site.constant(1.0, name)
        (made / "golden").mkdir()
        vectors = {"input": np.zeros((1, 4, 2), np.float32), "output_0": np.array([output], np.float32)}
        np.savez(made / "golden/one.npz", **vectors)  # type: ignore[arg-type]
        return made

    def unlisted(self) -> Path:
        made = self.sign(self.site.constant(1.0, "unlisted"))
        (made / "more.txt").write_text("x")
        return made

    def swapped(self) -> Path:
        made = self.sign(self.golden("swapped", 1.0))
        shutil.rmtree(made / "golden")
        return self.golden("swapped", 2.0)

    def another(self, **manifest: Any) -> Path:
        return self.sign(self.site.constant(1.0, "another", **manifest))


BAD: dict[str, tuple[Callable[[Signed], Path], str, str]] = {
    "unsigned": (lambda made: made.site.constant(1.0, "plain"), "model-not-signed", "it is not signed"),
    "other key": (
        lambda made: made.sign(made.site.constant(1.0, "theirs"), "other"),
        "model-key-unknown", "by a key that is not trusted here",
    ),
    "revoked key": (
        lambda made: made.sign(made.site.constant(1.0, "old"), "former"),
        "model-key-revoked", "by the key former, which is revoked",
    ),
    "unlisted file": (
        Signed.unlisted, "model-signature-bad", "more.txt is in the folder and is not signed"
    ),
    "swapped golden vectors": (
        Signed.swapped, "model-signature-bad", "golden/one.npz has changed since it was signed"
    ),
    "wrong golden vectors": (lambda made: made.sign(made.golden("wrong", 2.0)), "", "golden"),
    "another input": (
        lambda made: made.another(input=INPUT | {"signals": ["a", "zz"]}), "model-input-mismatch", "zz"
    ),
    "another stream": (
        lambda made: made.another(input={"kind": "frame", "name": "x", "size": [8, 8]}), "", "frame"
    ),
    "another name of the input": (lambda made: made.another(input=INPUT | {"name": "q"}), "", "q"),
    "torn model": (
        lambda made: made.sign(_torn(made.site.constant(1.0, "torn"))), "", "model.onnx"
    ),
}  # fmt: skip


def _torn(package: Path) -> Path:
    body = (package / "model.onnx").read_bytes()
    (package / "model.onnx").write_bytes(body[:-9])
    return package


def readings(agent: Running) -> int:
    return agent.app.running.sources["arm"].counted["readings"]


@pytest.mark.slow
async def test_what_must_not_run_is_refused_and_what_runs_stays(site: Site, tmp_path: Path) -> None:
    made = Signed(site, tmp_path)
    digests = {name: site.store.add(make(made)) for name, (make, _, _) in BAD.items()}
    good = site.store.add(made.sign(site.constant(1.0, "good")))
    async with running(site.write()) as agent:
        await agent.works("base")
        for name, (_, code, sentence) in BAD.items():
            before = readings(agent)
            found = await agent.offer(digests[name])
            assert found.state == "refused", name
            assert code in ("", found.code), (name, found.why)
            assert sentence in found.why, (name, found.why)
            assert found.why.isprintable()
            await agent.works("base")
            assert readings(agent) > before, "the device is read all the time"
            assert agent.app.pipeline.runners["m"].state.state == "ok"
        await until(lambda: agent.app.pipeline.candidates == {}, "nothing is left open")
        assert (await agent.offer(good)).state == "confirmed"


@pytest.mark.slow
async def test_a_provider_that_is_not_there_refuses_each_version(site: Site) -> None:
    site.document["models"]["m"]["provider"] = "cuda"
    digest = site.store.add(site.constant(1.0, "one"))
    async with running(site.write()) as agent:
        before = readings(agent)
        found = await agent.offer(digest, confirm=QUICK)
        assert (found.state, "cuda" in found.why.lower()) == ("refused", True), found.why
        await until(lambda: readings(agent) > before, "the device is read all the time")
