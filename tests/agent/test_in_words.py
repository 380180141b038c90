"""What `joulefleet agent once` prints of a reading."""

from joulefleet.reading import Counts, Failure, MeterReading, WorkKey, WorkReading
from joulefleet_agent.in_words import in_words


def test_a_meter_is_told_with_units_and_without_what_it_does_not_tell() -> None:
    both = MeterReading(meter="GPU-1", counter_uj=5_250_000, power_mw=226_500, gauges={"temperature_c": 41.0})
    assert in_words(both) == "GPU-1: counter at 5.250 J, 226.5 W, temperature_c 41"
    assert in_words(MeterReading(meter="bmc", power_mw=350_000, age_ns=2_500_000_000)) == "bmc: 350.0 W, 2.5 s old"
    assert in_words(MeterReading(meter="m", counter_uj=1, activity_ns={"7": 1})) == "m: counter at 0.000 J, processes 1"


def test_an_engine_is_told_with_what_it_counts() -> None:
    key, counts = WorkKey(model="m", tenant="t"), Counts(requests_ok=3, output_tokens=0, busy_ns=1_500_000_000)
    told = in_words(WorkReading(engine="vllm", counts={key: counts}, running=2))
    assert told == "vllm: running 2; m t: requests_ok 3, output_tokens 0, busy 1.5 s"
    assert in_words(WorkReading(engine="vllm")) == "vllm: no work told"


def test_a_failure_is_told_with_its_code() -> None:
    assert in_words(Failure(subject="bmc", code="no_value", detail="0 W")) == "bmc: no_value: 0 W"
    assert in_words(Failure(subject="", code="hung")) == "hung"
