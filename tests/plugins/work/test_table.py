"""Rules that hold for every server's page: what is added up, what is taken once, what is absent."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.reading import COUNT_FIELDS, Counts, WorkKey, WorkReading
from joulefleet_plugins.interfaces.exposition import BadPage, Parser
from joulefleet_plugins.work.recognise import TABLES
from joulefleet_plugins.work.table import Names, Series, Table, Unrecognised, read_page

TABLE = Table(
    software="demo",
    prefixes=("demo:", "demo_"),
    counters={
        "output_tokens": (Series("tokens"), Series("old_tokens")),
        "requests_ok": (Series("done", label="how", but=("bad",)),),
        "requests_failed": (Series("done", label="how", only=("bad",), from_start=True),),
        "requests_aborted": (Series("done", label="how", only=("gone",)),),
    },
    running=("running",),
    queued=("queued",),
    latency={"e2e": ("seconds", "old_seconds")},
    mend="look there",
)
M = WorkKey("M")


def read(text: str, model: str = "") -> WorkReading:
    return read_page(Parser().parse(text), TABLE, "e", Names(model))


def only(text: str, model: str = "") -> Counts:
    [counts] = read(text, model).counts.values()
    return counts


def test_every_table_names_counters_that_exist() -> None:
    for software, table in TABLES.items():
        assert table.software == software
        assert set(table.counters) <= set(COUNT_FIELDS)
        assert set(table.latency) <= {"ttft", "itl", "e2e"}


@pytest.mark.parametrize("name", ["demo:tokens", "demo:tokens_total", "demo_tokens_total"])
def test_total_and_colon_may_be_missing(name: str) -> None:
    assert only(f'{name}{{model_name="M"}} 7\n').output_tokens == 7


def test_two_forms_of_one_counter_are_not_added() -> None:
    assert only("demo:tokens 7\ndemo:tokens_total 7\n").output_tokens == 7


def test_two_names_of_one_quantity_are_not_added() -> None:
    assert only("demo:tokens 7\ndemo:old_tokens 7\n").output_tokens == 7
    assert only("demo:old_tokens 5\n").output_tokens == 5


def test_counters_passed_on_under_another_prefix_are_not_added() -> None:
    assert only("demo:tokens 7\ndemo_tokens 7\nray_demo:tokens 7\n").output_tokens == 7


def test_created_is_no_count() -> None:
    text = "# TYPE demo:tokens_total counter\ndemo:tokens_total 7\n# TYPE demo:tokens_created gauge\n"
    assert only(text + "demo:tokens_created 1.7537953269354987e+09\n").output_tokens == 7


def test_a_histogram_that_has_a_counters_name_is_no_counter() -> None:
    counts = only(
        '# TYPE demo:tokens_total histogram\ndemo:tokens_total_bucket{le="+Inf"} 72\ndemo:tokens_total_sum 392\n'
        "demo:running 1\n"
    )
    assert counts.output_tokens is None


@given(st.dictionaries(st.tuples(st.text(max_size=3), st.text(max_size=3)), st.integers(0, 2**60), min_size=1))
def test_labels_that_are_not_known_never_change_the_sum(series: dict[tuple[str, str], int]) -> None:
    def quoted(text: str) -> str:
        return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    lines = [f'demo:tokens{{engine="{quoted(a)}",new="{quoted(b)}"}} {value}' for (a, b), value in series.items()]
    assert only("\n".join(lines) + "\n").output_tokens == sum(series.values())


def test_data_parallel_ranks_are_added_and_tensor_parallel_ranks_are_not() -> None:
    lines = [
        f'demo:tokens{{dp_rank="{dp}",pp_rank="{pp}",tp_rank="{tp}"}} {10 * (dp + 1)}'
        for dp in range(2)
        for tp in range(4)
        for pp in range(2)
    ]
    lines.append('demo:running{tp_rank="0"} 3\ndemo:running{tp_rank="1"} 3')
    reading = read("\n".join(lines) + "\n")
    assert reading.counts[WorkKey("")].output_tokens == 10 + 20
    assert reading.running == 3


def test_a_series_that_comes_twice_counts_once() -> None:
    assert only('demo:tokens{a="1"} 7\ndemo:tokens{a="1"} 7\n').output_tokens == 7


def test_one_key_for_each_model() -> None:
    reading = read(
        'demo:tokens{model_name="A"} 1\ndemo:tokens{model_name="B",model="x"} 2\ndemo:tokens{model="C"} 3\n'
        'demo:done{model_name="A",how="good"} 4\n'
    )
    assert {key.model: counts.output_tokens for key, counts in reading.counts.items()} == {"A": 1, "B": 2, "C": 3}
    assert {key.model: counts.requests_ok for key, counts in reading.counts.items()} == {"A": 4, "B": 0, "C": 0}


def test_a_name_of_ones_own_stands_for_all_models() -> None:
    text = 'demo:tokens{model_name="A"} 1\ndemo:tokens{model_name="B"} 2\n'
    assert {key.model: counts.output_tokens for key, counts in read(text, "mine").counts.items()} == {"mine": 3}


def test_a_metric_that_is_absent_is_not_zero() -> None:
    assert only("demo:tokens 7\n") == Counts(output_tokens=7)
    reading = read("demo:tokens 7\n")
    assert (reading.running, reading.queued, reading.latency) == (None, None, {})


def test_labelled_series_that_wait_for_their_first_event_stand_at_zero() -> None:
    counts = only('# TYPE demo:done_total counter\ndemo:running{model_name="M"} 0\n')
    assert (counts.requests_ok, counts.requests_aborted, counts.requests_failed) == (0, 0, None)
    counts = only('demo:done_total{model_name="M",how="good"} 2\n')
    assert (counts.requests_ok, counts.requests_aborted, counts.requests_failed) == (2, 0, None)
    counts = only('demo:done_total{model_name="M",how="bad"} 2\n')
    assert (counts.requests_ok, counts.requests_aborted, counts.requests_failed) == (0, 0, 2)


def test_counters_beyond_the_exact_floats_stay_exact() -> None:
    assert only(f"demo:tokens {2**53 + 1}\n").output_tokens == 2**53 + 1


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
def test_a_counter_without_a_countable_value_refuses_the_page(value: str) -> None:
    with pytest.raises(BadPage, match="line 2") as bad:
        read(f'demo:tokens{{a="1"}} 7\ndemo:tokens{{a="2"}} {value}\n')
    assert bad.value.code == "malformed"


def test_gauges_are_added_over_models_and_engines() -> None:
    reading = read('demo:running{engine="0",model="A"} 4\ndemo:running{engine="1",model="B"} 3\ndemo:queued 2\n')
    assert (reading.running, reading.queued) == (7, 2)


@pytest.mark.parametrize("value", ["NaN", "-1"])
def test_a_gauge_without_a_value_is_unknown_and_the_rest_counts(value: str) -> None:
    reading = read(f'demo:tokens 7\ndemo:running{{engine="0"}} 4\ndemo:running{{engine="1"}} {value}\n')
    assert reading.running is None
    assert reading.counts[WorkKey("")].output_tokens == 7


def test_buckets_are_no_longer_cumulative_and_keep_the_edges_as_written() -> None:
    reading = read(
        'demo:seconds_bucket{model="M",engine="0",le="0.25"} 3\n'
        'demo:seconds_bucket{model="M",engine="0",le="10.0"} 5\n'
        'demo:seconds_bucket{model="M",engine="0",le="2.5"} 4\n'
        'demo:seconds_bucket{model="M",engine="0",le="+Inf"} 9\n'
        'demo:seconds_bucket{model="M",engine="1",le="0.25"} 10\n'
        'demo:seconds_bucket{model="M",engine="1",le="+Inf"} 11\n'
        'demo:seconds_count{model="M",engine="0"} 9\n'
    )
    assert reading.latency == {M: {"e2e": {"0.25": 13, "2.5": 1, "10.0": 1, "+Inf": 5}}}
    assert reading.counts == {M: Counts()}


def test_the_older_name_of_a_histogram_is_taken_where_the_newer_is_missing() -> None:
    old = 'demo:old_seconds_bucket{le="+Inf"} 4\n'
    assert read(old).latency == {WorkKey(""): {"e2e": {"+Inf": 4}}}
    assert read(old + 'demo:seconds_bucket{le="+Inf"} 5\n').latency == {WorkKey(""): {"e2e": {"+Inf": 5}}}


@pytest.mark.parametrize(
    "line",
    [
        'demo:seconds_bucket{le="1"} 3',
        "demo:seconds_bucket 3",
        'demo:seconds_bucket{le="one"} 3',
        'demo:seconds_bucket{le="1"} 3\ndemo:seconds_bucket{le="+Inf"} 2',
        'demo:seconds_bucket{le="+Inf"} NaN',
    ],
)
def test_a_histogram_that_is_none_refuses_the_page(line: str) -> None:
    with pytest.raises(BadPage) as bad:
        read(f"demo:tokens 7\n{line}\n")
    assert bad.value.code == "malformed"


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8))
def test_buckets_add_up_to_the_count(each: list[int]) -> None:
    edges = [*range(1, len(each)), math.inf]
    lines = [f'demo:seconds_bucket{{le="{edge}"}} {sum(each[: n + 1])}' for n, edge in enumerate(edges)]
    [[histogram]] = [kinds.values() for kinds in read("\n".join(lines) + "\n").latency.values()]
    assert list(histogram.values()) == each


def test_a_page_of_something_else() -> None:
    with pytest.raises(Unrecognised, match="no metric of demo; look there"):
        read("python_info 1\nvllm:tokens 3\nprocess_start_time_seconds 5\n")


def test_the_epoch_is_the_start_of_the_process() -> None:
    text = "demo:tokens 7\ndemo:tokens_created 1.75e+09\nprocess_start_time_seconds 1.7537953269354987e+09\n"
    assert read(text).epoch == "1753795326.9354987"


def test_without_a_process_start_the_epoch_is_the_earliest_creation_of_a_counter_that_is_read() -> None:
    text = 'demo:tokens 7\nother_created 5\ndemo:tokens_created{a="1"} 1.75e+09\ndemo:done_total 0\n'
    assert read(text + 'demo:tokens_created{a="2"} 1.76e+09\ndemo:done_created 1.77e+09\n').epoch == "1750000000.0"


@pytest.mark.parametrize(
    "starts", ["", 'process_start_time_seconds{a="1"} 1\nprocess_start_time_seconds{a="2"} 2\ndemo:tokens_created 3\n']
)
def test_no_epoch_where_the_page_tells_none_or_several(starts: str) -> None:
    assert read("demo:tokens 7\n" + starts).epoch == ""
