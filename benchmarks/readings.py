"""What a window of 10 s stands for, as other systems take it: every reading of each second, in line protocol."""

import random
from collections.abc import Iterator, Sequence
from itertools import count

from servers import MODEL, meters

from joulefleet.units import w_to_mw

TICKS = 10
VALUES = 360
"""Of one POST: energy and power of 13 meters and 10 counters of an engine, ten times."""
MEANS_W = (*[550] * 8, 180, 180, 25, 25, 5_900)
NOISE = 0.12
COUNTERS = {
    "requests_ok": 4,
    "requests_failed": 0,
    "requests_aborted": 1,
    "prompt_tokens": 4_000,
    "cached_tokens": 500,
    "output_tokens": 1_500,
    "busy_ms": 999,
    "ttft_ms": 900,
    "itl_ms": 40_000,
    "e2e_ms": 30_000,
}
"""With about how much each grows in a second."""
HOLE = b"@" * 9
"""Stands for the tens of seconds since 1970, filled in when it is sent."""


def lines(server: int, windows: int) -> list[bytes]:
    """Readings of one server, 10 s in each, but for their time; counters go on from one to the next."""
    chance, ids = random.Random(server), [meter.id for meter in meters(server)]
    tags = f"server=node-{server:05d},pool=inference,site=north"
    energy_mj = [chance.randrange(10**12) for _ in ids]
    work = [chance.randrange(10**8) for _ in COUNTERS]
    out = []
    for _ in range(windows):
        told = []
        for tick in range(TICKS):
            at = f"{HOLE.decode()}{tick}"
            powers_mw = [round(w_to_mw(mean_w) * chance.gauss(1, NOISE)) for mean_w in MEANS_W]
            energy_mj = [before + power for before, power in zip(energy_mj, powers_mw, strict=True)]
            told += [
                f"power,{tags},device={name} energy_mj={energy},power_mw={power} {at}\n"
                for name, energy, power in zip(ids, energy_mj, powers_mw, strict=True)
            ]
            work = [done + chance.randrange(2 * most + 1) for done, most in zip(work, COUNTERS.values(), strict=True)]
            counts = ",".join(f"{name}={done}" for name, done in zip(COUNTERS, work, strict=True))
            told.append(f"work,{tags},model={MODEL} {counts} {at}\n")
        out.append("".join(told).encode())
    return out


def posts(bodies: Sequence[bytes], path: str, first_s: int) -> Iterator[bytes]:
    """Without end, each 10 s later than the one before; numbers come again when all were sent, times never do."""
    for number in count():
        body = bodies[number % len(bodies)].replace(HOLE, b"%09d" % (first_s // TICKS + number))
        head = f"POST {path} HTTP/1.1\r\nHost: peer\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        yield head.encode() + body
