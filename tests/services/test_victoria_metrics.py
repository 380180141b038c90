"""A real VictoriaMetrics, fed through the v2 write API: what was written is there, once, and questions are refused."""

import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from collector.conftest import make_window, tiny_account
from fixtures.services import Server
from joulefleet.units import ns_to_s
from joulefleet_collector.check import prove
from joulefleet_collector.rows import Row
from joulefleet_collector.store.influx_config import InfluxConfig
from joulefleet_collector.store.influx_wire import Wire
from joulefleet_collector.store.influxdb import WRITE_ONLY, InfluxStore
from joulefleet_collector.store.lines import unkept
from joulefleet_collector.store.store import Accounted, Question, StoreUnavailable

NOW_NS = 1_790_000_000 * 10**9


@pytest.fixture
def store(victoria: Server, tmp_path: Path) -> Iterator[InfluxStore]:
    wire = Wire(InfluxConfig(url=victoria.url, bucket="fleet", org="any", read=False))
    with closing(InfluxStore(wire, tmp_path, lambda: "e", lambda: 1, lambda: NOW_NS)) as opened:
        yield opened


def exported(victoria: Server, name: str, **tags: str) -> list[dict[str, object]]:
    """Its series of this name and these tags, by its own export, after what it holds in memory is let out."""
    with urlopen(f"{victoria.url}/internal/force_flush", timeout=30):
        pass
    tests = ",".join([f'__name__="{name}"', *(f"{tag}={json.dumps(text)}" for tag, text in tags.items())])
    query = urlencode({"match[]": "{" + tests + "}", "reduce_mem_usage": "0"})
    with urlopen(Request(f"{victoria.url}/api/v1/export?{query}"), timeout=30) as answer:
        return [json.loads(line) for line in answer.read().splitlines()]


def test_every_row_is_there_with_its_tags_and_its_instant(victoria: Server, store: InfluxStore) -> None:
    window = make_window("vm-rows", 3, 77.25)
    rows = tiny_account(window)
    store.write([Accounted(window, window.encode(), rows)], 1)
    for row in rows:
        for field, number in row.fields.items():
            (series,) = exported(victoria, f"{row.kind}_{field}", server="vm-rows")
            metric = series["metric"]
            assert isinstance(metric, dict)
            # VictoriaMetrics adds the bucket's name as `db`.
            tags = {name: text for name, text in metric.items() if name not in ("__name__", "db")}
            assert tags == {name: text for name, text in row.tags.items() if text}
            assert series["values"] == [number]
            assert series["timestamps"] == [round(ns_to_s(row.start_ns)) * 1000]


def test_a_window_written_again_counts_once(victoria: Server, store: InfluxStore) -> None:
    for _ in range(3):
        for minute in range(5):
            window = make_window("vm-again", minute, 10.0)
            store.write([Accounted(window, window.encode(), tiny_account(window))], 1)
    query = urlencode(
        {
            "query": 'sum(sum_over_time(usage_active_j{server="vm-again"}[1h]))',
            "time": str(round(ns_to_s(make_window(minute=50).start_ns))),
        }
    )
    exported(victoria, "usage_active_j")
    with urlopen(f"{victoria.url}/api/v1/query?{query}", timeout=30) as answer:
        (found,) = json.load(answer)["data"]["result"]
    assert math.isclose(float(found["value"][1]), 50.0)


def test_tags_that_line_protocol_cannot_write_come_back(victoria: Server, store: InfluxStore) -> None:
    text = "a\\ b,c=d\n%é\\"
    window = make_window("vm-tags")
    row = Row("usage", window.start_ns, {"server": "vm-tags", "model": text}, {"active_j": 1.0})
    store.write([Accounted(window, window.encode(), [row])], 1)
    (series,) = exported(victoria, "usage_active_j", server="vm-tags")
    metric = series["metric"]
    assert isinstance(metric, dict)
    assert unkept(metric["model"]) == text


def test_questions_are_refused_and_the_check_says_what_is_not_proved(store: InfluxStore) -> None:
    assert store.epoch == WRITE_ONLY
    with pytest.raises(StoreUnavailable, match="only written to"):
        store.ask(Question(kind="usage", since_ns=0, until_ns=0))
    assert [proof.what for proof in prove(store, "vm", NOW_NS, readable=False)] == ["write", "read"]
