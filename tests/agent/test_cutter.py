"""Windows cut from readings: the worked vectors, live and after the fact, and what must hold for any readings."""

import itertools
import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Engine, Meter, Reservation
from joulefleet.reading import Counts, Failure, MeterReading, Reading, WorkKey, WorkReading
from joulefleet.window import Window, decode
from joulefleet_agent.cutter import Cutter, CutterState, Identity

S = 1_000_000_000
J = 1_000_000
WALL = Meter(id="wall", kind="server", grade="counter", sensor_class="platform", period_ns=10 * S)
BOARD = Meter(id="gpu0", kind="accelerator", grade="counter", sensor_class="onboard", period_ns=S)
VLLM = Engine(id="vllm@8000", software="vllm", period_ns=5 * S)
M = WorkKey("m")


def cutter(*declared: Meter | Engine, step_s: int = 30) -> Cutter:
    made = Cutter(CutterState(timeline=7, step_ns=step_s * S), Identity(server="a"))
    made.declare(declared, 0)
    return made


def joules(t_s: float, counter_j: float, meter: str = "wall", epoch: str = "boot") -> MeterReading:
    return MeterReading(meter=meter, at_ns=round(t_s * S), counter_uj=round(counter_j * J), epoch=epoch)


def tokens(t_s: float, count: int, epoch: str = "", **more: int) -> WorkReading:
    return WorkReading(
        engine=VLLM.id, at_ns=round(t_s * S), epoch=epoch, counts={M: Counts(output_tokens=count)}, **more
    )


def live(what: Cutter, readings: list[Reading], until_s: int) -> list[Window]:
    """Feed each reading when its time comes, and ask for closed windows each second."""
    windows: list[Window] = []
    waiting = sorted(readings, key=lambda one: one.at_ns)
    for second in range(until_s + 1):
        due = [one for one in waiting if one.at_ns <= second * S]
        waiting = waiting[len(due) :]
        what.feed(due, second * S)
        windows += what.close(second * S)
    return windows + what.finish()


def energies(windows: list[Window], meter: int = 0) -> list[float]:
    return [window.meters[meter].energy_uj / J for window in windows]


T1 = [joules(0, 1_000), joules(10, 4_000), joules(25, 10_000), joules(62, 25_540)]


