"""The page, as the agent's own reader and the library's parser read it."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from joulefleet.reading import Counts, WorkKey
from joulefleet_agent.proxy.asked import ROUTES
from joulefleet_agent.proxy.exchange import Exchange
from joulefleet_agent.proxy.page import page
from joulefleet_agent.proxy.tally import Ended, Spread, Tally
from joulefleet_agent.proxy.told import Tokens
from joulefleet_plugins.interfaces.exposition import Parser
from joulefleet_plugins.work.recognise import NotRecognised, recognise
from joulefleet_plugins.work.table import read_page

ODD = 'red "and"\nblue \\ é'


def told(tally: Tally, accept: str = "") -> str:
    body, _ = page(tally, 1_790_000_000.5, accept)
    return body.decode()


def alone() -> Tally:
    tally = Tally()
    tally.alone = True
    return tally


def of_one() -> Tally:
    tally = alone()
    between = Spread()
    between.see(0.05, 258)
    done = Ended(outcome="ok", served=True, tokens=Tokens(26, 16, 259), e2e_s=13.0, ttft_s=0.1, between=between)
    tally.end("m", ODD, done)
    tally.end("m", ODD, Ended(outcome="failed", served=False, e2e_s=1.0))
    running = [Exchange(ROUTES[0], ODD, lambda: 0), Exchange(ROUTES[0], ODD, lambda: 0)]
    for one in running:
        one.heard.model = "m"
        tally.running.add(one)
    return tally


def test_the_agent_reads_what_was_counted() -> None:
    text = told(of_one())
    parsed = Parser().parse(text)
    reading = read_page(parsed, recognise(parsed), "e")
    key = WorkKey("m", "", ODD)
    counts = Counts(
        requests_ok=1, requests_failed=1, requests_aborted=0, prompt_tokens=26, cached_tokens=16, output_tokens=259
    )
    assert reading.counts == {key: counts}
    assert (reading.running, reading.epoch) == (2, "1790000000.5")
    sums = {kind: sum(buckets.values()) for kind, buckets in reading.latency[key].items()}
    assert sums == {"ttft": 1, "itl": 258, "e2e": 1}


def test_tokens_that_nobody_told_are_absent() -> None:
    tally = alone()
    tally.end("m", "", Ended(outcome="ok", served=True, tokens=Tokens(3), has_output=False, e2e_s=1.0))
    parsed = Parser().parse(told(tally))
    (counts,) = read_page(parsed, recognise(parsed), "e").counts.values()
    assert (counts.prompt_tokens, counts.cached_tokens, counts.output_tokens) == (3, None, None)


def test_it_is_known_before_its_first_request() -> None:
    parsed = Parser().parse(told(alone()))
    assert recognise(parsed).software == "joulefleet-proxy"
    assert read_page(parsed, recognise(parsed), "e").counts == {}


def test_the_library_reads_it_too() -> None:
    tally = of_one()
    tally.refused["full"] += 3
    families = {one.name: one for one in text_string_to_metric_families(told(tally))}
    (sample,) = families["joulefleet_proxy_refused"].samples
    assert (sample.labels, sample.value) == ({"reason": "full"}, 3.0)
    assert told(tally, "application/openmetrics-text; version=1.0.0").endswith("# EOF\n")


def test_the_largest_page_is_one_that_the_agent_takes() -> None:
    tally = alone()
    between = Spread()
    between.see(0.05)
    for number in range(200):
        tally.end(
            "m" * 200,
            f"{number}" + "t" * 190,
            Ended(outcome="ok", served=True, tokens=Tokens(1, 1, 1), e2e_s=1.0, ttft_s=0.1, between=between),
        )
    text = told(tally)
    assert len(text) < 8 * 1024 * 1024
    assert text.count("\n") < 50_000


def test_before_a_server_that_shows_metrics_it_is_read_only_where_it_is_named() -> None:
    with pytest.raises(NotRecognised, match="joulefleet-proxy-front"):
        recognise(Parser().parse(told(Tally())))


def test_no_name_that_a_client_writes_makes_the_page_unreadable() -> None:
    tally = alone()
    header = b"\xff\xfe\r".decode("utf-8", "surrogateescape")
    tally.end("a\r\u2028\x85\x00b", header, Ended(outcome="ok", served=True, tokens=Tokens(1, None, 2), e2e_s=1.0))
    tally.running.add(Exchange(ROUTES[0], header, lambda: 0))
    page = Parser().parse(told(tally))
    assert recognise(page).software == "joulefleet-proxy"
    (key,) = (key for key in read_page(page, recognise(page), "e").counts if key.model)
    assert key == WorkKey("a\r\u2028\x85\x00b", "", "??\r")
