"""Which versions made a figure is told with the time of each."""

from collections.abc import Callable

import msgspec

from joulefleet.grid import rfc3339
from joulefleet.window import Window
from joulefleet_collector.explain.seen import Seen
from joulefleet_collector.explain.versions import Versions

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
