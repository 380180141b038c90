"""The grammar of metrics pages, held against the parsers that prometheus_client has for them."""

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from joulefleet_plugins.interfaces.exposition import BadPage, Page, Parser, Sample


def parse(text: str, openmetrics: bool = False) -> Page:
    return Parser().parse(text, openmetrics)


def one(line: str, **kinds: bool) -> Sample:
    page = parse(line + "\n", **kinds)
    [[sample]] = page.samples.values()
    return sample


def test_a_page_is_read_as_its_server_names_its_format() -> None:
    assert Parser().read(b"a 7\n", "text/plain; version=0.0.4").samples["a"][0].value == 7
    with pytest.raises(BadPage, match="EOF"):
        Parser().read(b"a 7\n", "application/openmetrics-text; version=1.0.0")
    with pytest.raises(BadPage, match="UTF-8"):
        Parser().read(b"\xff 7\n", "text/plain")


def flat(page: Page) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (name, frozenset(sample.labels.items())): sample.value
        for name, samples in page.samples.items()
        for sample in samples
    }


def theirs(families: object) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families  # type: ignore[attr-defined]  # the parsers are untyped
        for sample in family.samples
    }


values = st.lists(st.text(max_size=20), min_size=1, max_size=5, unique=True)
amounts = st.floats(min_value=0, max_value=1e18)


@given(labels=values, amount=amounts, latency_s=amounts)
def test_reads_what_prometheus_client_writes(labels: list[str], amount: float, latency_s: float) -> None:
    registry = CollectorRegistry()
    counter = Counter("prompt_tokens", "Prompt tokens,\nall of them \\ {x}", ["model_name"], registry=registry)
    gauge = Gauge("running", "", ["a", "b"], registry=registry)
    latency = Histogram("latency_seconds", "", ["a"], registry=registry)
    for label in labels:
        counter.labels(label).inc(amount, exemplar={"trace": "7 # {a}"})
        gauge.labels(label, label[::-1]).set(-amount)
        latency.labels(label).observe(latency_s)
    text = generate_latest(registry).decode()
    assert flat(parse(text)) == theirs(parse_text(text))
    text = openmetrics.generate_latest(registry).decode()
    assert flat(parse(text, openmetrics=True)) == theirs(parse_openmetrics(text))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1.15891634176e+011", 115891634176.0),
        ("8.128902e+06", 8128902.0),
        ("+Inf", math.inf),
        ("-Inf", -math.inf),
        ("472.", 472.0),
        (".5", 0.5),
        ("-3", -3),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_numbers(written: str, value: float) -> None:
    assert one(f"m {written}").value == value


def test_not_a_number_is_a_value() -> None:
    assert math.isnan(one("m NaN").value)


@pytest.mark.parametrize("written", ["1_000", "0x10", "1e", "abc", "", "\uff11", "--1", "1,5", "1 2 3"])
def test_what_is_no_number(written: str) -> None:
    with pytest.raises(BadPage, match="line 2") as bad:
        parse(f"ok 1\nm {written}\n")
    assert (bad.value.code, bad.value.line) == ("malformed", 2)


@pytest.mark.parametrize(
    "value", ["a b", "a,b", 'say "hi"', "back\\slash", "{x=1}", "a=b # c", "line\nfeed", "a\u2028b\x0bc\rd", ""]
)
def test_label_values_may_hold_anything(value: str) -> None:
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    assert one(f'm{{a="{escaped}",b="2",}} 3').labels == {"a": value, "b": "2"}


@pytest.mark.parametrize(
    "line",
    [
        'm{a="1"} 3 1395066363000',
        'm{a="1"} 3 # {trace_id="K # }"} 0.67',
        'm{a="1"} 3 1.5 # {} 0.67 1.6e9',
        '  m { a = "1" , } \t3 \r',
        'm{a="1"}3',
        '{"m",a="1"} 3',
        '{a="1","m"} 3',
    ],
)
def test_times_exemplars_spaces_and_quoted_names(line: str) -> None:
    page = parse(line + "\n")
    assert flat(page) == {("m", frozenset({("a", "1")})): 3}


