"""The ledger row of a boundary: what was metered, and where all of it went, exact to the microjoule."""

from joulefleet.reading import COUNT_FIELDS, Counts
from joulefleet.units import ns_to_s, uj_to_j
from joulefleet_collector.account.books import Books
from joulefleet_collector.account.identity import Entry
from joulefleet_collector.account.scene import Scene
from joulefleet_collector.account.sensor import by_fault, by_sensor, by_state
from joulefleet_collector.account.split import BUCKETS
from joulefleet_collector.account.work import counted, known_sum


def ledger(books: Books, scene: Scene) -> Entry:
    """The entry of this boundary. Energy of all its meters, whether they were covered or not."""
    meters = books.cover.meters
    metered_uj = sum(reading.energy_uj for reading in meters)
    sums_uj = dict.fromkeys(BUCKETS, 0)
    for term in books.terms:
        sums_uj[term.bucket] += term.energy_uj
    fields = {
        "window_s": ns_to_s(scene.step_ns),
        "covered_s": ns_to_s(min(reading.covered_ns for reading in meters)),
        "metered_j": uj_to_j(metered_uj),
        **{f"{bucket}_j": uj_to_j(energy_uj) for bucket, energy_uj in sums_uj.items()},
        "residual_uj": float(metered_uj - sum(sums_uj.values())),
        **_other(books, scene, metered_uj),
        "late_j": uj_to_j(sum(reading.late_uj for reading in meters)),
        "rejected_j": uj_to_j(sum(reading.rejected_uj for reading in meters)),
        **by_state(meters),
        "faulty_s": sum([sum(by_fault(reading).values()) for reading in meters]),
        **by_sensor((m.meter.grade, m.meter.sensor_class, m.energy_uj) for m in meters),
        **_unmetered(books, scene),
    }
    return Entry("ledger", {"boundary": books.cover.boundary}, fields)


def _other(books: Books, scene: Scene, metered_uj: int) -> dict[str, float]:
    """The server less its known parts, signed; unknown where one of them was not covered."""
    cover = books.cover
    if cover.boundary != "server" or not all(scene.is_covered(m) for m in (*cover.meters, *cover.parts)):
        return {}
    return {"other_j": uj_to_j(metered_uj - sum(part.energy_uj for part in cover.parts))}


def _unmetered(books: Books, scene: Scene) -> dict[str, float]:
    """Work of engines that do not pair; 0 where all that count it do."""
    works = [(number, work.counts) for number, each in enumerate(scene.works) for work in each]
    sums = {}
    for field in COUNT_FIELDS:
        counts = [(number, getattr(each, field)) for number, each in works]
        sums[field] = known_sum(0 if number in books.paired_ns and n is not None else n for number, n in counts)
    return counted(Counts(**sums), "unmetered_")
