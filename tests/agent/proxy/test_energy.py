"""Energy of an answer from the collector's figures, and its absence."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession

from fixtures.fake_appliance import raw_server
from joulefleet_agent.proxy.energy import STALE_NS, Energy, Estimate, Figure, estimate, figures_in
from joulefleet_agent.proxy.told import Tokens


def row(boundary: str, output_j: float | None = 2.0, model: str = "m", **more: Any) -> dict[str, Any]:
    return {"boundary": boundary, "model": model, "joules_per_output_token": output_j, "other": [], **more}


def figures(*rows: dict[str, Any]) -> dict[str, Figure]:
    return figures_in(json.dumps({"rows": rows, "ledger": []}).encode())


def test_the_widest_boundary_that_has_a_figure() -> None:
    told = figures(row("accelerator", 1.0), row("facility", 9.0), row("compute", 2.0), row("server", None))
    assert told == {"m": Figure("compute", 2.0, None)}


def test_simulated_joules_are_none() -> None:
    assert figures(row("server", simulated=True)) == {}


def test_what_is_no_answer() -> None:
    for body in (b"", b"{}", b'{"rows":[1]}', b'{"rows":[{}]}'):
        with pytest.raises(msgspec.MsgspecError):
            figures_in(body)


FIGURE = Figure("server", 2.0, 0.5)


@pytest.mark.parametrize(
    ("figure", "tokens", "energy_j"),
    [
        (FIGURE, Tokens(100, 40, 7), 14.0),
        (FIGURE, Tokens(100, 40, None), 30.0),
        (FIGURE, Tokens(100, None, 0), 50.0),
        (FIGURE, Tokens(), None),
        (None, Tokens(1, 1, 1), None),
        (Figure("server", None, 0.5), Tokens(100, 40, 7), None),
    ],
)
def test_a_figure_times_tokens(figure: Figure | None, tokens: Tokens, energy_j: float | None) -> None:
    told = estimate(figure, tokens)
    assert told == (None if energy_j is None else Estimate(energy_j, "server"))


def test_how_it_is_told() -> None:
    told = Estimate(12.345, "server")
    assert told.header == "12.35; preliminary; boundary=server"
    comment = told.comment('a"\n\ndata: x')
    assert comment == b': joulefleet energy_j=12.35 preliminary boundary=server model="a\\"\\n\\ndata: x"\n\n'
    assert comment.count(b"\n") == 2


async def asked(answer: bytes, now_ns: Callable[[], int], before: Callable[[Energy], None] = lambda _: None) -> Energy:
    async with raw_server(answer) as url, ClientSession() as session:
        energy = Energy(url, "gpu-17", "token", now_ns)
        await energy.refresh(session)
        before(energy)
    return energy


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body)) + body


async def test_figures_grow_old() -> None:
    now = [0]
    energy = await asked(http(json.dumps({"rows": [row("server")]}).encode()), lambda: now[0])
    assert energy.of("m", Tokens(1, 0, 3)) == Estimate(6.0, "server")
    assert energy.of("other", Tokens(1, 0, 3)) is None
    now[0] = STALE_NS
    assert energy.of("m", Tokens(1, 0, 3)) is not None
    now[0] += 1
    assert energy.of("m", Tokens(1, 0, 3)) is None


@pytest.mark.parametrize("answer", [http(b"no", b"503 Busy"), http(b"{"), b"", b"rubbish"])
async def test_a_collector_that_does_not_answer_is_told_once(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with raw_server(answer) as url, ClientSession() as session:
        energy = Energy(url, "", "s3cret-token", lambda: 0)
        for _ in range(3):
            await energy.refresh(session)
    assert energy.of("m", Tokens(1, 0, 3)) is None
    assert len([one for one in caplog.records if "energy_from" in one.message]) == 1
    assert "s3cret" not in caplog.text
