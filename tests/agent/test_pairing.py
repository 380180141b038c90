"""Whether one meter may calibrate another, and what gain their blocks tell."""

import random
from typing import Any

import msgspec
import pytest

from joulefleet.describe import Meter
from joulefleet.reading import MeterReading
from joulefleet_agent.listen import Heard
from joulefleet_agent.pairing import Block, Found, Pairing, Refused, block_ns_of, judged, unlike
from joulefleet_agent.sampler import Opened, Said

S = 1_000_000_000
J = 1_000_000
T0 = 1_500_000_000 * S
BMC = Meter(id="bmc", kind="server", grade="integrated", sensor_class="platform", period_ns=S)
PDU = Meter(id="pdu", kind="server", grade="counter", sensor_class="reference", resolution_uj=J, period_ns=S)
BOARD = Meter(id="gpu", kind="accelerator", grade="counter", sensor_class="onboard", device="GPU-1")
RISER = Meter(id="riser", kind="accelerator", grade="integrated", sensor_class="reference", device="GPU-1")


def changed(meter: Meter, **changes: Any) -> Meter:
    return msgspec.structs.replace(meter, **changes)


def test_two_meters_of_one_thing_may_be_compared() -> None:
    assert [unlike(BMC, PDU), unlike(BOARD, RISER)] == ["", ""]


@pytest.mark.parametrize(
    ("meter", "reference", "reason"),
    [
        (PDU, PDU, "no reference for itself"),
        (BOARD, PDU, "measure different things"),
        (BOARD, changed(RISER, device="GPU-2"), "do not declare one `device`"),
        (changed(BOARD, device=""), changed(RISER, device=""), "do not declare one `device`"),
        (changed(BOARD, kind="psys", device="psys"), changed(RISER, kind="psys", device=""), "declare one `device`"),
        (
            changed(BMC, sensor_class="modelled"),
            changed(PDU, grade="modelled"),
            "only what measures can be a reference",
        ),
        (BMC, changed(PDU, grade="residual"), "only what measures can be a reference"),
        (changed(BMC, grade="modelled"), PDU, "no gain makes a measurement"),
        (PDU, BMC, "is not known better"),
        (BMC, changed(PDU, sensor_class="platform"), "is not known better"),
    ],
)
def test_what_is_unlike_is_refused_with_the_reason(meter: Meter, reference: Meter, reason: str) -> None:
    assert reason in unlike(meter, reference)


@pytest.mark.parametrize(
    ("rhythms_s", "block_s"), [((1, 1), 10), ((1, 2.5), 15), ((5, 1), 30), ((60, 1), 300), ((500, 1), 600)]
)
def test_a_block_holds_some_rhythms_of_the_slower_meter(rhythms_s: tuple[float, float], block_s: int) -> None:
    meters = [changed(PDU, refresh_ns=round(one * S)) for one in rhythms_s]
    assert block_ns_of(meters) == block_s * S


def heard(
    seconds: int, gain: float = 1.04, watts: Any = lambda second: 300, fails: Any = lambda second: False
) -> list[Heard]:
    """A server whose BMC tells too little by `gain`, and its outlet."""
    out, joules = [Heard(0, T0, Opened("bmc", (BMC,))), Heard(0, T0, Opened("pdu", (PDU, BOARD)))], 0
    for second in range(seconds):
        at_ns = second * S
        if not fails(second):
            reading = MeterReading(meter="bmc", power_mw=round(1_000 * 300 / gain))
            out.append(Heard(at_ns, T0 + at_ns, Said("bmc", at_ns, (reading,))))
        other = MeterReading(meter="gpu", counter_uj=5)
        counted = MeterReading(meter="pdu", counter_uj=joules * J)
        out.append(Heard(at_ns, T0 + at_ns, Said("pdu", at_ns, (counted, other))))
        joules += 300
    return out


def blocks(said: list[Heard]) -> list[Block]:
    pairing = Pairing("bmc", "pdu", 10 * S)
    return [*(one for each in said for one in pairing.take(each)), *pairing.end()]


def test_both_are_cut_into_the_same_blocks() -> None:
    found = blocks(heard(61, gain=1.0))
    assert found == [Block(3_000 * J, 3_000 * J)] * 6


def test_a_block_that_one_of_them_did_not_tell_whole_is_left_out() -> None:
    whole, torn = blocks(heard(61)), blocks(heard(61, fails=lambda second: 23 <= second <= 31))
    assert len(whole) == 6
    assert torn == whole[:2] + whole[4:]


def test_a_counter_that_gives_way_to_its_gauge_makes_no_blocks() -> None:
    said = [Heard(0, T0, Opened("s", (changed(BOARD, refresh_ns=S), RISER)))]
    for second in range(1_500):
        stands = MeterReading(meter="gpu", counter_uj=300 * min(second, 100) * J, power_mw=270_000)
        riser = MeterReading(meter="riser", power_mw=300_000)
        said.append(Heard(second * S, T0 + second * S, Said("s", second * S, (stands, riser))))
    pairing = Pairing("gpu", "riser", 10 * S)
    assert [one for each in said for one in pairing.take(each)] == [Block(3_000 * J, 3_000 * J)] * 10


def test_the_gain_and_what_it_may_be_off_by() -> None:
    found = judged(blocks(heard(301)), 10 * S, BMC, PDU)
    assert found.gain_ppm == pytest.approx(1_040_000, abs=10)
    assert (found.reference_ppm, found.blocks, found.block_s) == (10_000, 30, 10)
    assert (found.noise_ppm, found.load_ppm) == (0, 0)
    assert found.uncertainty_ppm == 10_000
    assert (found.least_w, found.most_w) == (300.0, 300.0)


def test_noise_and_a_gain_that_depends_on_load_are_told() -> None:
    chance = random.Random(1)
    noisy = [Block(round(3_000 * J * chance.gauss(1, 0.02)), 3_000 * J) for _ in range(60)]
    found = judged(noisy, 10 * S, BMC, PDU)
    assert found.noise_ppm == pytest.approx(1e6 * 0.02 / 60**0.5, rel=0.3)
    # An offset of 10 W is no gain: at 100 W it is 10 %, at 400 W 2.5 %.
    offset = [Block((power + 3) * 10 * J, power * 10 * J) for power in [100, 400] * 20]
    shaped = judged(offset, 10 * S, BMC, PDU)
    assert shaped.load_ppm > 5_000 and shaped.uncertainty_ppm > found.uncertainty_ppm


def good() -> list[Block]:
    return [Block(3_000 * J, 3_100 * J)] * 30


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (good()[:11], "only 11 whole blocks of 10 s"),
        ([], "only 0 whole blocks"),
        ([Block(3_000, 3_000)] * 30, "too little energy: pdu"),
        ([Block(0, 3_000 * J)] * 30, "too little energy: bmc"),
        ([Block(1_000 * J, 3_000 * J)] * 30, "another unit"),
        ([Block(3_000 * J, 3_000 * J), Block(5_000 * J, 3_000 * J)] * 10, "too noisy"),
        ([Block((power + 100) * J, power * J) for power in [100_0, 400_0] * 20], "too noisy"),
    ],
)
def test_what_tells_no_gain_is_refused(given: list[Block], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        judged(given, 10 * S, BMC, PDU)


def test_a_gain_that_is_known_no_better_than_the_meter_is_refused() -> None:
    with pytest.raises(Refused, match="no better than it is now"):
        judged([Block(round(3_000 * J * f), 3_000 * J) for f in (0.97, 1.03) * 15], 10 * S, changed(PDU, id="x"), PDU)
    assert isinstance(judged(good(), 10 * S, BMC, PDU), Found)
