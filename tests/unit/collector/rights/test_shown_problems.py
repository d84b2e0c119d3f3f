"""Which problems of the collector a user sees."""

from __future__ import annotations

import pytest

from collector.health import CollectorProblem, problem
from collector.rights.shown_problems import GENERAL, shown_problems
from collector.rights.user import LOCAL, Grant, User
from wire.reasons import CODES, because

USER = User("kim", (Grant("viewer", ("acme/*",)),), "session")
HERS, OTHER = "acme/trial/hall/cobot-01", "hanbit/bedside/ward-3/bed-07"


def refused(part: str) -> CollectorProblem:
    return problem(because(f"{part}: too much", "messages-refused", sender=part), 1, part)


def named(code: str, node: str, n: int = 1) -> CollectorProblem:
    return problem(because(f"such as {node}", code, n=n, node=node), 1)


def test_who_sees_all_gets_them_as_they_are() -> None:
    found = [refused(f"tb1/{OTHER}"), named("messages-gone", OTHER, 3)]
    assert shown_problems(LOCAL, found) == found


def test_a_tenant_gets_its_own() -> None:
    own = [
        refused(f"tb1/{HERS}"),
        refused("tb1/acme"),
        *(named(code, HERS) for code in ("data-not-received", "messages-gone", "waits-after-refusal")),
    ]
    other = [
        *(
            refused(part)
            for part in (f"tb1/{OTHER}", "tb1/hanbit", "tb1/acme2", "acme/trial/hall/x", "tb1/", "")
        ),
        *(named(code, OTHER) for code in ("data-not-received", "messages-gone", "waits-after-refusal")),
        named("data-not-received", HERS, 2),
        problem(because("no TLS", "no-tls"), 1),
        problem(because("a token", "token-file"), 1),
    ]
    assert shown_problems(USER, [*other, *own, *other]) == own


@pytest.mark.parametrize("code", sorted(GENERAL))
def test_what_concerns_all_is_shown_once_without_its_details(code: str) -> None:
    assert code in CODES
    many = [
        problem(because(f"{OTHER} at /srv/store", code, detail=OTHER, day="x"), 1, f"day {n}")
        for n in range(3)
    ]
    (found,) = shown_problems(USER, many)
    assert (found.code, found.args, found.part) == ("collector-degraded", {"what": code}, code)
    assert "hanbit" not in found.why
    assert "/srv" not in found.why
