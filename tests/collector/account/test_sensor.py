"""Joules by how they are known."""

from joulefleet.describe import GRADES, SENSOR_CLASSES
from joulefleet_collector.account.sensor import by_sensor


def test_each_joule_stands_under_its_grade_and_its_class() -> None:
    fields = by_sensor(
        [("counter", "onboard", 2_000_000), ("modelled", "modelled", 500_000), ("counter", "onboard", 1)]
    )
    assert fields["counter_j"] == fields["class_onboard_j"] == 2.000001
    assert fields["modelled_j"] == fields["class_modelled_j"] == 0.5
    assert fields["percent_j"] == 0
    assert len(fields) == len(GRADES) + len(SENSOR_CLASSES)
