"""The beginning of a store on InfluxDB: its bucket or database is made where it is missing, its epoch left in it."""

from typing import Any

import msgspec

from joulefleet.grid import HOUR_NS, floor_to
from joulefleet.units import NS_PER_S
from joulefleet_collector.store.influx_config import InfluxConfig
from joulefleet_collector.store.influx_wire import Wire
from joulefleet_collector.store.influxql import name
from joulefleet_collector.store.store import DAY_NS, StoreUnavailable

_EPOCHS = "SELECT first(opened) FROM joulefleet_store GROUP BY epoch"


def ensure(wire: Wire, config: InfluxConfig) -> None:
    """Make the bucket or database where it is missing. Raises StoreUnavailable, which names a right that is missing."""
    if wire.present():
        return
    if not config.create:
        raise StoreUnavailable(config.place, "it is not there", "make it, or set create = true")
    if config.bucket:
        _make_bucket(wire, config)
    else:
        kept_s = _kept_s(config)
        duration = f" WITH DURATION {kept_s}s" if kept_s else ""
        wire.call("POST", "/query", data={"q": f"CREATE DATABASE {name(config.database)}{duration}"})


def epoch_of(wire: Wire, new_epoch: str, now_ns: int) -> str:
    """The epoch of the store; `new_epoch` where it has none, unless another collector was faster."""
    if not (found := epochs(wire)):
        leave(wire, new_epoch, now_ns)
        found = epochs(wire)
    if not found:
        raise StoreUnavailable(wire.place, "what was written is not there to read", "see its retention and its clock")
    return found[0]


def epochs(wire: Wire, timeout_s: float | None = None) -> list[str]:
    """Epochs that collectors have left here, the first one first."""
    (answer,) = wire.ask(_EPOCHS, timeout_s=timeout_s)
    return [epoch for _, epoch in sorted((str(one.values[0][0]).zfill(20), one.tags["epoch"]) for one in answer)]


def leave(wire: Wire, epoch: str, now_ns: int, timeout_s: float | None = None) -> None:
    """Say that the store lives, once an hour at most, so that its retention does not forget its epoch."""
    wire.write(f"joulefleet_store,epoch={epoch} opened=1 {floor_to(now_ns, HOUR_NS)}".encode(), timeout_s)


def _make_bucket(wire: Wire, config: InfluxConfig) -> None:
    """The bucket, and the mapping by which InfluxQL finds it under its name."""
    organisation = _first(wire.call("GET", "/api/v2/orgs", params={"org": config.org}), "orgs")
    if organisation is None:
        raise StoreUnavailable(
            config.place, f"there is no organisation '{config.org}'", "name one that is there as org"
        )
    ours = {"orgID": organisation["id"]}
    bucket = _first(wire.call("GET", "/api/v2/buckets", params={**ours, "name": config.bucket}), "buckets")
    if bucket is None:
        kept_s = _kept_s(config)
        rules = [{"type": "expire", "everySeconds": kept_s}] if kept_s else []
        made = {**ours, "name": config.bucket, "retentionRules": rules}
        bucket = msgspec.json.decode(wire.call("POST", "/api/v2/buckets", json=made))
    mapping = {
        **ours,
        "bucketID": bucket["id"],
        "database": config.name,
        "retention_policy": "autogen",
        "default": True,
    }
    wire.call("POST", "/api/v2/dbrps", json=mapping)


def _first(body: bytes, what: str) -> dict[str, Any] | None:
    several = msgspec.json.decode(body).get(what) or [None]
    found: dict[str, Any] | None = several[0]
    return found


def _kept_s(config: InfluxConfig) -> int:
    return round(config.retention_days * DAY_NS) // NS_PER_S