def test_t1_telescoping_after_the_fact() -> None:
    what = cutter(WALL)
    what.feed(T1, 62 * S)
    windows = what.finish()
    assert energies(windows) == [11_100, 12_600, 840]
    assert [window.meters[0].covered_ns // S for window in windows] == [30, 30, 2]
    assert sum(energies(windows)) == 24_540


def test_t1_live_what_came_late_is_told_as_late() -> None:
    windows = live(cutter(WALL), T1, 100)
    assert [(w.meters[0].energy_uj // J, w.meters[0].late_uj // J) for w in windows] == [
        (9_000, 0),
        (12_600, 2_100),
        (840, 0),
    ]
    assert windows[0].meters[0].covered_ns == 25 * S
    assert (windows[1].meters[0].late_from_ns, windows[1].meters[0].late_to_ns) == (25 * S, 30 * S)


def test_a_window_waits_for_its_last_meter_and_no_longer() -> None:
    what = cutter(WALL, BOARD)
    what.feed([joules(0, 0), joules(0, 0, "gpu0"), joules(30, 60), joules(29, 29, "gpu0")], 30 * S)
    assert what.close(31 * S) == []
    what.feed([joules(30, 30, "gpu0")], 30 * S)
    (window,) = what.close(31 * S)
    assert energies([window], 1) == [30]
    assert what.grace_ns == 25 * S
    assert what.close(84 * S) == []
    assert len(what.close(85 * S)) == 1


def test_a_hung_meter_is_not_waited_for() -> None:
    what = cutter(WALL, BOARD)
    what.feed([joules(0, 0), joules(0, 0, "gpu0"), joules(31, 60)], 31 * S)
    assert what.close(31 * S) == []
    what.feed([Failure(subject="gpu0", code="hung")], 31 * S)
    (window,) = what.close(31 * S)
    assert window.meters[1].covered_ns == 0
    assert window.meters[1].gaps_ns == {"hung": 30 * S}


def test_t4_an_engine_that_began_anew() -> None:
    what = cutter(VLLM)
    what.feed([tokens(0, 1_000), tokens(20, 1_500), tokens(40, 200), tokens(60, 900)], 60 * S)
    windows = what.finish()
    assert sum(window.engines[0].work[0].counts.output_tokens or 0 for window in windows) == 1_400
    assert sum(window.engines[0].restarts for window in windows) == 1


def test_a_new_process_is_seen_even_when_its_counter_is_higher() -> None:
    what = cutter(VLLM)
    what.feed([tokens(0, 100, "pid 1"), tokens(10, 300, "pid 2")], 10 * S)
    (window,) = what.finish()
    assert window.engines[0].work[0].counts.output_tokens == 300
    assert window.engines[0].restarts == 1


def test_a_series_that_appears_later_began_at_zero() -> None:
    other = WorkKey("n")
    what = cutter(VLLM)
    later = WorkReading(
        engine=VLLM.id, at_ns=20 * S, counts={M: Counts(output_tokens=50), other: Counts(output_tokens=7)}
    )
    what.feed([tokens(0, 50), later], 20 * S)
    (window,) = what.finish()
    assert {work.key: work.counts.output_tokens for work in window.engines[0].work} == {M: 0, other: 7}


def test_what_is_not_counted_is_not_zero() -> None:
    what = cutter(VLLM)
    what.feed([tokens(0, 50), tokens(30, 80)], 30 * S)
    (window,) = what.finish()
    assert window.engines[0].work[0].counts == Counts(output_tokens=30)


def test_more_keys_than_the_bound_are_counted_together() -> None:
    def page(t_s: int, each: int) -> WorkReading:
        counts = {WorkKey(f"m{k:03}"): Counts(output_tokens=each) for k in range(500)}
        return WorkReading(engine=VLLM.id, at_ns=t_s * S, counts=counts)

    what = cutter(VLLM)
    what.feed([page(0, 1), page(30, 11)], 30 * S)
    (window,) = what.finish()
    work = window.engines[0].work
    assert len(work) == 128
    assert sum(one.counts.output_tokens or 0 for one in work) == 5_000
    assert work[0].key.tenant == "__overflow__"


def test_t22_running_and_queued_at_the_edges_and_their_integral() -> None:
    what = cutter(VLLM)
    what.feed([tokens(0, 0, running=30, queued=10), tokens(30, 9, running=60, queued=4)], 30 * S)
    (window,) = what.finish()
    engine = window.engines[0]
    assert (engine.running_start, engine.running_end) == (40, 64)
    assert (engine.running_ns, engine.queued_ns) == (45 * 30 * S, 7 * 30 * S)


def test_latencies_land_on_the_grid_and_none_is_lost() -> None:
    def page(t_s: int, fast: int, slow: int) -> WorkReading:
        return WorkReading(
            engine=VLLM.id,
            at_ns=t_s * S,
            counts={M: Counts(requests_ok=fast + slow)},
            latency={M: {"ttft": {"0.1": fast, "1.0": slow, "+Inf": 0}}},
        )

    windows = live(cutter(VLLM), [page(0, 0, 0), page(20, 10, 10), page(70, 10, 33)], 100)
    cells = [sum(window.engines[0].work[0].latency.get("ttft", {}).values()) for window in windows]
    assert sum(cells) == 43


def test_declarations_change_at_the_next_edge() -> None:
    what = cutter(WALL)
    what.feed([joules(0, 0), joules(10, 100)], 10 * S)
    what.declare([WALL, BOARD], 12 * S)
    what.feed([joules(20, 20, "gpu0"), joules(40, 40, "gpu0"), joules(60, 60, "gpu0"), joules(60, 600)], 60 * S)
    first, second = what.finish()
    assert [meter.meter.id for meter in first.meters] == ["wall"]
    assert [meter.meter.id for meter in second.meters] == ["wall", "gpu0"]
    assert second.meters[1].energy_uj == 30 * J
    assert second.meters[1].last_uj - second.meters[1].first_uj == 30 * J


def test_before_the_first_reading_another_declaration_holds_at_once() -> None:
    limited = msgspec.structs.replace(BOARD, power_limit_mw=300_000)
    what = cutter(BOARD)
    what.declare([limited], 5 * S)
    what.feed([joules(10, 0, "gpu0"), joules(30, 20, "gpu0")], 30 * S)
    assert [one.meter for window in what.finish() for one in window.meters] == [limited]


def test_a_meter_that_is_declared_otherwise_is_not_paired_across() -> None:
    limited = msgspec.structs.replace(BOARD, power_limit_mw=300_000)
    what = cutter(BOARD)
    what.feed([joules(0, 0, "gpu0"), joules(29, 29, "gpu0")], 29 * S)
    what.declare([limited], 29 * S)
    what.feed([joules(31, 5_000, "gpu0"), joules(60, 5_029, "gpu0")], 60 * S)
    windows = what.finish()
    assert energies(windows) == [29, 29]


def test_an_engine_that_is_declared_elsewhere_loses_no_work_and_tells_none_twice() -> None:
    moved = msgspec.structs.replace(VLLM, devices=(Reservation("gpu0"),))
    what = cutter(VLLM)
    what.feed([tokens(t, t) for t in range(0, 45, 5)], 40 * S)
    what.declare([moved], 42 * S)
    what.declare([moved], 43 * S)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(what.state), type=CutterState)
    what = Cutter(stored, what.identity)
    what.feed([tokens(t, t) for t in range(45, 95, 5)], 90 * S)
    windows = what.finish()
    assert [window.engines[0].engine.devices for window in windows] == [(), (), moved.devices]
    assert [window.engines[0].work[0].counts.output_tokens for window in windows] == [30, 30, 30]
    assert [window.engines[0].covered_ns for window in windows] == [30 * S] * 3


def test_facts_travel_when_they_change_and_each_hour() -> None:
    state = CutterState(timeline=1, step_ns=1_800 * S)
    what = Cutter(state, Identity(server="a", facts={"driver": "580"}))
    what.declare([WALL], 0)
    what.feed([joules(t, t) for t in range(0, 7_201, 60)], 7_200 * S)
    assert [bool(window.facts) for window in what.finish()] == [True, False, True, False]


def test_a_state_that_was_stored_goes_on_where_it_was() -> None:
    whole, halves = cutter(WALL), cutter(WALL)
    whole.feed(T1, 62 * S)
    halves.feed(T1[:2], 10 * S)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(halves.state), type=CutterState)
    again = Cutter(stored, halves.identity)
    again.declare([WALL], 20 * S)
    again.feed(T1, 62 * S)
    assert again.finish() == whole.finish()


