"""Which series a question is about, and that looking them up one by one answers as reading all does."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulefleet.window import Window
from joulefleet_collector.rows import Row
from joulefleet_collector.store import selection
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import MINUTE_NS, STEP_NS, Accounted, Question, Step, Total

EVER = {"since_ns": 0, "until_ns": 10_000 * MINUTE_NS}
NASTY = ("", "a", '"', "\\", '"model":"a"', '\\"server":', "',--%_", "\u00e9\n")


@pytest.fixture
def store(tmp_path: Path, a_window: Callable[..., Window]) -> Iterator[EmbeddedStore]:
    """Forty rows of usage of five servers and of models with awkward names."""
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        for number, model in enumerate(NASTY):
            window = a_window("w", number)
            tags = [{"server": f"s{server}", "model": model, "pool": str(number % 2)} for server in range(5)]
            rows = [Row("usage", number * MINUTE_NS, one, {"active_j": 2.0**number}) for one in tags]
            opened.write([Accounted(window, b"", rows)], 1)
        yield opened


def asked(**parts: object) -> Question:
    return Question(kind="usage", fields=("active_j",), **{**EVER, **parts})  # type: ignore[arg-type]  # as given


def sums(totals: list[Total], tag: str) -> dict[str, float]:
    return {one.tags[tag]: one.fields["active_j"] for one in totals}


@pytest.mark.parametrize("by_server", [(), ("server",)])
def test_awkward_values_are_kept_apart_and_found(store: EmbeddedStore, by_server: tuple[str, ...]) -> None:
    for number, model in enumerate(NASTY):
        found = store.ask(asked(by=("model", *by_server), where={"model": (model,)}))
        assert {one.tags["model"] for one in found} == {model}
        assert sum(one.fields["active_j"] for one in found) == 5 * 2.0**number
    whole = store.ask(asked(by=("model",)))
    assert sums(whole, "model") == {model: 5 * 2.0**number for number, model in enumerate(NASTY)}
    assert [one.tags["model"] for one in whole] == sorted(NASTY)


def test_several_values_and_several_tags_are_one_test_each(store: EmbeddedStore) -> None:
    found = store.ask(asked(by=("pool",), where={"model": ("", "a"), "server": ("s1", "s2")}))
    assert sums(found, "pool") == {"0": 2.0, "1": 4.0}
    assert store.ask(asked(where={"model": ()})) == []
    assert store.ask(asked(where={"nowhere": ("x",)})) == []
    assert len(store.ask(asked(where={"nowhere": ("",)}))) == 1


@pytest.mark.parametrize("few", [1, 10**6])
def test_a_few_series_are_looked_up_and_many_read(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(selection, "FEW", few)
    found = store.ask(asked(step="minute", by=("model",), where={"server": ("s3",)}))
    assert [(one.start_ns, one.tags["model"], one.fields) for one in found] == [
        (number * MINUTE_NS, model, {"active_j": 2.0**number}) for number, model in enumerate(NASTY)
    ]


def test_a_time_of_whole_hours_and_minutes_is_read_with_and_without_servers(store: EmbeddedStore) -> None:
    assert [one.fields["active_j"] for one in store.ask(asked(since_ns=MINUTE_NS))] == [5 * (2.0 ** len(NASTY) - 2)]


def test_a_field_that_is_no_sum_is_refused(store: EmbeddedStore) -> None:
    with pytest.raises(ValueError, match=r"energy_j\) FROM"):
        store.ask(Question(kind="meter", fields=("energy_j) FROM x --",), **EVER))


A_ROW = st.tuples(
    st.integers(0, 3000), st.sampled_from("abc"), st.sampled_from(["", "x", "y"]), st.none() | st.integers(0, 9)
)
"""Minute, server, model, joules."""
TAGS = ("server", "model")


# The fixture is a function that keeps nothing.
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(A_ROW, min_size=1, max_size=40),
    time=st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
    step=st.sampled_from(sorted(STEP_NS)),
    by=st.sampled_from([(), ("server",), ("model",), TAGS]),
    where=st.sampled_from([{}, {"server": ("b",)}, {"model": ("", "y")}, {"server": ("a", "c"), "model": ("x",)}]),
    few=st.sampled_from([1, 10**6]),
)
def test_any_question_is_answered_as_by_adding_rows_up_one_by_one(
    rows: list[tuple[int, str, str, int | None]],
    time: tuple[int, int],
    step: Step,
    by: tuple[str, ...],
    where: dict[str, tuple[str, ...]],
    few: int,
    a_window: Callable[..., Window],
) -> None:
    since, until = (minute * MINUTE_NS for minute in sorted(time))
    expected: dict[tuple[object, ...], dict[str, float]] = {}
    for minute, server, model, value in rows:
        start_ns, tags = minute * MINUTE_NS, {"server": server, "model": model}
        if since <= start_ns < until and all(tags[name] in texts for name, texts in where.items()):
            bucket = start_ns - start_ns % STEP_NS[step] if step != "none" else None
            sums = expected.setdefault((bucket, *(tags[name] for name in by)), {})
            if value is not None:
                sums["active_j"] = sums.get("active_j", 0.0) + value
    with tempfile.TemporaryDirectory() as folder, closing(EmbeddedStore(Path(folder), lambda: "e")) as store:
        made = [
            Row("usage", minute * MINUTE_NS, {"server": server, "model": model}, _known(value))
            for minute, server, model, value in rows
        ]
        store.write([Accounted(a_window("w"), b"", made)], 1)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(selection, "FEW", few)
            question = Question(kind="usage", since_ns=since, until_ns=until, step=step, by=by, where=where)
            found = [((one.start_ns, *one.tags.values()), one.fields) for one in store.ask(question)]
    assert found == sorted(expected.items(), key=lambda one: (one[0][0] or 0, one[0][1:]))


def _known(value: int | None) -> dict[str, float]:
    return {} if value is None else {"active_j": float(value)}
