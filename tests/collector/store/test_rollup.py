"""Adding rows up, and choosing the grains that cover a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.rows import Row
from joulefleet_collector.store.rollup import ROLLUPS, add_up, canonical, grains, lasting, pieces
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS

MINUTE, HOUR, DAY, FLEET_HOUR, FLEET_DAY = ROLLUPS
FIELDS = st.dictionaries(st.sampled_from(["active_j", "idle_j", "requests_ok"]), st.integers(0, 1000))
USAGE = st.builds(
    lambda minute, server, fields: Row("usage", minute * MINUTE_NS, {"server": server, "pool": "p"}, fields),
    st.integers(0, 3000),
    st.sampled_from(["a", "b"]),
    FIELDS,
)


def totals(rows: list[Row]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        for name, value in row.fields.items():
            found[name] = found.get(name, 0) + value
    return found


@given(st.lists(USAGE, max_size=30), st.sampled_from(ROLLUPS))
def test_no_grain_changes_a_sum_and_its_keys_are_unique(rows: list[Row], rollup: object) -> None:
    added = add_up(rows, rollup)  # type: ignore[arg-type]  # hypothesis draws a Rollup
    assert totals(added) == totals(rows)
    assert len({(row.start_ns, canonical(row.tags)) for row in added}) == len(added)


@given(st.lists(USAGE, max_size=30))
def test_hours_of_minutes_are_hours(rows: list[Row]) -> None:
    def by_key(added: list[Row]) -> dict[tuple[int, str], dict[str, float]]:
        return {(row.start_ns, canonical(row.tags)): row.fields for row in added}

    assert by_key(add_up(add_up(rows, MINUTE), DAY)) == by_key(add_up(rows, DAY))


def test_unknown_stays_missing() -> None:
    rows = [Row("usage", 0, {}, {"active_j": 1.0}), Row("usage", 1, {}, {"idle_j": 0.0})]
    assert [row.fields for row in add_up(rows, DAY)] == [{"active_j": 1.0, "idle_j": 0.0}]


def test_the_fleet_form_drops_the_server_and_keeps_only_its_kinds() -> None:
    tags = {"server": "a", "pool": "p"}
    rows = [Row(kind, 0, tags, {}) for kind in ("usage", "ledger", "meter", "agent")]
    assert [(row.kind, row.tags) for row in add_up(rows, FLEET_DAY)] == [
        ("usage", {"pool": "p"}),
        ("ledger", {"pool": "p"}),
    ]


def test_window_tags_do_not_last_save_for_the_agents_timeline() -> None:
    tags = {"server": "a", "timeline": "1", "step_s": "60"}
    assert lasting(Row("usage", 0, tags, {})).tags == {"server": "a"}
    assert lasting(Row("agent", 0, tags, {})).tags == {"server": "a", "timeline": "1"}


def test_a_field_that_its_kind_does_not_have_is_refused() -> None:
    lasting(Row("agent", 0, {}, {"rss_bytes": 1}))
    with pytest.raises(ValueError, match="joules"):
        lasting(Row("agent", 0, {}, {"joules": 1}))


def test_canonical_is_equal_for_equal_tags() -> None:
    assert canonical({"b": "2", "a": '"', "c": ""}) == canonical({"a": '"', "b": "2"}) == '{"a":"\\"","b":"2"}'


@given(st.integers(0, 5000), st.integers(0, 5000), st.booleans())
def test_pieces_cover_the_time_once_in_order_and_on_their_own_steps(first: int, last: int, fleet: bool) -> None:
    since, until = min(first, last) * MINUTE_NS, max(first, last) * MINUTE_NS
    parts = pieces(since, until, grains("usage", 0, fleet))
    edges = [since, *(part.until_ns for part in parts)]
    assert [part.since_ns for part in parts] == edges[:-1]
    assert edges[-1] == until
    assert all(at % part.rollup.step_ns == 0 for part in parts for at in (part.since_ns, part.until_ns))
    if until - since >= 2 * DAY_NS:
        assert (FLEET_DAY if fleet else DAY) in [part.rollup for part in parts]


def test_grains_are_no_coarser_than_the_step_and_fleet_only_where_servers_may_be_added() -> None:
    assert grains("usage", 0, fleet=False) == (DAY, HOUR, MINUTE)
    assert grains("usage", 0, fleet=True) == (FLEET_DAY, FLEET_HOUR, MINUTE)
    assert grains("usage", HOUR.step_ns, fleet=True) == (FLEET_HOUR, MINUTE)
    assert grains("meter", 0, fleet=True) == (DAY, HOUR, MINUTE)