@pytest.mark.parametrize(
    "line",
    [
        "m",
        "5",
        " 5",
        'm{a="1" 3',
        "m{a=1} 3",
        "m{a} 3",
        'm{a="1} 3',
        'm{a="1"b="2"} 3',
        "m{,} 3",
        'm{a="0",a="0"} 3',
        'm{"n"} 3',
        '{"",a="1"} 3',
        '{a="1"} 3',
        'm{a="1"} 3 # trace',
        "9m 3",
        "# TYPE m",
        "# TYPE m counter extra",
    ],
)
def test_a_line_that_is_none_refuses_the_page(line: str) -> None:
    with pytest.raises(BadPage) as bad:
        parse(f"ok 1\n\n{line}\nlater 2\n")
    assert (bad.value.code, bad.value.line) == ("malformed", 3)
    assert str(bad.value).startswith("line 3: ")


def test_types_comments_and_blank_lines() -> None:
    page = parse('# HELP m of {all "kinds\n#\n# nothing\n\n# TYPE m counter\n# TYPE "n o" gauge\n# EOF\nm 1\n')
    assert page.types == {"m": "counter", "n o": "gauge"}
    assert page.samples == {"m": [Sample({}, 1, 8)]}


def test_a_page_that_is_one_json_string() -> None:
    text = '# TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total{a="b"} 6886\n'
    assert parse(json.dumps(text)) == parse(text)


def test_a_broken_json_string_is_malformed() -> None:
    with pytest.raises(BadPage, match="JSON") as bad:
        parse('"# TYPE m coun')
    assert bad.value.code == "malformed"


def test_an_empty_page_has_no_samples() -> None:
    assert parse("") == Page({}, {})


def test_a_page_that_is_cut_off() -> None:
    with pytest.raises(BadPage) as bad:
        parse("m 100\nm2 12")
    assert bad.value.code == "truncated"


@pytest.mark.parametrize("text", ["m 1\n", "", "m 1\n# EO", 'm{a="# EOF"} 1\n'])
def test_openmetrics_needs_its_end(text: str) -> None:
    with pytest.raises(BadPage) as bad:
        parse(text, openmetrics=True)
    assert bad.value.code == "truncated"


def test_nothing_follows_the_end_of_openmetrics() -> None:
    assert flat(parse("m 1\n# EOF", openmetrics=True)) == {("m", frozenset()): 1}
    with pytest.raises(BadPage) as bad:
        parse("m 1\n# EOF\nm 1\n# EOF\n", openmetrics=True)
    assert bad.value.code == "malformed"


lines = st.sampled_from(
    (
        "m 1",
        "m 2.5",
        "m  3",
        "m 4 5",
        "m 6\r",
        'm{a="b"} 7',
        'm{a="b"}8',
        'm{a="b 9"} 10 # {c="d"} 11',
        "m x",
        "# m 12",
        "",
    )
)


@given(pages=st.lists(st.lists(lines, max_size=6), max_size=4))
def test_what_came_before_makes_no_difference(pages: list[list[str]]) -> None:
    parser = Parser()
    for text in ("".join(f"{line}\n" for line in page) for page in pages):
        assert told(parser, text) == told(Parser(), text)


def told(parser: Parser, text: str) -> Page | tuple[str, int]:
    try:
        return parser.parse(text)
    except BadPage as bad:
        return bad.detail, bad.line


@given(st.text(alphabet=st.sampled_from('m{}=",\\ \t#1.e+\n'), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        page = parse(text)
    except BadPage:
        return
    assert all(isinstance(sample.value, int | float) for samples in page.samples.values() for sample in samples)


@pytest.mark.parametrize("line", ["m" + " " * 200_000 + "x", 'm{a="1"' + " " * 200_000 + "x", "m{" + 'a="1",' * 40_000])
def test_an_odd_line_takes_no_more_than_linear_time(line: str) -> None:
    began_s = time.process_time()
    with pytest.raises(BadPage):
        parse(line + "\n")
    # Quadratic time would be minutes.
    assert time.process_time() - began_s < 5
