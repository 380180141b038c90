"""One engine's counters in windows: restarts, keys that come and go, bounds, and what is late."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Engine, Reservation
from joulefleet.latency import cell_of
from joulefleet.reading import Counts, WorkKey, WorkReading
from joulefleet.window import EngineWindow
from joulefleet_agent.engine_cut import MAX_KEYS, OVERFLOW, EngineCut

S = 1_000_000_000
STEP = 30 * S
VLLM = Engine(id="vllm@8000", software="vllm", version="0.9")
A, B = WorkKey("a"), WorkKey("b")


def page(t_s: int, epoch: str = "", running: int | None = None, **tokens: int) -> WorkReading:
    """A page with the output tokens of each model."""
    counts = {WorkKey(model): Counts(output_tokens=number) for model, number in tokens.items()}
    return WorkReading(engine=VLLM.id, at_ns=t_s * S, epoch=epoch, counts=counts, running=running)


def fed(*readings: WorkReading) -> EngineCut:
    cut = EngineCut(engine=VLLM, since_ns=0)
    for one in readings:
        cut.feed(one, STEP, 0)
    return cut


def tokens(cut: EngineCut, number: int = 4) -> dict[str, int]:
    """Output tokens by model over so many windows, late ones too."""
    told: dict[str, int] = {}
    for window in (cut.close(k * STEP, STEP) for k in range(number)):
        for work in window.work:
            both = (work.counts.output_tokens or 0) + (work.late.output_tokens or 0)
            told[work.key.model] = told.get(work.key.model, 0) + both
    return told


def first(cut: EngineCut) -> EngineWindow:
    return cut.close(0, STEP)


def test_one_model_that_began_anew_does_not_count_the_others_twice() -> None:
    cut = fed(page(0, a=100, b=1_000), page(10, a=5, b=1_010))
    window = first(cut)
    assert {work.key.model: work.counts.output_tokens for work in window.work} == {"a": 5, "b": 10}
    assert window.restarts == 1


def test_busy_time_that_a_source_sums_anew_makes_nothing_else_anew() -> None:
    def read(t_s: int, requests: int, busy_ns: int) -> WorkReading:
        counts = {A: Counts(requests_ok=requests, busy_ns=busy_ns)}
        return WorkReading(engine=VLLM.id, at_ns=t_s * S, counts=counts)

    window = first(fed(read(0, 100, 900), read(10, 105, 0), read(20, 107, 30)))
    (work,) = window.work
    assert work.counts == Counts(requests_ok=7, busy_ns=30)
    assert window.restarts == 0


def test_a_new_process_counts_everything_anew() -> None:
    window = first(fed(page(0, "p1", a=100, b=1_000), page(10, "p2", a=200, b=7)))
    assert {work.key.model: work.counts.output_tokens for work in window.work} == {"a": 200, "b": 7}
    assert window.restarts == 1


def test_a_page_that_names_nothing_for_a_while_is_no_restart() -> None:
    cut = fed(page(0, a=100), page(10), page(20, a=130))
    window = first(cut)
    assert [(work.key, work.counts.output_tokens) for work in window.work] == [(A, 30)]
    assert window.restarts == 0


def test_a_new_process_that_names_nothing_yet_is_a_restart() -> None:
    window = first(fed(page(0, "p1", a=100), page(10, "p2"), page(20, "p2", a=130)))
    assert [(work.key, work.counts.output_tokens) for work in window.work] == [(A, 130)]
    assert window.restarts == 1


def test_a_series_that_comes_back_is_not_counted_anew() -> None:
    assert tokens(fed(page(0, a=10, b=50), page(10, a=20), page(20, a=30, b=55))) == {"a": 20, "b": 5}


def test_a_page_that_does_not_tell_its_epoch_is_not_another_process() -> None:
    assert tokens(fed(page(0, "p1", a=10), page(10, a=20), page(20, "p1", a=30))) == {"a": 20}


def test_late_counts_are_told_once() -> None:
    cut = fed(page(0, a=0), page(10, a=10))
    first(cut)
    cut.feed(page(40, a=40), STEP, STEP)
    assert cut.owes
    (work,) = cut.close(STEP, STEP).work
    assert (work.late.output_tokens, work.counts.output_tokens) == (20, 10)
    assert not cut.owes
    (work,) = cut.close(2 * STEP, STEP).work
    assert work.late == Counts()
    assert work.counts == Counts()


def test_what_was_done_before_it_was_declared_is_late() -> None:
    cut = EngineCut(engine=VLLM, since_ns=30 * S)
    for one in (page(0, "p1", a=5), page(10, "p2", a=7), page(20, "p2", a=9), page(40, "p2", a=29)):
        cut.feed(one, STEP, 0)
    window = cut.close(STEP, STEP)
    (work,) = window.work
    assert (work.late.output_tokens, work.counts.output_tokens) == (7 + 2 + 10, 10)
    assert (window.covered_ns, window.restarts) == (10 * S, 0)
    assert not cut.parts


def test_one_that_was_not_there_before_is_counted_from_nothing() -> None:
    cut = EngineCut(engine=VLLM, since_ns=60 * S)
    cut.feed(page(10, "p1"), STEP, 30 * S)
    cut.feed(page(50, "p1", a=1_000), STEP, 30 * S)
    cut.feed(page(70, "p1", a=1_020), STEP, 30 * S)
    (work,) = cut.close(2 * STEP, STEP).work
    assert (work.late.output_tokens, work.counts.output_tokens) == (1_000 + 10, 10)


def test_one_that_runs_elsewhere_from_an_edge_on_is_followed_through() -> None:
    moved, again = (msgspec.structs.replace(VLLM, devices=(Reservation(name),)) for name in ("gpu1", "gpu2"))
    cut = fed(page(0, a=0), page(20, a=20))
    cut.become(moved, STEP)
    cut.become(again, 2 * STEP)
    assert (cut.engine, cut.declared) == (VLLM, again)
    cut.feed(page(100, a=100), STEP, 0)
    windows = [cut.close(k * STEP, STEP) for k in range(3)]
    assert [one.engine.devices for one in windows] == [(), moved.devices, again.devices]
    assert [(one.covered_ns, one.work[0].counts.output_tokens) for one in windows] == [(STEP, 30)] * 3


def test_the_version_that_the_page_tells_is_kept_and_known_without_a_page() -> None:
    told = msgspec.structs.replace(page(10, a=1), version="0.10")
    cut = fed(page(0, a=0), told)
    assert first(cut).engine.version == "0.10"
    assert cut.close(STEP, STEP).engine.version == "0.10"
    assert first(fed(page(0, a=0))).engine.version == "0.9"


def test_an_unreadable_time_is_not_covered_and_says_why() -> None:
    cut = fed(page(0, a=0), page(10, a=1))
    cut.health.fail("scrape_failed", 20 * S)
    window = first(cut)
    assert window.covered_ns == 10 * S
    assert window.gaps_ns == {"scrape_failed": 20 * S}


def test_latencies_of_a_restart_are_those_since() -> None:
    def timed(t_s: int, fast: int, number: int) -> WorkReading:
        latency: dict[WorkKey, Any] = {A: {"ttft": {"0.1": fast, "+Inf": 0}}}
        return msgspec.structs.replace(page(t_s, a=number), latency=latency)

    window = first(fed(timed(0, 100, 100), timed(10, 104, 110), timed(20, 3, 5)))
    assert sum(window.work[0].latency["ttft"].values()) == 7


# More keys than the bound


def many(t_s: int, first_key: int, number: int, each: int) -> WorkReading:
    counts = {WorkKey(f"m{k:04}"): Counts(output_tokens=each) for k in range(first_key, first_key + number)}
    return WorkReading(engine=VLLM.id, at_ns=t_s * S, counts=counts)


def test_keys_beyond_the_bound_are_counted_together_and_none_twice() -> None:
    cut = fed(many(0, 0, 300, 1_000), many(10, 0, 300, 1_010))
    assert sum(tokens(cut).values()) == 3_000


def test_keys_that_come_and_go_stay_bounded() -> None:
    cut = fed(*(many(k, k * 50, 100, 10) for k in range(30)))
    window = first(cut)
    assert len(window.work) == MAX_KEYS
    assert any(work.key == OVERFLOW for work in window.work)
    assert all((work.counts.output_tokens or 0) >= 0 for work in window.work)
    assert window.restarts == 0


def test_a_key_that_leaves_makes_no_room_for_one_that_was_counted_with_others() -> None:
    """Else its whole count would be told a second time."""
    whole, left = many(0, 0, 300, 1_000), ("m0003", "m0250")
    without = msgspec.structs.replace(
        many(40, 0, 300, 1_000), counts={key: one for key, one in whole.counts.items() if key.model not in left}
    )
    cut = fed(whole, without, many(80, 0, 300, 1_001))
    windows = [cut.close(k * STEP, STEP) for k in range(3)]
    told = [work.counts.output_tokens or 0 for window in windows for work in window.work]
    assert sum(told) == 300
    assert min(told) == 0


@given(
    st.lists(
        st.tuples(
            st.integers(1, 40),
            st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50)),
            st.sampled_from(["", "", "restart"]),
        ),
        max_size=12,
    )
)
def test_what_one_process_counts_is_told_whole(life: list[tuple[int, dict[str, int], str]]) -> None:
    """Models that work, come and go, and a process that begins anew: every token that a page told of is counted."""
    t, process, counts, expected = 0, 1, dict.fromkeys("abcd", 0), 0
    cut = fed(page(0, "1", **counts))
    for after_s, work, event in life:
        t += after_s
        if event:
            process, counts = process + 1, dict.fromkeys("abcd", 0)
        for model, number in work.items():
            counts[model] += number
            expected += number
        cut.feed(page(t, str(process), **counts), STEP, 0)
    assert sum(tokens(cut, t // 30 + 1).values()) == expected


def test_an_empty_bucket_still_tells_where_the_next_begins() -> None:
    """All requests took between 8 and 10 s: none may be told as faster because the buckets below were empty."""

    def page_of(t_s: int, number: int) -> WorkReading:
        buckets = {"0.1": 0, "8.0": 0, "10.0": number, "+Inf": 0}
        counts, latency = {A: Counts(requests_ok=number)}, {A: {"e2e": buckets}}
        return WorkReading(engine=VLLM.id, at_ns=t_s * S, counts=counts, latency=latency)

    cells = fed(page_of(0, 0), page_of(30, 40)).close(0, STEP).work[0].latency["e2e"]
    assert sum(cells.values()) == 40
    assert min(cells) >= cell_of(8.0)
