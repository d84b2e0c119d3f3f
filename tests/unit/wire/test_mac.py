"""A mac fits one message on one topic of one node; everything else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from wire.codec import decode, encode, seal, unsealed
from wire.errors import ConfigError, WireError
from wire.mac import MacMissing, MacWrong, checked, node_key, read_secret, signed
from wire.messages import Ack

NODE, TOPIC = "acme/junction/street-1/cam-01", "tb1/acme/junction/street-1/cam-01/ack"
KEY = node_key(bytes(32), NODE, 1)
ACK = Ack(ep="9f2c41d07ab3e586", ok=[(1, 2)], by="collector-1", ts=1)


def test_the_vector_of_the_docs() -> None:
    # made with `openssl dgst -sha256 -mac HMAC`, so that another program can check its own code
    assert KEY.hex() == "ecf09741222677206f20b38fc20fff9a03c5156b8473ff5e19c29cd00b17cb57"
    assert signed(KEY, TOPIC, b'{"v":1}') == seal(b'{"v":1,"mac":"0fa14ef4eca7e5a5f0183271b232b219"}')


def test_the_example_of_the_docs_fits() -> None:
    page = (Path(__file__).parents[3] / "docs/topics.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("{") and '"mac":' in line]
    assert decode(checked(KEY, TOPIC, line.encode()), Ack).ok == [(4700, 4712)]


@pytest.mark.parametrize("body", [encode(ACK), seal(encode(ACK))])
def test_a_signed_message_is_read_with_and_without_the_key(body: bytes) -> None:
    made = signed(KEY, TOPIC, body)
    assert decode(checked(KEY, TOPIC, made), Ack) == ACK
    assert decode(made, Ack) == ACK, "a node that has no key, and an older release"


def test_nothing_else_passes() -> None:
    made = signed(KEY, TOPIC, encode(ACK))
    inner = unsealed(made)
    at = inner.index(b'"mac":"') + 7
    mac = inner[at : at + 32]
    for what, bad, error in (
        ("none", encode(ACK), MacMissing),
        ("none, with a seal", seal(encode(ACK)), MacMissing),
        ("an empty body", b"", MacMissing),
        ("an empty object", b"{}", MacMissing),
        ("only a mac", b'{,"mac":"' + mac + b'"}', MacWrong),
        ("a short one", inner.replace(mac, mac[:-2]), MacWrong),
        ("a long one", inner.replace(mac, mac + b"00"), MacWrong),
        ("an empty one", inner.replace(mac, b""), MacWrong),
        ("another one", inner.replace(mac, b"0" * 32), MacWrong),
        ("upper case", inner.replace(mac, mac.upper()), MacWrong),
        ("other numbers", inner.replace(b"[1,2]", b"[1,9]"), MacWrong),
        ("another time", inner.replace(b'"ts":1', b'"ts":2'), MacWrong),
        ("another order", b'{"ts":1,' + inner.replace(b',"ts":1', b"")[1:], MacWrong),
        ("a space", inner.replace(b",", b", ", 1), MacWrong),
        ("a field behind it", inner[:-1] + b',"x":1}', MacWrong),
        ("a second one behind it", inner[:-1] + b',"mac":"' + mac + b'"}', MacWrong),
    ):
        for one in (bad, seal(bad)):
            with pytest.raises(error):
                pytest.fail(f"{what} passed: {checked(KEY, TOPIC, one)!r}")
    with pytest.raises(MacWrong):
        checked(KEY, TOPIC, inner[:-1] + b"]")
    with pytest.raises(WireError, match="damaged in transit"):
        checked(KEY, TOPIC, made.replace(b"[1,2]", b"[1,9]"))


def test_a_message_of_another_topic_node_or_generation_is_refused() -> None:
    made = signed(KEY, TOPIC, encode(ACK))
    for key, topic in (
        (KEY, TOPIC.replace("/ack", "/cmd/_/ping")),
        (KEY, TOPIC.replace("cam-01", "cam-02")),
        (node_key(bytes(32), NODE, 2), TOPIC),
        (node_key(bytes(32), NODE.replace("cam-01", "cam-02"), 1), TOPIC),
        (node_key(b"\1" * 32, NODE, 1), TOPIC),
        (node_key(bytes(32), NODE + " 1", 1), TOPIC),
    ):
        with pytest.raises(MacWrong):
            checked(key, topic, made)


def test_a_secret_file_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mac.key"
    with pytest.raises(ConfigError, match=r"mac_file .* cannot be read: No such file"):
        read_secret(path, "mac_file")
    for text in (b"", b"\n", b"ab" * 31, b"ab" * 33, b"AB" * 32, b"zz" * 32, b"ab" * 32 + b"\nx", bytes(64)):
        path.write_bytes(text)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="is not 64 hexadecimal digits"):
            read_secret(path, "mac_file")
    path.write_bytes(b"ab" * 32 + b"\n")
    for mode in (0o644, 0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600") as refused:
            read_secret(path, "mac_file")
        assert "\n" not in str(refused.value)
    for mode in (0o600, 0o400):
        path.chmod(mode)
        assert read_secret(path, "mac_file") == b"\xab" * 32
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        read_secret(path, "mac_file")
