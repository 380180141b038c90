"""Where an engine runs, as a config says it: its devices, its hardware, its group and its phase."""

from typing import Annotated, NamedTuple

import msgspec

from joulefleet import WHOLE, Reservation
from joulefleet.describe import Phase


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device on which the server runs, by its meter's id, and the part of it that is reserved."""

    meter: str
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys that every source of work has in its config."""

    devices: tuple[str | Device, ...] = ()
    """Meters of the devices it runs on; none means the whole server."""
    hardware: str = ""
    """Name of the hardware where no device of its own tells it."""
    group: str = ""
    """The same for all engines, on any servers, that serve a model together."""
    group_size: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many engines the group has over all servers; 0 where it is not told."""
    phase: Phase = ""
    """The one phase that it does where prefill and decode are apart."""
    unit: str = ""
    """The unit of systemd (service or slice) in which it runs: tells its processes from those of other engines."""

    def __post_init__(self) -> None:
        meters = [one if isinstance(one, str) else one.meter for one in self.devices]
        if len(set(meters)) != len(meters):
            raise ValueError("a device is named twice in `devices`")
        if self.group_size and not self.group:
            raise ValueError("`group_size` is told without a `group`")


class Placed(NamedTuple):
    """The fields of an Engine that follow from its place."""

    devices: tuple[Reservation, ...]
    hardware: str
    group: str
    group_size: int
    phase: Phase
    unit: str


def placed(place: Place) -> Placed:
    """The place as an engine declares it."""
    devices = [Device(meter=one) if isinstance(one, str) else one for one in place.devices]
    reserved = tuple(Reservation(meter=one.meter, share_ppm=round(one.share * WHOLE)) for one in devices)
    return Placed(reserved, place.hardware, place.group, place.group_size, place.phase, place.unit)
