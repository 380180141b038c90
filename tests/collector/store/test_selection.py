"""Which series a question is about, and that looking them up one by one answers as reading all does."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from joulefleet.window import Window
from joulefleet_collector.rows import Row
from joulefleet_collector.store import selection
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import MINUTE_NS, Accounted, Question, Total

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
