"""The node's key: signatures as RFC 8032 defines them, and a key file that only its owner reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.custody.node_key import KEY_FILE, NodeKey, public_key, sign

# RFC 8032, section 7.1: secret, public, message, signature
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), VECTORS)
def test_signatures_are_those_of_the_standard(secret: str, public: str, message: str, signature: str) -> None:
    seed = bytes.fromhex(secret)
    assert public_key(seed).hex() == public
    assert sign(seed, bytes.fromhex(public), bytes.fromhex(message)).hex() == signature


@settings(max_examples=15)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_another_library_signs_the_same(seed: bytes, message: bytes) -> None:
    other = Ed25519PrivateKey.from_private_bytes(seed)
    public = public_key(seed)
    assert public == other.public_key().public_bytes_raw()
    assert sign(seed, public, message) == other.sign(message)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first = NodeKey.open(tmp_path)
    again = NodeKey.open(tmp_path)
    assert first is not None
    assert again is not None
    assert first.public == again.public
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / KEY_FILE]


def test_a_broken_key_is_set_aside_and_an_unwritable_folder_signs_nothing(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("half a key")
    key = NodeKey.open(tmp_path)
    assert key is not None
    assert (tmp_path / "node.damaged").read_text() == "half a key"
    assert NodeKey.open(tmp_path / "nowhere") is None


def test_files_of_the_key_are_not_left_readable_by_a_cut_off_write(tmp_path: Path) -> None:
    (tmp_path / "node.new").write_text("rest of an earlier try")
    (tmp_path / "node.new").chmod(0o644)
    assert NodeKey.open(tmp_path) is not None
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0


def test_the_key_of_the_enrolment_comes_before_that_of_the_state_folder(tmp_path: Path) -> None:
    state, identity = tmp_path / "state", tmp_path / "identity"
    state.mkdir()
    identity.mkdir()
    own = NodeKey.open(state, identity)
    assert own is not None
    bound = NodeKey(bytes(32))
    (identity / "custody.key").write_bytes(bound.content)
    found = NodeKey.open(state, identity)
    assert found is not None
    assert (found.public, found.public != own.public) == (bound.public, True)
    assert NodeKey.read(state / "node.key").public == own.public, "it stays"
    (identity / "custody.key").write_text("zz")
    fresh = NodeKey.open(state, identity)
    assert fresh is not None
    assert fresh.public not in (bound.public, own.public), "a collector names the new key"
    assert (identity / "custody.damaged").exists()
