"""A row rests on the engines that its tags name, and on all members of the groups that are joined in it."""

from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from joulefleet.describe import Meter
from joulefleet.grid import HOUR_NS, rfc3339
from joulefleet.reading import Counts, WorkKey
from joulefleet.window import EngineWindow, Window, Work
from joulefleet_collector.answer.pipeline import answer_usage
from joulefleet_collector.answer.rates import Sites, SiteSeries
from joulefleet_collector.answer.series import Constant
from joulefleet_collector.answer.totals import Rules
from joulefleet_collector.api import instant, parse_usage
from joulefleet_collector.explain.explain_text import explained
from joulefleet_collector.explain.scope import Wanted
from joulefleet_collector.sites import Places
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import STEP_NS, Step

NOW_NS = 1_800_100_000_000_000_000
Shared = Callable[..., Window]
Put = Callable[..., int]
Tell = Callable[..., dict[str, Any]]
Hour = Callable[..., Window]


@pytest.fixture
def hour(shared: Shared, an_engine: Callable[..., EngineWindow]) -> Hour:
    """A window of a whole hour: one engine with a board of 33,000 J, a member of the group `g` of two or of none."""

    def made(number: int, server: str, tokens: int | None, group: str = "g", **changes: Any) -> Window:
        key = WorkKey("m" if tokens is not None else "", "", changes.pop("tenant", ""))
        prompts = None if tokens is None else 2 * tokens
        counts = Counts(output_tokens=tokens, prompt_tokens=prompts, requests_ok=tokens)
        work = [Work(key=key, counts=counts)]
        if key.tenant:
            work.append(Work(key=WorkKey("m", "", "other"), counts=counts))
        one = an_engine("a", changes.pop("share", 1.0), 30, 0, work=tuple(work), covered_ns=HOUR_NS)
        one.engine = msgspec.structs.replace(one.engine, group=group, group_size=2 if group else 0)
        start_ns = shared().start_ns + number * HOUR_NS
        board = {"covered_ns": HOUR_NS}
        return shared(server=server, board=board, step_ns=HOUR_NS, start_ns=start_ns, engines=(one,), **changes)

    return made


def test_a_joined_row_rests_on_the_windows_of_all_members(put: Put, told: Tell, hour: Hour) -> None:
    put(hour(0, "n1", 600), hour(0, "n2", None), hour(0, "n3", 50, group=""))
    found = told(model="m", group="g")
    assert found["equation"] == (
        "66,000.0 J (made by the hour of 2 windows of 3600 s, 2 servers) / 600 output tokens = 110 J/token"
    )
    assert found["check"]["agrees"] and not found["check"]["sums_only"]
    assert {meter["server"] for meter in found["meters"]} == {"n1", "n2"}
    assert found["division"]["groups"] == ["g"] and found["division"]["whole_j"] == 66_000.0


def test_a_row_may_have_groups_and_engines_that_stand_for_themselves(put: Put, told: Tell, hour: Hour) -> None:
    put(hour(0, "n1", 600), hour(0, "n2", None), hour(0, "n3", 60, group=""), hour(0, "n4", None, group=""))
    found = told(model="m", by="model")
    assert found["equation"].startswith("99,000.0 J (made by the hour of 3 windows of 3600 s, 3 servers) / 660 output")
    assert found["check"]["agrees"] and found["check"]["fields"][0]["windows"] == 3 * 3_600.0


def test_an_hour_in_which_a_member_is_silent_is_named_with_the_others(put: Put, told: Tell, hour: Hour) -> None:
    put(hour(0, "n1", 600), hour(0, "n2", None), hour(1, "n1", 700), hour(2, "n1", 600), hour(2, "n2", None))
    found = told(model="m", group="g")
    assert [one["figure_j"] for one in found["division"]["hours"]] == [66_000.0, 0.0, 66_000.0]
    assert found["division"]["missing"] == [
        {
            "start": rfc3339(hour(1, "n1", 0).start_ns),
            "group": "g",
            "server": "n1",
            "window_s": 3_600.0,
            "paired_s": 3_600.0,
        }
    ]
    assert found["status"] == "refused" and "coverage too low: 66.7%" in found["equation"]
    assert "of group g is refused: n1 pairs for 3,600 s" in explained(found, None, False)


