"""Pairs of readings: each rule, the worked vectors, and what must hold for any readings at all."""

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.counter import CounterTrack, Gap, GaugeTrack, Pair, Rules, part_of

S = 1_000_000_000
J = 1_000_000


def rules(**known: int | bool) -> Rules:
    return Rules(max_gap_ns=5 * S, **known)  # type: ignore[arg-type] # keyword names are checked by the struct


def follow(what: Rules, readings: list[tuple[float, float]]) -> tuple[CounterTrack, list[Pair | Gap]]:
    track = CounterTrack()
    told = [track.feed(what, round(t * S), round(joules * J), "boot") for t, joules in readings]
    return track, [one for one in told if one is not None]


def test_t2_a_wrap_is_followed() -> None:
    what = rules(max_power_mw=400_000, modulus_uj=262_143_328_850)
    _, told = follow(what, [(0, 262_000.0), (10, 2_856.671150)])
    (pair,) = told
    assert isinstance(pair, Pair)
    assert pair.last_uj - pair.first_uj == 3_000 * J


def test_t2_more_than_one_wrap_is_possible() -> None:
    what = rules(max_power_mw=400_000, modulus_uj=262_143_328_850)
    _, told = follow(what, [(0, 262_000.0), (1_000, 2_856.671150)])
    assert told == [Gap(0, 1_000 * S, "wrap_ambiguous", lower_bound_uj=3_000 * J)]


def test_t3_a_board_that_begins_anew() -> None:
    track, told = follow(rules(restarts_at_zero=True), [(0, 500_000), (10, 503_000), (20, 1_200), (30, 4_200)])
    assert told == [
        Pair(0, 10 * S, 500_000 * J, 503_000 * J, interpolated=True),
        Gap(10 * S, 20 * S, "reset", lower_bound_uj=1_200 * J),
        Pair(20 * S, 30 * S, 503_000 * J, 506_000 * J, interpolated=True),
    ]
    assert track.total_uj - 500_000 * J == 6_000 * J


def test_a_counter_that_leapt_and_came_back_claims_no_more_than_can_have_been_used() -> None:
    what = rules(restarts_at_zero=True, max_power_mw=700_000)
    _, told = follow(what, [(0, 43_000), (1, 43_300), (2, 9_000_000), (3, 43_900)])
    assert [type(one) for one in told] == [Pair, Gap, Gap]
    assert told[2] == Gap(2 * S, 3 * S, "reset", lower_bound_uj=840 * J)


def test_a_new_epoch_is_never_paired_even_when_the_value_is_higher() -> None:
    track = CounterTrack()
    track.feed(rules(), 0, 5 * J, "boot 1")
    assert track.feed(rules(), S, 9 * J, "boot 2") == Gap(0, S, "epoch")
    assert track.feed(rules(), 2 * S, 10 * J, "boot 2") == Pair(S, 2 * S, 5 * J, 6 * J)


def test_a_wrap_cannot_be_told_from_a_reset_without_a_rated_power() -> None:
    _, told = follow(rules(modulus_uj=1_000 * J), [(0, 990), (1, 10)])
    assert isinstance(told[0], Gap)


def test_t24_a_leap_is_refused_and_its_joules_are_told() -> None:
    _, told = follow(rules(max_power_mw=400_000), [(0, 0), (1, 400), (2, 222_522), (3, 222_922)])
    assert told[1] == Gap(S, 2 * S, "implausible", rejected_uj=222_122 * J)
    assert told[2] == Pair(2 * S, 3 * S, 400 * J, 800 * J)


def test_a_counter_that_moves_each_minute_tells_nothing_in_between() -> None:
    what = rules(refresh_ns=60 * S)
    _, told = follow(what, [(0, 100), (30, 100), (60, 700), (61, 700), (119, 700), (120, 1_300)])
    assert told == [Pair(0, 60 * S, 100 * J, 700 * J, True), Pair(60 * S, 120 * S, 700 * J, 1_300 * J, True)]


def test_the_first_value_of_a_slow_counter_may_be_old_and_is_not_paired() -> None:
    """600 J a minute: the value that is read at 40 s was made at 0, and the next one comes 20 s later."""
    what = rules(refresh_ns=60 * S, max_power_mw=100_000)
    track, told = follow(what, [(40, 100), (59, 100), (60, 700), (119, 700), (120, 1_300)])
    assert told == [
        Gap(40 * S, 60 * S, "settling"),
        Pair(60 * S, 120 * S, 100 * J, 700 * J, interpolated=True),
    ]
    assert track.feed(what, 160 * S, 5 * J, "next boot") == Gap(120 * S, 160 * S, "epoch")
    assert track.feed(what, 180 * S, 605 * J, "next boot") == Gap(160 * S, 180 * S, "settling")
    assert isinstance(track.feed(what, 240 * S, 1_205 * J, "next boot"), Pair)


def test_a_counter_that_should_have_moved_is_stuck() -> None:
    what = rules(refresh_ns=S, resolution_uj=1_000, idle_mw=50_000)
    track = CounterTrack()
    told = [track.feed(what, t * S, 7 * J, "boot", power_mw=300_000) for t in range(13)]
    assert [one.code for one in told if isinstance(one, Gap)] == ["stuck"]
    idle = CounterTrack()
    assert not any(idle.feed(what, t * S, 7 * J, "boot", power_mw=40_000) for t in range(13))


