"""Warnings of fleet and facility."""

from joulefleet.grid import HOUR_NS
from joulefleet_collector.answer.inventory import Presence
from joulefleet_collector.answer.notices import of_files, of_inventory, of_pools, of_sites, without_whole
from joulefleet_collector.answer.pools import Attendance
from joulefleet_collector.answer.rates import Sites, SiteSeries
from joulefleet_collector.answer.series import Constant, Steps
from joulefleet_collector.store.store import Total


def test_a_pool_in_which_nobody_was_there_is_told() -> None:
    pool = {"pool": "chat", "site": "fra", "simulated": False, "unshared_j": 1234.0}
    (one,) = of_pools([pool, pool | {"unshared_j": 0.0}])
    assert (one["code"], one["unshared_j"]) == ("pool_without_engines", 1234.0)
    assert str(one["message"]).startswith("pool 'chat' at 'fra': 1,234 J that nobody holds")


def test_silent_servers_are_named_and_counted() -> None:
    silent = Presence(100.0, 90.0, ("a", "b", "c", "d", "e"))
    full, short = Presence(100.0, 99.0), Presence(100.0, 94.0)
    first, second = of_inventory(Attendance({"p": silent, "q": full, "r": short}, {}, ()))
    assert (first["code"], first["pool"], first["silent_servers"]) == ("silent_servers", "p", 5)
    assert "90.0% of the time" in str(first["message"])
    assert str(first["message"]).endswith("nothing of 'a', 'b', 'c' and 2 more")
    assert (second["pool"], second["silent_servers"]) == ("r", 0)


def test_servers_that_nobody_expected_are_named() -> None:
    (one,) = of_inventory(Attendance({}, {}, ("x",)))
    assert (one["code"], one["servers"]) == ("not_in_inventory", ["x"])


def test_a_series_with_gaps_is_told_and_one_that_is_not_there_is_no_gap() -> None:
    gappy = Steps((0, HOUR_NS, 2 * HOUR_NS), (1.2, None, 1.3))
    sites = Sites({"fra": SiteSeries(pue=gappy, price_per_kwh=Constant(1.0)), "ams": SiteSeries(pue=Constant(1.1))})
    usage = [
        Total(hour * HOUR_NS, {"site": site}, {}) for hour in range(3) for site in ("fra", "ams", "") for _ in "ab"
    ]
    (one,) = of_sites(usage, sites)
    assert (one["code"], one["site"], one["series"]) == ("series_gap", "fra", "pue")
    assert (one["missing_hours"], one["hours"]) == (1, 3)
    assert "no PUE is known in 1 of 3 hours" in str(one["message"])


def test_a_file_that_cannot_be_read_any_more_is_told_with_its_reason() -> None:
    (one,) = of_files([("/x.csv", "line 3: 'a' is no number")])
    assert (one["code"], one["file"]) == ("file_not_read", "/x.csv")
    assert str(one["message"]).startswith("/x.csv: line 3: 'a' is no number; what it told before holds")


def test_servers_that_tell_of_no_whole_server_are_named_simulated_and_real_apart() -> None:
    def entry(boundary: str, server: str, simulated: str = "false") -> Total:
        return Total(None, {"boundary": boundary, "server": server, "simulated": simulated}, {"window_s": 60.0})

    whole = [entry("accelerator", "whole"), entry("server", "whole"), entry("server", "cpu")]
    assert without_whole(whole) == []
    boards = [entry("accelerator", "b"), entry("compute", "b"), entry("compute", "a"), entry("compute", "s", "true")]
    real, simulated = without_whole([*whole, *boards])
    assert (real["code"], real["simulated"], real["servers"]) == ("not_the_whole_server", False, ["a", "b"])
    assert (simulated["simulated"], simulated["servers"]) == (True, ["s"])
