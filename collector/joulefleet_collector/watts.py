"""Fitted watts for a person to judge and to copy: a table of the fits, and the lines of the config that use them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from joulefleet_collector.account.fit import Fit
from joulefleet_collector.account.policy import BusyWatts, Policy
from joulefleet_collector.report_table import Column, table

UNKNOWN = "-"


def with_watts(policy: Policy, fits: Sequence[Fit]) -> Policy | None:
    """The policy's next version with these watts; what it has of others stays. None where no watts were found."""
    found = {(each.hardware, each.model): each for fit in fits for each in fit.watts}
    if not found:
        return None
    known = {(each.hardware, each.model): each for each in policy.busy_watts} | found
    watts = tuple(known[name] for name in sorted(known))
    return msgspec.structs.replace(policy, version=policy.version + 1, busy_watts=watts)


def watts_text(fits: Sequence[Fit], policy: Policy | None) -> str:
    """A table with a line for each model, why fits were refused, and lines of TOML."""
    if not fits:
        return (
            "No watts to fit: no window of this time has a board whose idle power is learnt and whose engines tell"
            " how long they computed (busy seconds)."
        )
    parts = [table(list(_lines(fits)), _COLUMNS, None)]
    refused = [f"{each.hardware}, {', '.join(each.models)}: refused, {each.refused}" for each in fits if each.refused]
    parts += ["\n".join(refused)] if refused else []
    if policy is not None:
        parts.append(f"For the collector's config, beside what [policy] holds already:\n\n{toml_of(policy)}")
        parts.append("The collector takes it when it starts anew; `joulefleet store recount` then restates the past.")
    return "\n\n".join(parts)


def toml_of(policy: Policy) -> str:
    """The lines of `[policy]` that tell version and watts."""
    watts = [f"    {{ {_entry(each)} }}," for each in policy.busy_watts]
    return "\n".join(["[policy]", f"version = {policy.version}", "busy_watts = [", *watts, "]"])


def watts_json(fits: Sequence[Fit], policy: Policy | None) -> dict[str, object]:
    """The same for programs; `policy` is null where no watts were found."""
    told = None
    if policy is not None:
        told = {"version": policy.version, "busy_watts": [msgspec.to_builtins(each) for each in policy.busy_watts]}
    return {"fits": [msgspec.to_builtins(each) for each in fits], "policy": told}


def _entry(watts: BusyWatts) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in msgspec.structs.asdict(watts).items())


def _value(value: str | float) -> str:
    """As TOML: a string of JSON, save that TOML knows no escapes of two halves, and takes no bare DEL."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{value:.3f}"


def _lines(fits: Sequence[Fit]) -> Iterator[dict[str, Any]]:
    for fit in fits:
        watts = {each.model: each for each in fit.watts}
        for model in fit.models:
            yield {"fit": fit, "model": model, "watts": watts.get(model)}


def _watts(line: Mapping[str, Any], name: str) -> str:
    return UNKNOWN if line["watts"] is None else f"{getattr(line['watts'], name):.1f}"


def _figure(line: Mapping[str, Any], name: str, form: str) -> str:
    value = getattr(line["fit"], name)
    return UNKNOWN if value is None else f"{value:{form}}"


_COLUMNS = (
    Column("hardware", lambda line: str(line["fit"].hardware), right=False),
    Column("model", lambda line: str(line["model"]), right=False),
    Column("prefill W", lambda line: _watts(line, "prefill_w")),
    Column("decode W", lambda line: _watts(line, "decode_w")),
    Column("windows", lambda line: str(line["fit"].windows)),
    Column("condition", lambda line: _figure(line, "condition", ".1f")),
    Column("residual", lambda line: _figure(line, "residual", ".1%")),
)