def test_after_a_long_stop_an_hour_is_cut_and_the_rest_is_late() -> None:
    what = cutter(WALL)
    what.feed([joules(0, 0), joules(10, 10)], 10 * S)
    windows = what.resume(10_000 * S)
    what.feed([joules(10_000, 10_000)], 10_000 * S)
    windows += what.finish()
    assert windows[0].start_ns == 0
    assert windows[1].start_ns >= (10_000 - 3_600 - 30) * S
    assert len(windows) == 1 + 121 + 1 - 1
    total = sum(window.meters[0].energy_uj + window.meters[0].late_uj for window in windows)
    assert total == 10_000 * J


def test_a_value_that_no_meter_can_have_is_a_failure_and_stays_out_of_the_window() -> None:
    what = cutter(WALL)
    huge = MeterReading(meter="wall", at_ns=10 * S, counter_uj=2**63, epoch="boot")
    windows = live(what, [joules(0, 1_000), huge, joules(30, 4_000), joules(40, 5_000)], 60)
    assert energies(windows)[0] == 3_000
    assert windows[0].meters[0].rejected_uj == 0


def test_a_counter_that_leaps_to_and_fro_makes_a_window_that_can_be_sent() -> None:
    restarting = msgspec.structs.replace(BOARD, restarts_at_zero=True)
    what = cutter(restarting)
    what.feed([joules(t, (2**62 - t) // J * (t % 2), "gpu0") for t in range(20)], 20 * S)
    gauge = [MeterReading(meter="gpu0", at_ns=t * S, power_mw=10**13) for t in range(20, 25)]
    what.feed(gauge, 25 * S)
    (window,) = what.finish()
    assert decode(window.encode()) == window
    (one,) = window.meters
    assert (one.energy_uj, one.rejected_uj) == (0, 2**62)


def test_a_clock_set_back_opens_a_new_timeline_and_loses_nothing() -> None:
    what = cutter(WALL)
    what.feed([joules(7_200 + t, t) for t in range(0, 50, 10)], 7_240 * S)
    windows = what.new_timeline(8, -3_600 * S)
    what.feed([joules(3_600 + t, t) for t in range(50, 100, 10)], 3_690 * S)
    windows += what.finish()
    assert {window.timeline for window in windows} == {7, 8}
    assert len({window.key for window in windows}) == len(windows)
    assert sum(w.meters[0].energy_uj + w.meters[0].late_uj for w in windows) == 90 * J


def test_a_counter_that_no_device_can_have_books_nothing_twice() -> None:
    what = cutter(WALL)
    windows = live(what, [*T1[:2], joules(20, -1), joules(21, 2**62), *T1[2:]], 62)
    assert sum(window.meters[0].energy_uj + window.meters[0].late_uj for window in windows) == 24_540 * J


def test_the_trace_is_mean_power_of_ten_seconds() -> None:
    what = cutter(WALL)
    what.feed([joules(0, 0), joules(10, 1_000), joules(20, 3_000)], 20 * S)
    (window,) = what.finish()
    assert window.meters[0].trace_mw == (100_000, 200_000, None)


# Whatever the readings are


@st.composite
def runs(draw: st.DrawFn) -> list[MeterReading]:
    t, value, out = 0, draw(st.integers(0, 10**9)), []
    for _ in range(draw(st.integers(2, 25))):
        out.append(MeterReading(meter="wall", at_ns=t, counter_uj=value, epoch="boot"))
        t += draw(st.integers(1, 70 * S))
        value += draw(st.integers(0, 10**10))
    return out


def total_uj(windows: list[Window]) -> int:
    return sum(window.meters[0].energy_uj + window.meters[0].late_uj for window in windows)


@given(runs(), st.sampled_from([10, 30, 60]))
def test_the_sum_of_windows_is_last_minus_first(readings: list[MeterReading], step_s: int) -> None:
    after, during = cutter(WALL, step_s=step_s), cutter(WALL, step_s=step_s)
    after.feed(readings, readings[-1].at_ns)
    expected = (readings[-1].counter_uj or 0) - (readings[0].counter_uj or 0)
    told = after.finish()
    assert total_uj(told) == expected
    assert all(not window.meters[0].late_uj for window in told)
    lived = live(during, list(readings), readings[-1].at_ns // S + 200)
    assert total_uj(lived) == expected
    for one, following in itertools.pairwise(lived):
        assert one.meters[0].last_uj == following.meters[0].first_uj
    for window in lived:
        meter = window.meters[0]
        assert meter.last_uj - meter.first_uj == meter.energy_uj + meter.late_uj
        assert 0 <= meter.covered_ns <= window.step_ns
        assert decode(window.encode()) == window


@given(runs(), st.randoms(use_true_random=False))
def test_order_within_a_feed_and_copies_do_not_matter(readings: list[MeterReading], rng: random.Random) -> None:
    plain, shuffled = cutter(WALL), cutter(WALL)
    plain.feed(readings, readings[-1].at_ns)
    mixed = [*readings, *rng.choices(readings, k=5)]
    rng.shuffle(mixed)
    shuffled.feed(mixed, readings[-1].at_ns)
    assert plain.finish() == shuffled.finish()


@given(runs(), st.data())
def test_a_failed_reading_changes_no_sum(readings: list[MeterReading], data: st.DataObject) -> None:
    with_failures: list[Reading] = list(readings)
    for _ in range(data.draw(st.integers(1, 5))):
        with_failures.insert(data.draw(st.integers(0, len(readings))), Failure(subject="wall", code="timeout"))
    plain, failing = cutter(WALL), cutter(WALL)
    plain.feed(readings, readings[-1].at_ns)
    failing.feed(with_failures, readings[-1].at_ns)
    pairs = zip(plain.finish(), failing.finish(), strict=True)
    assert all(
        (a.meters[0].energy_uj, a.meters[0].covered_ns) == (b.meters[0].energy_uj, b.meters[0].covered_ns)
        for a, b in pairs
    )


@given(st.lists(st.tuples(st.integers(1, 40 * S), st.integers(0, 10**6)), min_size=1, max_size=20))
def test_work_telescopes_too(changes: list[tuple[int, int]]) -> None:
    t, value, readings = 0, 3, []
    for length, more in [*changes, (1, 0)]:
        readings.append(WorkReading(engine=VLLM.id, at_ns=t, counts={M: Counts(output_tokens=value)}))
        t, value = t + length, value + more
    windows = live(cutter(VLLM), list(readings), t // S + 200)
    work = [one for window in windows for one in window.engines[0].work]
    told = sum((one.counts.output_tokens or 0) + (one.late.output_tokens or 0) for one in work)
    last, first = (readings[k].counts[M].output_tokens or 0 for k in (-1, 0))
    assert told == last - first
