"""Joules by how they are known."""

from types import SimpleNamespace

from joulefleet.describe import GRADES, SENSOR_CLASSES
from joulefleet.units import s_to_ns
from joulefleet_collector.account.sensor import by_fault, by_sensor, by_state


def test_each_joule_stands_under_its_grade_and_its_class() -> None:
    fields = by_sensor(
        [("counter", "onboard", 2_000_000), ("modelled", "modelled", 500_000), ("counter", "onboard", 1)]
    )
    assert fields["counter_j"] == fields["class_onboard_j"] == 2.000001
    assert fields["modelled_j"] == fields["class_modelled_j"] == 0.5
    assert fields["percent_j"] == 0
    assert len(fields) == len(GRADES) + len(SENSOR_CLASSES)


def test_what_is_wrong_with_a_sensor_is_told_in_joules_and_seconds(build: SimpleNamespace) -> None:
    well, ill = build.meter("a", 100), build.meter("b", 50, covered_s=40)
    ill.states, ill.gaps_ns = ("stuck", "unvalidated"), {"stuck": s_to_ns(15), "implausible": s_to_ns(5)}
    assert by_state([well, ill]) == {"unvalidated_j": 50, "disagreeing_j": 0}
    # Its counter stood still all the time, in 40 s of which its gauge was told.
    assert by_fault(ill) == {"stuck_s": 55, "implausible_s": 5, "hung_s": 0, "stale_s": 0}
    assert not any(by_fault(well).values())
