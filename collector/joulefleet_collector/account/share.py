"""Sharing out an amount in whole units, so that the parts add up to it exactly."""

from collections.abc import Sequence


def share_out(total: int, weights: Sequence[int]) -> list[int]:
    """Parts of `total` in proportion to the weights, by largest remainder; equal remainders in the order given.

    Raises ValueError where the total or a weight is negative, or where there is something to share and nobody to
    take it.
    """
    whole = sum(weights)
    if total < 0 or min(weights, default=0) < 0:
        raise ValueError(f"a share of {total} by {list(weights)}: neither may be negative")
    if whole == 0:
        if total:
            raise ValueError(f"{total} to share, and no weight above 0 among {list(weights)}")
        return [0] * len(weights)
    parts = [total * weight // whole for weight in weights]
    left = total - sum(parts)
    if left:
        rests = [total * weight % whole for weight in weights]
        # A reversed sort leaves equal remainders in their order.
        for k in sorted(range(len(parts)), key=rests.__getitem__, reverse=True)[:left]:
            parts[k] += 1
    return parts