def test_t9_a_gauge_with_a_hole_counts_only_what_was_seen() -> None:
    track, what = GaugeTrack(), rules()
    told = [track.feed(what, t * S, 600_000) for t in range(361)]
    told += [track.feed(what, t * S, 600_000) for t in range(600, 603)]
    assert Gap(360 * S, 600 * S, "gap") in told
    assert track.total_uj == 600 * 362 * J


def test_an_impossible_gauge_reading_is_passed_over() -> None:
    track, what = GaugeTrack(), rules(max_power_mw=400_000)
    assert track.feed(what, 0, 300_000) is None
    refused = track.feed(what, S, 222_122_000)
    assert isinstance(refused, Gap)
    assert refused.code == "implausible"
    assert refused.rejected_uj == 222_122 * J
    assert track.feed(what, 2 * S, 300_000) == Pair(0, 2 * S, 0, 600 * J)


def test_of_several_impossible_readings_each_stands_for_its_own_time() -> None:
    track, what = GaugeTrack(), rules(max_power_mw=400_000)
    told = [track.feed(what, at_s * S, power_mw) for at_s, power_mw in ((10, 300_000), (11, 10**9), (12, 10**9))]
    track.shift(-S)
    late = [track.feed(what, at_s * S, 10**9) for at_s in (11, 12, 86_400)]
    refused_j = [one.rejected_uj // J if isinstance(one, Gap) else None for one in (*told, *late)]
    assert refused_j == [None, 10**6, 10**6, None, 10**6, 5 * 10**6]


def test_without_a_rated_power_a_leap_beyond_all_counters_is_refused() -> None:
    track, told = follow(rules(), [(0, 0), (5, 10**9), (10, 10**11)])
    assert told[0] == Pair(0, 5 * S, 0, 10**9 * J)
    assert isinstance(told[1], Gap) and (told[1].code, told[1].rejected_uj) == ("implausible", 99 * 10**9 * J)
    assert track.total_uj == 10**9 * J


def test_an_hour_between_two_readings_is_marked() -> None:
    _, told = follow(rules(), [(0, 0), (3_600, 1_000)])
    assert told == [Pair(0, 3_600 * S, 0, 1_000 * J, interpolated=True)]


steps = st.lists(st.tuples(st.integers(1, 20 * S), st.integers(0, 10_000 * J)), min_size=1, max_size=30)


def rising(changes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    t, value, out = 0, 0, []
    for length, more in changes:
        out.append((t, value))
        t, value = t + length, value + more
    return [*out, (t, value)]


@given(steps, st.data())
def test_telescoping_is_exact_however_time_is_cut(changes: list[tuple[int, int]], data: st.DataObject) -> None:
    readings = rising(changes)
    track = CounterTrack()
    pairs = [pair for t, c in readings if (pair := track.feed(rules(), t, c, "boot")) is not None]
    end = readings[-1][0]
    cuts = sorted({0, end, *data.draw(st.lists(st.integers(0, end), max_size=20))})

    def total_at(at_ns: int) -> int:
        for pair in pairs:
            assert isinstance(pair, Pair)
            if pair.start_ns <= at_ns <= pair.end_ns:
                return pair.total_at(at_ns)
        raise AssertionError("no pair covers this instant")

    parts = [total_at(b) - total_at(a) for a, b in itertools.pairwise(cuts)]
    assert all(part >= 0 for part in parts)
    assert sum(parts) == readings[-1][1] - readings[0][1]


@given(steps, st.data())
def test_readings_may_come_twice(changes: list[tuple[int, int]], data: st.DataObject) -> None:
    readings = rising(changes)
    seen = list(readings)
    for _ in range(data.draw(st.integers(0, 10))):
        k = data.draw(st.integers(0, len(seen) - 1))
        seen.insert(data.draw(st.integers(k, len(seen))), seen[k])
    once, twice = CounterTrack(), CounterTrack()
    first = [once.feed(rules(), t, c, "boot") for t, c in readings]
    second = [twice.feed(rules(), t, c, "boot") for t, c in seen]
    assert [one for one in first if one] == [one for one in second if one]


@given(st.integers(0, 10**15), st.integers(1, 10**12), st.data())
def test_the_part_of_a_change_grows_from_nothing_to_all(delta: int, length: int, data: st.DataObject) -> None:
    inside = data.draw(st.integers(0, length))
    assert part_of(delta, 5, 5 + length, 5) == 0
    assert part_of(delta, 5, 5 + length, 5 + length) == delta
    assert 0 <= part_of(delta, 5, 5 + length, 5 + inside) <= delta


def test_a_gauge_may_be_integrated_for_years() -> None:
    track, what = GaugeTrack(), Rules(max_gap_ns=10**18)
    for year in range(10):
        track.feed(what, year * 31_536_000 * S, 10_000_000)
    assert track.total_uj == 9 * 31_536_000 * 10_000 * J
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(track), type=GaugeTrack) == track


@given(st.lists(st.tuples(st.integers(1, 5 * S), st.integers(0, 10**7)), min_size=2, max_size=30))
def test_the_integral_of_a_gauge_is_exact_but_for_the_last_microjoule(changes: list[tuple[int, int]]) -> None:
    track, t, exact, before = GaugeTrack(), 0, 0, None
    for length, power in changes:
        if before is not None:
            t += length
            exact += (before + power) * length
        track.feed(rules(), t, power)
        before = power
    assert track.total_uj == exact // 2 // 10**6
