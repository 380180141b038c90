"""Whether the server is asked for the tokens of its streams, and for how long a refusal counts."""

import json
import socket

from aiohttp import ClientSession, web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from fixtures.fake_appliance import FakeAppliance
from fixtures.fake_vllm import FakeVllm
from joulefleet_agent.proxy.asked import ROUTES, asked_of
from joulefleet_agent.proxy.upstream import REFUSED_FOR_NS, Upstream

PATH = ROUTES[0].path
BODY = b'{"model":"m","stream":true}'


async def asked(upstream: Upstream) -> bool:
    request: web.Request = make_mocked_request("POST", PATH)
    response, hides = await upstream.ask_for_usage(request, CIMultiDict(), asked_of(ROUTES[0], BODY))
    await response.read()
    return hides


async def test_a_refusal_is_remembered_for_an_hour(appliance: FakeAppliance) -> None:
    now_ns = 0
    appliance.knows_option = False
    async with ClientSession() as session:
        upstream = Upstream(appliance.url, session, lambda: now_ns)
        assert [await asked(upstream) for _ in range(2)] == [False, False]
        assert len(appliance.asked) == 3
        now_ns = REFUSED_FOR_NS + 1
        appliance.knows_option = True
        assert await asked(upstream)


async def test_one_that_took_it_once_is_not_asked_twice(appliance: FakeAppliance) -> None:
    async with ClientSession() as session:
        upstream = Upstream(appliance.url + "/", session, lambda: 0)
        assert await asked(upstream)
        appliance.knows_option = False
        assert await asked(upstream)
    assert len(appliance.asked) == 2
    assert all("stream_options" in json.loads(body) for *_, body in appliance.asked)


async def test_whether_it_has_a_metrics_page(appliance: FakeAppliance) -> None:
    async with ClientSession() as session:
        assert await Upstream(appliance.url, session, lambda: 0).shows_metrics() is False
        with FakeVllm() as engine:
            assert await Upstream(f"http://{engine.address}", session, lambda: 0).shows_metrics() is True
        with socket.create_server(("127.0.0.1", 0)) as taken:
            nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert await Upstream(nobody, session, lambda: 0).shows_metrics() is None
