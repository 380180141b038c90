"""A soak's judge names whatever is not exact, and what grows."""

from pathlib import Path
from typing import Any

import pytest

from soak.fleet import Sums
from soak.judge import differences, memory, of_fleet, residuals, shortened, together, told_by, tracebacks
from soak.life import Kept, Life

TRUE = {("s", "server"): Sums(60, 1e9, 100, 2_000, 3_000), ("t", "server"): Sums(60, 5e8, 10, 200, 300)}
WORK = ("requests_ok", "prompt_tokens", "output_tokens")


def answer(*servers: str) -> dict[str, Any]:
    """What a collector tells of TRUE: a part of it late, a part of the work unmetered."""
    ledger: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for server in servers:
        sums, place = TRUE[server, "server"], {"server": server, "boundary": "server"}
        energy = {"metered_j": sums.joules - 7.0, "late_j": 7.0}
        ledger.append({**place, **energy, "window_s": 60.0, "residual_uj": 0.0})
        for share in (0.25, 0.75):
            work = {name: getattr(sums, name) * share / 2 for name in WORK}
            rows.append({**place, **work, **{f"unmetered_{name}": part for name, part in work.items()}})
            rows[-1] |= dict.fromkeys([f"late_{name}" for name in WORK])
    return {"ledger": ledger, "rows": rows}


def test_what_is_told_in_parts_is_the_truth() -> None:
    assert differences(TRUE, told_by(answer("s", "t")), "store") == []


@pytest.mark.parametrize("name", ["windows", "joules", *WORK])
def test_a_sum_that_is_a_little_off_is_named(name: str) -> None:
    told = told_by(answer("s", "t"))
    sums = told["s", "server"]
    setattr(sums, name, getattr(sums, name) * (1 + 2e-9))
    (found,) = differences(TRUE, told, "store")
    assert found.startswith(f"store: s at server: {name} is ")


def test_a_server_that_is_missing_or_too_many_is_named() -> None:
    assert differences(TRUE, told_by(answer("s")), "store") == ["store: t at server: nothing is told"]
    (found,) = differences({("s", "server"): TRUE["s", "server"]}, told_by(answer("s", "t")), "store")
    assert found == "store: t at server: told, and there is no such thing"


def test_the_sums_of_the_fleet_are_those_of_its_servers() -> None:
    whole = {"ledger": [], "rows": []} | answer("s", "t")
    for rows in whole.values():
        rows[:] = [{name: value for name, value in row.items() if name != "server"} for row in rows]
    one = {"ledger": whole["ledger"][:1], "rows": whole["rows"][:2]}
    assert differences(together({("s", "server"): TRUE["s", "server"]}), of_fleet(one), "fleet") == []
    (found, *_) = differences(together(TRUE), of_fleet(one), "fleet")
    assert found.startswith("fleet: the fleet at server: windows is 60.0 and has to be 120")


def test_a_ledger_that_leaves_something_over_is_named() -> None:
    told = answer("s", "t")
    told["ledger"][1]["residual_uj"] = 3.0
    assert residuals(told, "store") == ["store: t at server: 3.0 uJ are left over"]


@pytest.mark.parametrize(
    ("mb_per_min", "first_mb", "words"),
    [(0.1, 50.0, None), (5.0, 50.0, "grows by 5.00 MB a minute"), (0.0, 600.0, "600 MB of memory")],
)
def test_memory_that_grows_or_is_too_much_is_named(
    tmp_path: Path, mb_per_min: float, first_mb: float, words: str | None
) -> None:
    kept = Kept("collector", "collector", ("true",), tmp_path)
    resident = [(float(second), first_mb + mb_per_min * second / 60) for second in range(0, 400, 2)]
    kept.lives = [Life(-1.0, resident=[(-1.0, 1.0)]), Life(0.0, resident=resident)]
    found = memory([kept])
    assert [words in one for one in found] == [True] if words else found == []


def test_what_was_loaded_at_first_is_not_growth(tmp_path: Path) -> None:
    kept = Kept("collector", "collector", ("true",), tmp_path)
    kept.lives = [Life(0.0, resident=[(float(second), min(20.0 + second, 75.0)) for second in range(0, 400, 2)])]
    assert memory([kept]) == []


def test_a_short_life_tells_nothing_and_a_host_is_not_judged(tmp_path: Path) -> None:
    growing = [(float(second), 50.0 + second) for second in range(0, 400, 2)]
    kept = Kept("collector", "collector", ("true",), tmp_path)
    kept.lives = [Life(0.0, resident=growing[:140])]
    host = Kept("host-1", "host of agents", ("true",), tmp_path)
    host.lives = [Life(0.0, resident=growing)]
    assert memory([kept, host]) == []


def test_many_faults_are_told_in_short() -> None:
    assert shortened([str(number) for number in range(100)])[-1] == "... and 92 more"
    assert shortened(["one"]) == ["one"]


def test_faults_in_a_log_are_named() -> None:
    head = 'ERROR GET /v1/stream failed\nTraceback (most recent call last):\n  File "app.py", line 1, in f\n    f()\n'
    assert tracebacks("INFO goes on\n") == set()
    assert tracebacks(f"INFO begins\n{head}KeyError: 'x'\nINFO goes on\n{head}a.b.C: d\n") == {"KeyError", "a.b.C"}
