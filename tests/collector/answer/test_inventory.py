"""The servers that should be there, and how much of their time was told of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.grid import HOUR_NS, from_rfc3339
from joulefleet_collector.answer.inventory import Stay, inventory_of, not_named, presence

BEGIN_NS = from_rfc3339("2026-01-01T00:00:00Z")
HOURS = [BEGIN_NS + hour * HOUR_NS for hour in range(6)]
ALWAYS = (0, 2**63 - 1)


def fleet(silent: int, servers: int = 10) -> tuple[list[Stay], dict[str, dict[int, float]]]:
    """Ten servers that stay, all but so many of which tell of every hour."""
    names = [f"s{number}" for number in range(servers)]
    return [Stay(name, "p", *ALWAYS) for name in names], {name: dict.fromkeys(HOURS, 3600.0) for name in names[silent:]}


def test_a_line_names_server_pool_and_time() -> None:
    assert inventory_of(
        "server,pool,from,to\ngpu-1, chat ,2026-01-01T00:00:00Z,2026-01-01T02:00:00Z\ngpu-2,chat,,\n"
    ) == (Stay("gpu-1", "chat", HOURS[0], HOURS[2]), Stay("gpu-2", "chat", *ALWAYS))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server,pool,from,to\n", "no line 'server,pool,from,to'"),
        ("gpu-1,chat", "line 1: 2 columns where server,pool,from,to are expected"),
        ("server,pool,from,to\n,chat,,", "line 2: no server is named"),
        ("a,chat,yesterday,", "line 1: 'yesterday' is no time"),
        ("a,chat,2026-01-02T00:00:00Z,2026-01-01T00:00:00Z", "line 1: 'a' goes before it comes"),
        ("a,chat,,2026-01-02T00:00:00Z\na,rag,2026-01-01T00:00:00Z,", "line 2: 'a' stands twice at one time"),
    ],
)
def test_a_line_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        inventory_of(text)


def test_one_silent_server_of_ten_is_a_tenth_of_the_time() -> None:
    found = presence(*fleet(silent=1), BEGIN_NS, BEGIN_NS + 6 * HOUR_NS)["p"]
    assert (found.expected_s, found.reported_s, found.silent) == (216_000.0, 194_400.0, ("s0",))
    assert found.reported_s / found.expected_s == 0.9


def test_time_in_which_nobody_tells_is_missed_too() -> None:
    found = presence(*fleet(silent=0), BEGIN_NS, BEGIN_NS + 12 * HOUR_NS)["p"]
    assert found.reported_s / found.expected_s == 0.5


def test_a_server_that_moves_is_missed_where_it_was_silent() -> None:
    stays = [Stay("a", "p", 0, HOURS[2]), Stay("a", "q", HOURS[2], HOURS[4])]
    found = presence(stays, {"a": {HOURS[2]: 3600.0, HOURS[3]: 3600.0, HOURS[5]: 3600.0}}, BEGIN_NS, HOURS[5])
    assert {pool: (one.expected_s, one.reported_s, one.silent) for pool, one in found.items()} == {
        "p": (7200.0, 0.0, ("a",)),
        "q": (7200.0, 7200.0, ()),
    }


def test_nobody_makes_up_for_a_silent_server_and_strangers_are_named() -> None:
    stays, _ = fleet(silent=0, servers=2)
    reported = {"s0": {BEGIN_NS: 9999.0}, "stranger": {BEGIN_NS: 3600.0}}
    assert presence(stays, reported, BEGIN_NS, HOURS[1])["p"].reported_s == 3600.0
    assert not_named(stays, reported) == ["stranger"]


@given(st.integers(0, 10), st.integers(0, 6), st.integers(0, 6))
def test_the_share_is_that_of_the_servers_that_tell(silent: int, begin: int, hours: int) -> None:
    stays, reported = fleet(silent)
    since_ns, until_ns = BEGIN_NS + begin * HOUR_NS, BEGIN_NS + min(begin + hours, 6) * HOUR_NS
    found = presence(stays, reported, since_ns, until_ns)
    if since_ns == until_ns:
        assert not found
    else:
        assert found["p"].reported_s / found["p"].expected_s == pytest.approx(1 - silent / 10)
        assert len(found["p"].silent) == silent
