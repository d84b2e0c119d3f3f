"""Acknowledgements: which code is wanted, what an ACK says, what is remembered."""

from __future__ import annotations

import pytest

from adapters.hl7.ack import AckBuilder, AnsweredMessages, memory, wanted
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
        ("AL", "NE", "CA CE CR"),  # as IHE PCD-01 asks
        ("AL", "", "CA CE CR"),
        ("NE", "NE", "- - -"),
        ("ER", "NE", "- CE CR"),
        ("SU", "NE", "CA - -"),
        ("NE", "ER", "- AE AR"),
        ("AL", "ER", "CA AE AR"),
    ],
)
def test_which_code_is_wanted(accept: str, application: str, codes: str) -> None:
    asked = parse(message(accept, application))
    assert [wanted(asked, "auto", verdict) or "-" for verdict in ("A", "E", "R")] == codes.split()  # type: ignore[arg-type]  # verdicts
    assert wanted(asked, "application", "A") == "AA"
    assert wanted(asked, "never", "R") == ""
    assert wanted(None, "auto", "R") == "AR"


def test_an_answer_names_the_message_and_what_was_wrong_and_no_more() -> None:
    answers = AckBuilder(Clock(start_ns=1_772_000_000 * NS_PER_S))
    mismatch = Mismatch("OBX", 3, 6, 103, "unit is not mm[Hg] | nor ^ else")
    msh, msa, err = answers.build(parse(message()), "AE", [mismatch]).decode().strip("\r").split("\r")
    fields = msh.split("|")
    assert fields[:6] == ["MSH", "^~\\&", "edgebed", "", "APP^id^EUI-64", "FAC"]
    assert fields[6].startswith("20260225")
    assert fields[8] == "ACK^R01^ACK"
    assert fields[10:12] == ["T", "2.5"]
    assert msa == "MSA|AE|I\\F\\17"
    assert err == "ERR||OBX^3^6|103|E||||unit is not mm[Hg]  nor  else"
    again = answers.build(parse(message()), "AA").decode().split("|")
    assert again[9] != fields[9]  # an id of its own


def test_an_answer_to_what_could_not_be_read() -> None:
    msh, msa, err = (
        AckBuilder(Clock()).build(None, "AR", [Mismatch("MSH", 1, 0, 100, "no MSH")]).split(b"\r")[:3]
    )
    assert msh.startswith(b"MSH|^~\\&|edgebed|")
    assert msa == b"MSA|AR|"
    assert err.startswith(b"ERR||MSH^1^|100|E|")


def test_an_answer_has_so_many_errors_and_no_more() -> None:
    many = [Mismatch("OBX", number, 5, 102, "no number") for number in range(10_000)]
    assert AckBuilder(Clock()).build(parse(message()), "AE", many).count(b"\rERR|") == 20


def test_a_message_is_known_by_sender_id_and_time() -> None:
    seen = AnsweredMessages()
    seen.keep(b"A", b"17", b"1", "A")
    assert seen.find(b"A", b"17", b"1") == "A"
    assert seen.find(b"B", b"17", b"1") is None
    assert seen.find(b"A", b"17", b"2") is None
    assert seen.reused(b"A", b"17", b"2")
    assert not seen.reused(b"A", b"18", b"2")
    for number in range(5_000):
        seen.keep(b"A", str(number).encode(), b"3", "E")
    assert seen.find(b"A", b"17", b"1") is None
    assert len(seen.taken) == len(seen.ids) == 4_096


def test_each_clock_has_a_memory_of_its_own() -> None:
    one, two = Clock(), Clock()
    assert memory(one, "mllp://x:1") is memory(one, "mllp://x:1")
    assert memory(one, "mllp://x:1") is not memory(one, "mllp://x:2")
    assert memory(one, "mllp://x:1") is not memory(two, "mllp://x:1")
