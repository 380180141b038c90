"""Whose page it is: one answer, or the reason why there is none."""

import pytest

from joulefleet_plugins.interfaces.exposition import Parser
from joulefleet_plugins.work.recognise import TABLES, NotRecognised, recognise
from joulefleet_plugins.work.table import Table


def of(text: str) -> str:
    return recognise(Parser().parse(text)).software


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.software)
def test_a_page_that_only_declares_its_counters_is_known(table: Table) -> None:
    names = [series.name for several in table.counters.values() for series in several]
    assert names
    text = "".join(f"# TYPE {table.prefixes[-1]}{name}_total counter\n" for name in (*names, *table.marks))
    if table.front:
        with pytest.raises(NotRecognised, match=table.software):
            of(text)
    else:
        assert of(text) == table.software


def test_a_worker_of_dynamo_is_the_engine_in_it() -> None:
    page = 'dynamo_component_requests_total{dynamo_component="backend"} 7\nvllm:generation_tokens_total 70\n'
    assert of(page) == "vllm"
    assert of(page + "dynamo_frontend_requests_total 7\n") == "vllm"


def test_a_server_before_its_first_request_is_known_by_its_gauges() -> None:
    assert of("tgi_queue_size 0\n") == "tgi"
    assert of('sglang:num_running_reqs{tp_rank="0"} 0\n') == "sglang"


def test_two_engines_on_one_page_are_ambiguous() -> None:
    with pytest.raises(NotRecognised, match="vllm, sglang: name the one") as error:
        of("vllm:generation_tokens_total 7\nsglang:generation_tokens_total 7\n")
    assert error.value.code == "ambiguous"


@pytest.mark.parametrize(
    "page",
    ["", "python_info 1\n", "request_success_total 7\n", "vllm:num_requests_running 7\n", "num_requests_running 3\n"],
)
def test_a_page_of_nobody_says_what_to_do(page: str) -> None:
    with pytest.raises(NotRecognised, match=r"\[sources.table\]") as error:
        of(page)
    assert error.value.code == "unrecognised"