def test_members_of_other_hardware_are_found_by_the_name_of_both(put: Put, told: Tell, hour: Hour) -> None:
    other = hour(0, "n2", None)
    other.meters[0].meter = msgspec.structs.replace(other.meters[0].meter, hw_model="H200")
    put(hour(0, "n1", 600), other)
    found = told(model="m")
    assert found["where"]["hardware"] == ["H100+H200"]
    assert found["windows"]["servers"] == 2 and found["check"]["agrees"]


def test_filters_of_a_group_are_not_those_of_its_members() -> None:
    joined = Wanted("server", {"boundary": ("server",), "model": ("m",)}, ("g",), joins=True)
    tags = {"boundary": "server", "simulated": "false"}
    assert joined.takes(tags | {"group": "g"}) and joined.takes(tags | {"model": "m"})
    assert not joined.takes(tags | {"group": "h", "model": "m"})
    assert not joined.takes(tags | {"group": "g", "simulated": "true"})
    assert Wanted("server", {"model": ("m",)}).takes(tags | {"group": "h", "model": "m"})


def psu(window: Window) -> Window:
    """The same with a meter of the whole server, of 60,000 J."""
    board = msgspec.structs.replace(window.meters[0], energy_uj=60_000_000_000, idle_mw=100_000 // 60)
    whole = Meter(id="psu", kind="server", grade="integrated", sensor_class="platform")
    return msgspec.structs.replace(window, meters=(*window.meters, msgspec.structs.replace(board, meter=whole)))


def mixed(hour: Hour, number: int) -> list[Window]:
    """An hour of a group over two servers and two kinds of hardware, and of engines of two sites and pools."""
    other = hour(number, "n2", None)
    other.meters[0].meter = msgspec.structs.replace(other.meters[0].meter, hw_model="H200")
    return [
        hour(number, "n1", 600),
        other,
        hour(number, "n3", 50 + number, group="", tenant="x", site="fra", pool="p", share=0.5),
        hour(number, "n4", 70, group="", tenant="y", site="ams", pool="p"),
    ]


def end_of(start: str, step: str) -> str:
    at_ns = instant(start, NOW_NS)
    return rfc3339(at_ns + STEP_NS[cast("Step", step)])


@pytest.mark.parametrize("step", ["none", "hour"])
@pytest.mark.parametrize(
    ("by", "boundary"),
    [
        ("model", "accelerator"),
        ("model,hardware", "accelerator"),
        ("tenant", "accelerator"),
        ("phase,server", "accelerator"),
        ("group", "accelerator"),
        ("site,tenant", "accelerator"),
        ("model", "fleet"),
        ("pool,tenant", "facility"),
    ],
)
def test_every_row_is_made_of_its_own_hours(
    store: EmbeddedStore, put: Put, told: Tell, hour: Hour, by: str, boundary: str, step: str
) -> None:
    put(*(psu(one) for number in range(2) for one in mixed(hour, number)), psu(hour(2, "n1", 10)))
    asked = {"by": by, "boundary": boundary, "step": step}
    places = Places(sites=Sites({"": SiteSeries(pue=Constant(1.5))}))
    rules = Rules(places=lambda: (places, ()))
    rows: Any = answer_usage(store, parse_usage([("since", "all"), *asked.items()], NOW_NS), rules)["rows"]
    assert rows
    for row in rows:
        # A filter may leave less to be divided, so that parts are rounded otherwise.
        of_row = {name: row[name] for name in by.split(",")}
        time = {"since": row["start"], "until": end_of(row["start"], step)} if "start" in row else {}
        found = told(figure="energy_j", places=places, **asked | of_row | time)
        assert found["value"] == pytest.approx(row["energy_j"], abs=1e-3)
        assert abs(found["check"]["row_residual_j"]) < 1e-3
        assert found["check"]["agrees"]
        assert not found["check"]["sums_only"] and not found["check"]["windows_only"]
