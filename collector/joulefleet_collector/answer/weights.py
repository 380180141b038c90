"""Weights by which several share what they did together: work units, else requests, else equal parts."""

from collections.abc import Mapping, Sequence

from joulefleet_collector.account.policy import Policy

Work = Mapping[str, float]
"""Counts by the names of `rows.COUNT_FIELDS`; a count that is not known is missing."""


def computed(work: Work) -> int:
    """Prompt tokens that were not found in a cache: only these are work."""
    # Two counters read at one instant need not agree: what was computed is not less than nothing.
    return max(round(work.get("prompt_tokens", 0)) - round(work.get("cached_tokens", 0)), 0)


def all_tell(works: Sequence[Work], name: str) -> bool:
    """Whether they can be compared by this count."""
    return all(name in work for work in works)


def weights(works: Sequence[Work], policy: Policy) -> list[int]:
    """A weight for each, not all 0. A sort of token that one of them does not tell is left out for all."""
    prompts, outputs = all_tell(works, "prompt_tokens"), all_tell(works, "output_tokens")
    tokens = [
        prompts * policy.prefill_weight * computed(work)
        + outputs * policy.decode_weight * round(work.get("output_tokens", 0))
        for work in works
    ]
    if any(tokens):
        return tokens
    requests = [round(work.get("requests_ok", 0) + work.get("requests_failed", 0)) for work in works]
    return requests if all_tell(works, "requests_ok") and any(requests) else [1] * len(works)
