"""What is counted of requests that have ended, in bounds."""

from typing import NamedTuple

from joulefleet_agent.engine_cut import MAX_KEYS
from joulefleet_agent.proxy.tally import BEYOND, EDGES_S, Ended, Outcome, Spread, Tally
from joulefleet_agent.proxy.told import Tokens


def ended(outcome: Outcome = "ok", served: bool = True, **more: object) -> Ended:
    return Ended(**{"outcome": outcome, "served": served, "e2e_s": 1.0, **more})  # type: ignore[arg-type] # its fields


def test_tokens_are_added_and_what_is_not_told_is_not_zero() -> None:
    tally = Tally()
    tally.end("m", "t", ended(tokens=Tokens(26, None, 259)))
    tally.end("m", "t", ended(tokens=Tokens(4, None, 1)))
    line = tally.lines["m", "t"]
    assert line.tokens == {"prompt": 30, "output": 260}
    assert "cached" not in line.tokens
    tally.end("m", "t", ended(tokens=Tokens(4, 0, 1)))
    assert line.tokens["cached"] == 0
    assert "cached" in line.tokens


def test_estimates_are_told_apart_and_unknown_tokens_counted() -> None:
    tally = Tally()
    tally.end("m", "", ended("aborted", tokens=Tokens(None, None, 7), estimated=True))
    tally.end("m", "", ended())
    tally.end("m", "", ended(has_output=False, tokens=Tokens(3)))
    tally.end("m", "", ended("failed", served=False))
    line = tally.lines["m", ""]
    assert line.tokens == {"prompt": 3, "output": 7, "estimated": 7}
    assert line.untold == {"prompt": 2, "output": 1}
    assert line.requests == {"aborted": 1, "ok": 2, "failed": 1}
    assert sum(line.latency["e2e"].counts) == 2


def test_beyond_the_bound_all_is_counted_together() -> None:
    tally = Tally()
    for number in range(1_000):
        tally.end(f"m{number % 40}", f"t{number}", ended(tokens=Tokens(1, 1, 1)))
    assert len(tally.lines) == MAX_KEYS
    assert BEYOND in tally.lines
    assert sum(line.requests["ok"] for line in tally.lines.values()) == 1_000
    before = tally.lines["m0", "t0"].requests["ok"]
    tally.end("m0", "t0", ended())
    assert tally.lines["m0", "t0"].requests["ok"] == before + 1


def test_what_was_not_served_makes_no_name() -> None:
    tally = Tally()
    for number in range(1_000):
        tally.end(f"bogus{number}", f"key-{number}", ended("failed", served=False))
    assert set(tally.lines) == {("", "")}
    tally.end("m", "t", ended())
    tally.end("m", "key-1", ended("failed", served=False))
    tally.end("bogus", "t", ended("failed", served=False))
    assert set(tally.lines) == {("", ""), ("m", "t"), ("m", ""), ("", "t")}


def test_long_names_are_cut() -> None:
    tally = Tally()
    tally.end("m" * 10_000, "t" * 10_000, ended())
    assert set(tally.lines) == {("m" * 200, "t" * 200)}


def test_an_edge_belongs_to_its_bucket() -> None:
    for number, edge_s in enumerate(EDGES_S):
        spread = Spread()
        spread.see(edge_s)
        spread.see(edge_s * 1.01, 2)
        assert (spread.counts[number], spread.counts[number + 1]) == (1, 2)
    assert Spread().is_empty


class InHand(NamedTuple):
    model: str
    tenant: str
    number: int


def test_requests_in_hand_by_name_and_those_without() -> None:
    tally = Tally()
    tally.end("m", "t", ended())
    tally.running |= {InHand("m", "t", 1), InHand("m", "t", 2), InHand("new", "t", 3)}
    assert tally.running_by_key() == {("m", "t"): 2, ("", ""): 1}
    tally.running.clear()
    assert dict(tally.running_by_key()) == {("m", "t"): 0}
