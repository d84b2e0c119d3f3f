"""Acknowledgements: the code of an answer, the contents of an ACK, and the answered messages."""

from __future__ import annotations

from weakref import ref

import pytest

from adapters.hl7.ack import AckBuilder, AnsweredMessages, TakenMessage, ack_code, answered_messages
from adapters.hl7.message import Mismatch, parse
from wire.clock import NS_PER_S, Clock


def message(accept: str = "", application: str = "") -> bytes:
    return (
        "MSH|^~\\&|APP^id^EUI-64|FAC|X|Y|20260225||ORU^R01^ORU_R01|I\\F\\17|T|2.5"
        f"|||{accept}|{application}||UNICODE UTF-8\rPID|||황보"
    ).encode()


@pytest.mark.parametrize(
    ("accept", "application", "codes"),
    [
        ("", "", "AA AE AR"),  # original mode
        ("NE", "AL", "AA AE AR"),
        ("AL", "NE", "CA CE CR"),  # as IHE PCD-01 requires
        ("AL", "", "CA CE CR"),
        ("NE", "NE", "- - -"),
        ("ER", "NE", "- CE CR"),
        ("SU", "NE", "CA - -"),
        ("NE", "ER", "- AE AR"),
        ("AL", "ER", "CA AE AR"),
    ],
)
def test_the_code_of_an_answer(accept: str, application: str, codes: str) -> None:
    asked = parse(message(accept, application))
    assert [ack_code(asked, "auto", verdict) or "-" for verdict in ("A", "E", "R")] == codes.split()  # type: ignore[arg-type]  # verdicts
    assert ack_code(asked, "application", "A") == "AA"
    assert ack_code(asked, "never", "R") == ""
    assert ack_code(None, "auto", "R") == "AR"


def test_an_answer_names_only_the_message_and_its_errors() -> None:
    acks = AckBuilder(Clock(start_ns=1_772_000_000 * NS_PER_S))
    mismatch = Mismatch("OBX", 3, 6, 103, "unit is not mm[Hg] | nor ^ else")
    msh, msa, err = acks.build(parse(message()), "AE", [mismatch]).decode().strip("\r").split("\r")
    fields = msh.split("|")
    assert fields[:6] == ["MSH", "^~\\&", "edgebed", "", "APP^id^EUI-64", "FAC"]
    assert fields[6].startswith("20260225")
    assert fields[8] == "ACK^R01^ACK"
    assert fields[10:12] == ["T", "2.5"]
    assert msa == "MSA|AE|I\\F\\17"
    assert err == "ERR||OBX^3^6|103|E||||unit is not mm[Hg]  nor  else"
    again = acks.build(parse(message()), "AA").decode().split("|")
    assert again[9] != fields[9]  # it has its own id


def test_an_answer_to_an_unreadable_message() -> None:
    msh, msa, err = (
        AckBuilder(Clock()).build(None, "AR", [Mismatch("MSH", 1, 0, 100, "no MSH")]).split(b"\r")[:3]
    )
    assert msh.startswith(b"MSH|^~\\&|edgebed|")
    assert msa == b"MSA|AR|"
    assert err.startswith(b"ERR||MSH^1^|100|E|")


def test_an_answer_has_at_most_twenty_errors() -> None:
    many = [Mismatch("OBX", number, 5, 102, "no number") for number in range(10_000)]
    assert AckBuilder(Clock()).build(parse(message()), "AE", many).count(b"\rERR|") == 20


class Connection:
    """Stands for a connection; only its identity counts."""


def test_a_copy_is_the_same_message_only_if_its_monitor_can_have_missed_the_answer() -> None:
    here, there = Connection(), Connection()
    taken = TakenMessage(b"A\0B", "192.0.2.1", "A", ref(here))
    assert taken.came_again(b"A\0B", "192.0.2.1", here, 1e6)  # it was never answered
    taken.answered(100.0)
    taken.answered(150.0)  # a second answer does not prolong the time
    assert taken.came_again(b"A\0B", "192.0.2.1", here, 99.9)  # it was sent before the answer came
    assert not taken.came_again(b"A\0B", "192.0.2.1", here, 100.1)
    assert taken.came_again(b"A\0B", "192.0.2.1", there, 160.0)
    assert not taken.came_again(b"A\0B", "192.0.2.1", there, 160.1)
    assert taken.came_again(b"A\0B", "192.0.2.9", there, 120.0)  # by another way
    assert taken.came_again(b"", "192.0.2.1", there, 120.0)
    assert not taken.came_again(b"", "192.0.2.9", there, 120.0)  # two monitors without a name
    assert not taken.came_again(b"A\0C", "192.0.2.9", there, 120.0)


def test_the_oldest_messages_are_forgotten() -> None:
    here, seen = Connection(), AnsweredMessages()
    for number in range(5_000):
        digest = str(number).encode()
        seen.keep(b"A", b"17", digest, TakenMessage(b"A", "", "E", ref(here)))
        seen.keep(b"A", digest, digest, TakenMessage(b"A", "", "E", ref(here)))
    assert seen.reused(b"A", b"17", b"1")
    assert not seen.reused(b"A", b"17", b"4999")
    assert not seen.reused(b"A", b"0", b"1")
    assert len(seen.taken) == len(seen.ids) == 4_096


def test_each_clock_has_its_own_answered_messages() -> None:
    one, two = Clock(), Clock()
    assert answered_messages(one, "mllp://x:1") is answered_messages(one, "mllp://x:1")
    assert answered_messages(one, "mllp://x:1") is not answered_messages(one, "mllp://x:2")
    assert answered_messages(one, "mllp://x:1") is not answered_messages(two, "mllp://x:1")
