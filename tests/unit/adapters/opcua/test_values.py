"""What a server sends for a field: its value, or a sentence that names what arrived and the cure."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from asyncua import ua

from adapters.opcua.values import FieldReader
from adapters.opcua.words import of_refusal, of_value
from wire.messages import Quality


@pytest.mark.parametrize(
    ("t", "raw", "value"),
    [
        ("f64", 1.5, 1.5),
        ("f64", 3, 3),
        ("i64", -7, -7),
        ("bool", True, True),
        ("str", "on", "on"),
        ("str", ua.LocalizedText("안녕", "ko"), "안녕"),
        ("str", datetime(2026, 11, 30, 1, 2, 3, tzinfo=UTC), "2026-11-30T01:02:03Z"),
        ("str", datetime(2026, 11, 30, 1, 2, 3), "2026-11-30T01:02:03Z"),
        ("str", UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("str", ua.QualifiedName("Robot", 2), "Robot"),
    ],
)
def test_values_of_the_declared_type(t: str, raw: object, value: object) -> None:
    assert FieldReader("x", t).read(raw, 0) == (value, Quality.GOOD, "")
    assert FieldReader("x", t).read(raw, 0x40000000) == (value, Quality.UNCERTAIN, "")


@pytest.mark.parametrize(
    ("t", "raw", "why"),
    [
        ("f64", True, "x: a Boolean True arrived and t is f64: set `t: bool`"),
        ("f64", "12,5", "x: text '12,5' arrived and t is f64: set `t: str`"),
        ("i64", 1.5, "x: a number 1.5 arrived and t is i64: set `t: f64`"),
        ("i64", 2**63 + 5, "x: 9223372036854775813 does not fit t i64: set `t: f64`"),
        ("bool", 1, "x: a whole number 1 arrived and t is bool: set `t: i64`"),
        ("f64", datetime(2026, 1, 1, tzinfo=UTC), "x: a datetime arrived and t is f64: set `t: str`"),
        ("f64", ua.LocalizedText("hot"), "x: a LocalizedText arrived and t is f64: set `t: str`"),
        ("str", b"\x01", "x: a ByteString arrived and t is str: no field can hold it"),
        ("str", 5, "x: the number 5 arrived, and the server has no names for it: set `t: i64`"),
        ("f64", [1.0] * 6, "x: an array of 6 values arrived: set `index`, 0 to 5"),
        ("f64", [], "x: an empty array arrived"),
        ("f64", ua.Range(0.0, 1.0), "x: a structure arrived, which no field can hold: read its parts as"),
        ("f64", ua.ExtensionObject(), "x: a structure arrived"),
    ],
)
def test_other_types_name_what_arrived(t: str, raw: object, why: str) -> None:
    value, quality, said = FieldReader("x", t).read(raw, 0)
    assert (value, quality) == (None, Quality.WRONG_TYPE)
    assert said.startswith(why)


def test_an_element_of_an_array() -> None:
    reader = FieldReader("x", "f64", index=2)
    assert reader.read([0.0, 1.0, 2.5], 0) == (2.5, Quality.GOOD, "")
    assert reader.read([0.0], 0)[2] == "x: an array of 1 values arrived, and `index` is 2"
    assert reader.read(4.0, 0)[2] == "x: not an array but a number 4.0 arrived: remove `index`"


def test_the_words_of_an_enumeration() -> None:
    reader = FieldReader("x", "str", names={0: "Manual", 1: "Auto"})
    assert reader.read(1, 0) == ("Auto", Quality.GOOD, "")
    assert reader.read(9, 0)[2] == "x: the server has no name for the number 9 of its enumeration"


def test_a_bad_status_is_named_in_words() -> None:
    value, quality, why = FieldReader("x", "f64").read(1.0, 0x80310000)
    assert (value, quality) == (None, Quality.BAD)
    assert why == "x: BadNoCommunication: the server has no connection to the device behind it"
    assert FieldReader("x", "f64").read(None, 0) == (
        None,
        Quality.UNCERTAIN,
        "x: the server sends no value (null)",
    )
    assert of_value(0x80320480) == "BadWaitingForInitialData: the server waits for its first value"


@pytest.mark.parametrize(
    ("name", "user", "secured", "said"),
    [
        ("BadIdentityTokenRejected", "", False, "no anonymous login: set `user` and `password_file`"),
        ("BadIdentityTokenInvalid", "", False, "no anonymous login: set `user` and `password_file`"),
        ("BadUserAccessDenied", "op", False, "does not accept user 'op': check `user` and `password_file`"),
        ("BadCertificateUntrusted", "", True, "does not trust the agent's certificate"),
        ("BadSecurityChecksFailed", "", True, "does not trust the agent's certificate"),
        ("BadSecurityChecksFailed", "", False, "needs a certificate that it trusts: set `security`"),
        ("BadSecurityPolicyRejected", "", True, "set `security.policy`"),
        ("BadTcpEndpointUrlInvalid", "", False, "check host, port and path"),
        ("BadTooManySessions", "", False, "close another client"),
        ("BadResourceUnavailable", "", False, "BadResourceUnavailable"),
    ],
)
def test_a_refusal_names_the_cure(name: str, user: str, secured: bool, said: str) -> None:
    assert said in of_refusal(getattr(ua.StatusCodes, name), user=user, secured=secured)
