"""The policy of accounting: the choices that change what a row says, and never which rows there are."""

from typing import Annotated, Literal

import msgspec

Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Weight = Annotated[int, msgspec.Meta(ge=1)]
Watts = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
Idle = Literal["by_reservation", "by_use", "separate"]


class BusyWatts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device draws above idle while it computes for one model."""

    hardware: str
    """Its `hw_model`, as in the tag `hardware`."""
    model: str
    prefill_w: Watts
    """While it reads prompts."""
    decode_w: Watts
    """While it computes anything else."""

    def __post_init__(self) -> None:
        """Raises ValueError where nothing is drawn at all."""
        if not self.prefill_w and not self.decode_w:
            raise ValueError(f"busy_watts of {self.model!r} on {self.hardware!r}: prefill_w and decode_w are both 0")


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Choices of accounting. Windows that were accounted under another policy are brought over by a recount."""

    version: int = 1
    """Raised by whoever changes a value, so that history can be told apart."""
    pair_threshold: Part = 0.95
    """Part of the window in which the engine and all its meters must be covered; ACCOUNTING section 5."""
    idle: Idle = "by_reservation"
    """Who pays for idle power: those who hold a device by how much they hold, those who use it as they share what is
    above idle, or nobody, so that it stands apart as `idle_unallocated`. The totals are equal."""
    prefill_weight: Weight = 1
    decode_weight: Weight = 10
    """Energy of an output token against that of a computed prompt token; ACCOUNTING section 4."""
    decode_weight_range: tuple[Weight, Weight] = (5, 25)
    """Over which the decode weight is varied, to say how far a split depends on it."""
    model_weights: dict[str, Weight] = {}
    """Size of one token's work by model (such as active parameters in millions), to compare models on one device;
    used where every model on the device is named."""
    phase_weights: dict[str, tuple[Weight, Weight]] = {}
    """Energy of a computed prompt token and of an output token by model, where it is known (as fitted to its windows):
    used in place of the two weights above to tell prefill from decode."""
    busy_watts: tuple[BusyWatts, ...] = ()
    """Watts by hardware and model, as `joulefleet store fit-watts` finds them: busy time is weighed with them where
    every model that shares is named; by busy time alone all models are taken to draw the same."""
    idle_learnt_error: Part = 0.05
    """Relative standard uncertainty of learnt idle power: the gain of an onboard sensor."""
    idle_catalogue_error: Part = 0.25
    """The same for idle power from a catalogue: boards of one model differ by a quarter in firmware and cooling."""

    def __post_init__(self) -> None:
        """Raises ValueError where one model on one hardware has watts twice."""
        named = [(each.hardware, each.model) for each in self.busy_watts]
        if len(set(named)) < len(named):
            twice = [pair for pair in named if named.count(pair) > 1]
            raise ValueError(f"busy_watts names {twice[0][1]!r} on {twice[0][0]!r} more than once; leave one of them")
