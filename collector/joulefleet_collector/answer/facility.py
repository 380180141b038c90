"""The boundary `facility`: the fleet, and what its site uses beside it for cooling and power, by the PUE of the hour.

An hour without a PUE has no energy at this boundary: it counts as time that does not pair, so that coverage falls, and
its work stands among the unmetered.
"""

from collections.abc import Iterable, Mapping

from joulefleet_collector.answer.overhead import Fields, grown
from joulefleet_collector.answer.rates import Sites
from joulefleet_collector.rows import COUNT_FIELDS
from joulefleet_collector.store.store import Total

WITHOUT_PUE = "without_pue_s"
"""Field that tells the seconds of windows of hours without a PUE."""
_KEPT = frozenset(("window_s", "group_s", "restarts", *(f"late_{name}" for name in COUNT_FIELDS)))


def with_facility(fleet: Iterable[Total], sites: Sites) -> list[Total]:
    """Sums of usage at `fleet`, each of one hour and with the tag `site`, as they are at `facility`."""
    return [
        Total(total.start_ns, total.tags | {"boundary": "facility"}, _of_hour(total, sites))
        for total in fleet
        if total.tags.get("boundary") == "fleet"
    ]


def _of_hour(total: Total, sites: Sites) -> Fields:
    pue = sites.at(total.tags.get("site", ""), total.start_ns or 0).pue
    return _unpaired(total.fields) if pue is None else grown(total.fields, pue)


def _unpaired(fields: Mapping[str, float]) -> Fields:
    out = {name: value for name, value in fields.items() if name in _KEPT}
    for name in COUNT_FIELDS:
        unmetered = f"unmetered_{name}"
        if name in fields or unmetered in fields:
            out[unmetered] = fields.get(unmetered, 0.0) + fields.get(name, 0.0)
    return out | {"paired_s": 0.0, WITHOUT_PUE: fields.get("window_s", 0.0)}
