"""Which versions made a figure is told with the time of each."""

from collections.abc import Callable

import msgspec

from joulefleet.grid import rfc3339
from joulefleet.window import Window
from joulefleet_collector.explain.seen import Seen
from joulefleet_collector.explain.versions import Versions
from joulefleet_collector.rows import Row

Shared = Callable[..., Window]
See = Callable[..., Seen | None]


def listed(see: See, *windows: Window) -> list[tuple[str, str, str, str, int]]:
    versions = Versions()
    for window in windows:
        seen = see(window)
        assert seen is not None
        versions.add(seen)
    return [(one.what, one.value, one.since, one.until, one.servers) for one in versions.listed()]


def test_declarations_and_facts_of_the_server_are_told(shared: Shared, see: See) -> None:
    first, end = rfc3339(shared(0).start_ns), rfc3339(shared(1).end_ns)
    assert listed(see, shared(0), shared(1, server="n2")) == [
        ("agent", "0.1.0", first, end, 2),
        ("config", "c0ffee", first, end, 2),
        ("driver", "570", first, end, 2),
        ("engine", "vllm 0.10", first, end, 2),
        ("schema", "1", first, end, 2),
    ]


def test_a_change_has_both_values_in_the_order_in_which_they_were(shared: Shared, see: See) -> None:
    one, other = shared(0), shared(1)
    engine = other.engines[0]
    newer = msgspec.structs.replace(engine, engine=msgspec.structs.replace(engine.engine, version="0.9"))
    after = msgspec.structs.replace(other, engines=(newer, *other.engines[1:]))
    changed = [told for told in listed(see, one, after) if told[0] == "engine"]
    middle = rfc3339(other.start_ns)
    assert [(value, since, until) for _, value, since, until, _ in changed] == [
        ("vllm 0.10", rfc3339(one.start_ns), middle),
        ("vllm 0.9", middle, rfc3339(other.end_ns)),
    ]


def fact(what: str, value: str, start_ns: int, server: str = "n1") -> Row:
    return Row("facts", start_ns, {"server": server, "fact": what, "value": value}, {"seen": 1.0})


def test_facts_that_no_window_tells_are_those_that_were_told_last_before(shared: Shared, see: See) -> None:
    window = shared(facts={"agent": "0.2"})
    seen = see(window)
    assert seen is not None
    versions = Versions()
    versions.add(seen)
    before = [
        fact("agent", "0.1", window.start_ns - 5),
        fact("config", "old", window.start_ns - 9),
        fact("config", "c0ffee", window.start_ns - 5),
        fact("config", "later", window.end_ns),
        fact("config", "another", window.start_ns - 1, server="n2"),
        fact("driver:gpu0", "560", window.start_ns - 5),
    ]
    versions.remember(before, {"n1"}, window.end_ns)
    found = [(one.what, one.value) for one in versions.listed()]
    assert [told for told in found if told[0] in {"agent", "config", "driver"}] == [
        ("agent", "0.2"),
        ("config", "c0ffee"),
        ("driver", "570"),
    ]


def test_of_a_server_without_windows_the_facts_of_its_boards_are_taken_too() -> None:
    versions = Versions()
    versions.remember([fact("driver:gpu0", "570", 5), fact("driver:gpu1", "570", 6), fact("agent", "1", 5)], ["n1"], 9)
    assert [(one.what, one.value, one.servers) for one in versions.listed()] == [
        ("agent", "1", 1),
        ("driver", "570", 1),
    ]
