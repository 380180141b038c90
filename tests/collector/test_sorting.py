"""Good windows with their rows, bad ones with their reasons: the same whether they are accounted alone or together."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from joulefleet.delivery import Batch
from joulefleet.units import NS_PER_S
from joulefleet.window import Window, decode, decode_json
from joulefleet_collector import sorting as module
from joulefleet_collector.account.account import account
from joulefleet_collector.account.accounting import Accounting
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.rows import Row
from joulefleet_collector.sheet import SheetRows
from joulefleet_collector.sorting import Arrived, Sorted, Sorter
from joulefleet_collector.store.store import DAY_NS

AWindow = Callable[..., Window]
KEEP_NS = 7 * DAY_NS


def by_definition(window: Window) -> list[Row]:
    return account(window, Policy())


@pytest.fixture
def sorter() -> Sorter:
    return Sorter(Accounting(Policy()), KEEP_NS)


def server(a_window: AWindow, name: str = "a", minute: int = 0, **changed: Any) -> Window:
    """A server with a board of its own, of which all can be accounted together."""
    window = a_window(name, minute)
    (whole,), (engine,) = window.meters, window.engines
    declared = msgspec.structs.replace(whole.meter, id="gpu0", kind="accelerator")
    board = msgspec.structs.replace(whole, meter=declared)
    return msgspec.structs.replace(window, **{"meters": (board, whole), "engines": (engine,)} | changed)


def arrived(now_ns: int, *bodies: bytes, read: Any = decode, backfill: bool = False) -> Arrived:
    return Arrived(Batch(backfill=backfill, windows=[msgspec.Raw(body) for body in bodies]), read, now_ns)


def told(found: Sorted) -> list[tuple[int, str, int | None]]:
    return [(one.index, one.code, one.start_ns) for one in found.rejected]


def test_windows_with_known_declarations_are_accounted_together(
    sorter: Sorter, a_window: AWindow, start_ns: int
) -> None:
    windows = [server(a_window, name, minute) for name in "ab" for minute in range(3)]
    (found,) = sorter.sort_out([arrived(start_ns + 10**12, *(one.encode() for one in windows))])
    assert [one.window.key for one in found.accounted] == [one.key for one in windows]
    assert [one.body for one in found.accounted] == [one.encode() for one in windows]
    for one, window in zip(found.accounted, windows, strict=True):
        assert isinstance(one.rows, SheetRows)
        assert {(row.kind, *sorted(row.tags.items())) for row in one.rows} == {
            (row.kind, *sorted(row.tags.items())) for row in by_definition(window)
        }


def test_json_and_other_windows_are_accounted_by_the_definition(
    sorter: Sorter, a_window: AWindow, start_ns: int
) -> None:
    plain = server(a_window)
    (found,) = sorter.sort_out([arrived(start_ns, plain.encode_json(), read=decode_json)])
    assert found.accounted[0].rows == by_definition(plain)
    boardless = a_window()
    (found,) = sorter.sort_out([arrived(start_ns, boardless.encode())])
    assert found.accounted[0].rows == by_definition(boardless)


def spoiled(a_window: AWindow) -> list[bytes]:
    """Windows of one server, good and bad, in every way that a number or a declaration can be bad."""
    good = server(a_window)
    board, whole = good.meters
    engine = good.engines[0]

    def with_board(**changed: Any) -> Window:
        return msgspec.structs.replace(good, meters=(msgspec.structs.replace(board, **changed), whole))

    windows = [
        good,
        with_board(energy_uj=-5, last_uj=0),
        with_board(last_uj=0),
        with_board(covered_ns=good.step_ns + 1),
        with_board(meter=whole.meter),
        with_board(gauges={"x": float("nan")}),
        msgspec.structs.replace(good, start_ns=good.start_ns + 1),
        msgspec.structs.replace(good, labels={"server": "x"}),
        msgspec.structs.replace(good, schema=9),
        msgspec.structs.replace(good, engines=(msgspec.structs.replace(engine, restarts=-1),)),
        server(a_window, minute=-8 * 24 * 60),
        server(a_window, minute=9),
        good,
    ]
    return [*(one.encode() for one in windows), b"", b"\xc0", good.encode()[:-1]]


@pytest.mark.parametrize("backfill", [False, True])
def test_the_same_windows_are_refused_for_the_same_reasons(
    sorter: Sorter, a_window: AWindow, start_ns: int, backfill: bool
) -> None:
    bodies = spoiled(a_window)
    came = arrived(start_ns + NS_PER_S, *bodies, backfill=backfill)
    (expected,) = Sorter(by_definition, KEEP_NS).sort_out([came])
    assert len(expected.rejected) == len(bodies) - (3 if backfill else 2)
    for _ in range(2):
        (found,) = sorter.sort_out([came])
        assert found.rejected == expected.rejected
        assert sorted(one.window.key for one in found.accounted) == sorted(one.window.key for one in expected.accounted)


def test_each_batch_has_its_own_outcome_however_many_there_are(
    sorter: Sorter, a_window: AWindow, start_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 3)
    batches = [
        arrived(start_ns, server(a_window, f"s{number}").encode(), *[b"\xc0"][: number % 2]) for number in range(8)
    ]
    found = sorter.sort_out(batches)
    assert [[one.window.server for one in each.accounted] for each in found] == [[f"s{n}"] for n in range(8)]
    assert [told(each) for each in found] == [[(1, "malformed", None)][: number % 2] for number in range(8)]


def test_where_they_cannot_be_accounted_together_each_is_accounted_alone(
    a_window: AWindow, start_ns: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Accounting):
        def at_once(self, windows: Any) -> Any:
            raise ZeroDivisionError

    window = server(a_window)
    (found,) = Sorter(Broken(Policy()), KEEP_NS).sort_out([arrived(start_ns, window.encode())])
    assert found.accounted[0].rows == by_definition(window)
    assert "ZeroDivisionError" in caplog.text


def test_a_fault_of_accounting_is_told_of_its_window_alone(a_window: AWindow, start_ns: int) -> None:
    def broken(window: Window) -> list[Row]:
        if window.server == "odd":
            raise ZeroDivisionError
        return by_definition(window)

    bodies = [server(a_window, name).encode() for name in ("odd", "good")]
    (found,) = Sorter(broken, KEEP_NS).sort_out([arrived(start_ns, *bodies)])
    assert told(found) == [(0, "not_accounted", start_ns)]
    assert [one.window.server for one in found.accounted] == ["good"]
