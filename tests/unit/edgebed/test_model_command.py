"""`edgebed model`: its output for the shipped package, and one sentence for a wrong folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.inference.decoders import ModelError
from edgebed.cli import command, main
from wire.errors import ConfigError, EdgebedError

PACKAGE = Path(__file__).parents[3] / "models/street-detector"


def test_check_reports() -> None:
    done = CliRunner().invoke(command, ["model", "check", str(PACKAGE), "--json"])
    report = json.loads(done.output)
    assert done.exit_code == 0
    assert report["provider"] == "CPUExecutionProvider"
    assert report["golden"] >= 2
    assert 0 < report["p50_ms"] <= report["p99_ms"]
    shown = CliRunner().invoke(command, ["model", "check", str(PACKAGE)]).output
    assert "street-detector@1.0.0: ok on CPUExecutionProvider" in shown
    assert "golden vectors agree" in shown


def test_what_is_no_package_ends_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such model package"):
        CliRunner().invoke(command, ["model", "check", str(tmp_path / "none")], catch_exceptions=False)


def test_draft_prints_a_manifest() -> None:
    done = CliRunner().invoke(command, ["model", "draft", str(PACKAGE / "model.onnx")])
    assert done.exit_code == 0
    assert "head: fastestdet" in done.output
    assert "size: [320, 240]" in done.output


@pytest.mark.parametrize("task", ["check", "draft"])
def test_an_error_shows_an_odd_name_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    path = tmp_path / "\x1b[31m\u202ered\nb"
    path.write_text("not a model")
    monkeypatch.setattr(sys, "argv", ["edgebed", "model", task, str(path)])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as caught:
            main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    shown = capsys.readouterr().err
    assert caught.value.code == 1
    assert r"\x1b[31m\u202ered" in shown
    assert all(line.isprintable() for line in shown.splitlines())


def test_nothing_is_written_through_a_link_or_into_a_pipe(tmp_path: Path) -> None:
    """A package from elsewhere can have both in the place of what a command writes."""
    victim, package = tmp_path / "victim", tmp_path / "street-detector"
    victim.write_text("mine")
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.md", "sbom*", "model.sig"))
    os.mkfifo(package / "README.md")
    (package / "sbom.cdx.json").symlink_to(victim)
    (package / "model.sig").symlink_to(victim)
    run = CliRunner().invoke
    assert run(command, ["model", "card", str(package), "--force"]).exit_code == 0
    assert run(command, ["key", "signing", str(tmp_path / "k.key")]).exit_code == 0
    sign = ["model", "sign", str(package), "--key", str(tmp_path / "k.key")]
    assert run(command, sign).exit_code == 0
    assert all((package / name).is_file() for name in ("README.md", "sbom.cdx.json", "model.sig"))
    assert not any(path.is_symlink() for path in package.iterdir())
    shutil.rmtree(package / "golden")
    (package / "golden").symlink_to(tmp_path)
    assert "is a link" in str(run(command, ["model", "draft", str(package), "--force"]).exception)
    os.mkfifo(package / "pipe")
    assert str(run(command, sign).exception).startswith(f"{package}: golden is not a regular file")
    assert victim.read_text() == "mine"


def test_packages_are_signed_and_verified(tmp_path: Path) -> None:
    def edgebed(*words: object) -> str:
        done = CliRunner().invoke(command, [*map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    for name in ("a", "b"):
        shutil.copytree(PACKAGE, tmp_path / name, ignore=shutil.ignore_patterns("model.sig", "__pycache__"))
    edgebed("key", "signing", tmp_path / "maker.key")
    edgebed("key", "signing", tmp_path / "other.key")
    edgebed("model", "sign", tmp_path / "a", tmp_path / "b", "--key", tmp_path / "maker.key")
    for name in ("a", "b"):
        shown = edgebed("model", "verify", tmp_path / name, "--public-key", tmp_path / "maker.pem")
        assert shown.startswith(f"{tmp_path / name}: signed by maker, ")
    with pytest.raises(ModelError, match=r"a: model\.sig is by a key that is not trusted here"):
        edgebed("model", "verify", tmp_path / "a", "--public-key", tmp_path / "other.pem")
    (tmp_path / "a" / "manifest.yaml").write_text("name: x")
    with pytest.raises(ModelError, match=r"a: model\.sig is refused: manifest\.yaml has changed since"):
        edgebed("model", "verify", tmp_path / "a", "--public-key", tmp_path / "maker.pem")
    (tmp_path / "b" / "model.sig").unlink()
    with pytest.raises(ModelError, match=r"b: model\.sig is missing"):
        edgebed("model", "verify", tmp_path / "b", "--public-key", tmp_path / "maker.pem")
    with pytest.raises(ConfigError, match=r"maker\.key is a private key: put only the public key here"):
        edgebed("model", "verify", tmp_path / "b", "--public-key", tmp_path / "maker.key")


def test_bench_shows_times_and_memory_of_each_number_of_threads() -> None:
    words = ["model", "bench", str(PACKAGE.parent / "news2"), "--threads", "3", "--seconds", "0.05"]
    done = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)
    report = json.loads(done.output)
    assert [each["threads"] for each in report["levels"]] == [1, 2, 3]
    for each in report["levels"]:
        assert 0 < each["p50_ms"] <= each["p99_ms"]
        assert 0 < each["cpu_p50_ms"] <= each["cpu_p99_ms"]
        assert each["runs"] >= 20 * each["threads"]
    assert report["budgets"] == {"p99_ms": 2.0, "rss_mb": 32.0}
    assert report["model"] == "news2@1.0.0"


def test_bench_ends_with_3_when_a_budget_is_exceeded(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE.parent / "news2", tmp_path / "m", ignore=shutil.ignore_patterns("model.sig"))
    manifest = tmp_path / "m/manifest.yaml"
    words = ["model", "bench", str(tmp_path / "m"), "--threads", "1", "--seconds", "0.05"]
    text = manifest.read_text()
    manifest.write_text(text.replace("p99_ms: 2, rss_mb: 32", "p99_ms: 60000, rss_mb: 4000"))
    assert CliRunner().invoke(command, words, catch_exceptions=False).exit_code == 0
    manifest.write_text(text.replace("p99_ms: 2, rss_mb: 32", "p99_ms: 0.0001"))
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 3
    assert "over budget: p99_ms is " in done.output
    assert ", budgets.p99_ms allows 0.0001" in done.output
    (tmp_path / "m/model.onnx").write_bytes(b"hello")
    with pytest.raises(ModelError, match="has sha256"):
        CliRunner().invoke(command, words, catch_exceptions=False)


def test_packages_go_into_the_store_of_a_device_and_out_of_it(tmp_path: Path) -> None:
    def edgebed(*words: object) -> str:
        done = CliRunner().invoke(command, [*map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    state, package = tmp_path / "state", PACKAGE.parent / "news2"
    assert edgebed("model", "ls", "--state", state) == ""
    shown = edgebed("model", "add", package, "--state", state)
    digest = shown.split()[0].removeprefix("sha256:")
    assert shown == edgebed("model", "add", package, "--state", state), "it is kept once"
    assert shown.split()[1] == "news2@1.0.0"
    (listed,) = json.loads(edgebed("model", "ls", "--state", state, "--json"))
    assert (listed["digest"], listed["name"]) == (digest, "news2")
    assert digest[:12] in edgebed("model", "ls", "--state", state)
    with pytest.raises(ModelError, match="no package begins with 'zz'"):
        edgebed("model", "rm", "zz", "--state", state)
    edgebed("model", "rm", digest[:8], "--state", state)
    assert edgebed("model", "ls", "--state", state) == ""
    (tmp_path / "none").mkdir()
    with pytest.raises(ModelError, match=r"manifest\.yaml"):
        edgebed("model", "add", tmp_path / "none", "--state", state)


NOWHERE = ["--url", "http://127.0.0.1:1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model", "pushed", "--tenant", "a b", *NOWHERE], "'a b' is not the name of a company"),
        (["model", "pushed", "--tenant", "../x", *NOWHERE], "'../x' is not the name of a company"),
        (["model", "push", str(PACKAGE), "--tenant", "é", *NOWHERE], "'é' is not the name of a company"),
        (["model", "pushed", "--tenant", "t", "--remove", "../x", *NOWHERE], "'../x' is not a digest"),
        (["model", "bench", str(PACKAGE), "--seconds", "nan"], "nan is not a finite number"),
        (["model", "reference", str(PACKAGE), __file__, "--window", "nan"], "nan is not a finite number"),
        (["key", "signing", ""], "name a file for the private key"),
        (["key", "signing", "/"], "name a file for the private key"),
    ],
)
def test_a_word_that_is_not_one_is_told_before_anything_is_sent(words: list[str], said: str) -> None:
    done = CliRunner().invoke(command, words)
    assert done.exit_code != 0
    assert isinstance(done.exception, SystemExit | EdgebedError), repr(done.exception)
    assert said in f"{done.output} {done.exception}"


def test_a_package_whose_names_no_listing_has_is_not_sent(tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(PACKAGE, package)
    for name, said in ((b"\xff.txt", "is not UTF-8"), (b"a\\b", "is not a path inside the package")):
        odd = package / os.fsdecode(name)
        odd.touch()
        done = CliRunner().invoke(command, ["model", "push", str(package), "--tenant", "t", *NOWHERE])
        assert isinstance(done.exception, EdgebedError), repr(done.exception)
        assert said in str(done.exception)
        odd.unlink()
