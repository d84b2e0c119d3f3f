"""The collector's YAML config: each mistake with its line, and no open port without a token."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.config import CollectorConfig, Http, load
from wire.errors import ConfigError

ROOT = Path(__file__).parents[3]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "collector.yaml"
    path.write_text(text)
    return path


def test_the_shipped_config_loads() -> None:
    found = load(ROOT / "configs" / "collector.yaml")
    assert (found.id, found.http.port, found.group_commit_ms) == ("collector-1", 8080, 100)


def test_only_the_store_is_required_and_paths_are_the_files(tmp_path: Path) -> None:
    found = load(write(tmp_path, "store: data\n"))
    assert found == CollectorConfig(store=tmp_path / "data")


def test_every_mistake_at_once_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'id: "No Id"\nstroe: x\nstore: y\nhttp: {host: 0.0.0.0, port: 70000}\nbroker: {url: "http://x"}\n',
    )
    with pytest.raises(ConfigError) as refused:
        load(path)
    text = str(refused.value)
    for line, what in ((1, "id"), (2, "did you mean 'store'"), (4, "port"), (5, "broker.url")):
        assert any(row.startswith(f"{path}:{line}:") and what in row for row in text.splitlines()), text
    assert refused.value.exit_code == 78


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "pilot.example"])
def test_a_host_that_other_machines_reach_is_private_behind_a_proxy_elsewhere(host: str) -> None:
    assert not Http(host=host).is_private
    assert Http(host=host, proxies=["127.0.0.1", "192.0.2.7"]).is_private
    assert not Http(host=host).is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert Http(host=host).is_loopback


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 20, b"with;semicolon-and-more", b"\n" * 40])
def test_a_bad_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="token_file"):
        Http(token_file=path).token()


def test_a_good_token_is_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef0123\nsecond\n")
    assert Http(token_file=path).token() == "0123456789abcdef0123"
    with pytest.raises(ConfigError, match="token_file"):
        Http(token_file=tmp_path / "absent").token()
