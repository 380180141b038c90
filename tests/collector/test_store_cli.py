"""The commands that look after the store: what they print, what they refuse."""

import csv
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from joulefleet.describe import Engine, Meter, Reservation
from joulefleet.reading import Counts, WorkKey
from joulefleet.units import j_to_uj, s_to_ns, w_to_mw
from joulefleet.window import EngineWindow, MeterWindow, Window, Work
from joulefleet_collector.rows import Row
from joulefleet_collector.store import schema
from joulefleet_collector.store.embedded import FILE_NAME, EmbeddedStore
from joulefleet_collector.store.store import DAY_NS, Accounted, Question
from joulefleet_collector.store_cli import store

EVER = {"since_ns": 0, "until_ns": 40_000 * DAY_NS}


@pytest.fixture
def data(tmp_path: Path, a_window: Callable[..., Window], account: Callable[[Window], list[Row]]) -> Path:
    """A store of 20 days, one window a day."""
    with closing(EmbeddedStore(tmp_path / "data", lambda: "e")) as opened:
        for day in range(20):
            window = a_window(minute=1440 * day)
            opened.write([Accounted(window, window.encode(), account(window))], window.end_ns)
    return tmp_path / "data"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(store, [str(word) for word in words])


def joules(folder: Path) -> float:
    with closing(EmbeddedStore(folder, lambda: "x")) as opened:
        (total,) = opened.ask(Question(kind="usage", fields=("active_j",), **EVER))
        return total.fields["active_j"]


def test_info_tells_sizes_counts_times_and_versions(data: Path) -> None:
    told = json.loads(run("info", "--data-dir", data, "--json").stdout)
    assert (told["path"], told["epoch"], told["servers"]) == (str(data / FILE_NAME), "e", 1)
    assert told["versions"]["schema"] == schema.VERSION
    assert told["bytes"]["file"] == (data / FILE_NAME).stat().st_size
    assert told["windows"] == {
        "count": 20,
        "first": "2026-09-21T00:00:00Z",
        "last": "2026-10-10T00:00:00Z",
        "forgotten": 0,
    }
    assert told["rollups"]["usage_day"]["count"] == 20
    text = run("info", "--data-dir", data).stdout
    assert "epoch e, schema" in text and "2026-09-21T00:00:00Z to 2026-10-10T00:00:00Z" in text


def test_a_backup_is_a_store(data: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / FILE_NAME
    result = run("backup", copy, "--data-dir", data, "--json")
    assert json.loads(result.stdout) == {"file": str(copy), "bytes": copy.stat().st_size}
    assert "MB" in result.stderr
    assert joules(tmp_path / "other") == 12_000.0
    again = run("backup", copy, "--data-dir", data)
    assert (again.exit_code, again.stderr.splitlines()[-1]) == (
        2,
        f"Error: {copy}: it is already there; name another file, or remove this one first",
    )


def test_compact_lets_go_of_what_is_old_and_changes_no_sum(data: Path) -> None:
    told = json.loads(run("compact", "--data-dir", data, "--json").stdout)
    assert told["windows_removed"] == 12  # a week before the newest is kept, its own day too
    assert told["bytes"] == (data / FILE_NAME).stat().st_size
    info = json.loads(run("info", "--data-dir", data, "--json").stdout)
    assert (info["windows"]["count"], info["windows"]["forgotten"], info["bytes"]["unused"]) == (8, 12, 0)
    assert joules(data) == 12_000.0
    assert "0 windows and 0 rows of minutes removed" in run("compact", "--data-dir", data).stdout


def test_how_long_things_are_kept_comes_from_the_configuration(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[store]\ndata_dir = "{data}"\nkeep_windows_days = 15\nkeep_minutes_days = 2\n')
    told = json.loads(run("compact", "--config", config, "--json").stdout)
    assert (told["windows_removed"], told["minute_rows_removed"]) == (4, 17 * 4)


def test_recount_restates_the_sums_from_the_windows(data: Path) -> None:
    with closing(EmbeddedStore(data, lambda: "e")) as opened:
        assert opened.latest("meter") == []
    result = run("recount", "--data-dir", data)
    assert (result.exit_code, result.stdout) == (0, f"20 windows recounted in {data}\n")
    assert result.stderr.splitlines()[-1] == "20 of 20 windows"
    with closing(EmbeddedStore(data, lambda: "e")) as opened:
        assert [row.tags["meter"] for row in opened.latest("meter")] == ["m0"]


def test_recount_restates_who_pays_for_idle_power(
    tmp_path: Path, a_window: Callable[..., Window], account: Callable[[Window], list[Row]]
) -> None:
    window = a_window()
    (wall,) = window.meters
    window = msgspec.structs.replace(window, meters=(msgspec.structs.replace(wall, idle_mw=4_000),))
    with closing(EmbeddedStore(tmp_path / "data", lambda: "e")) as opened:
        opened.write([Accounted(window, window.encode(), account(window))], window.end_ns)
    config = tmp_path / "c.toml"
    for idle, paid in (("by_reservation", (240, 0)), ("separate", (0, 240)), ("by_use", (240, 0))):
        config.write_text(f'[store]\ndata_dir = "{tmp_path / "data"}"\n[policy]\nidle = "{idle}"\n')
        assert run("recount", "--config", config).exit_code == 0
        with closing(EmbeddedStore(tmp_path / "data", lambda: "x")) as opened:
            (total,) = opened.ask(Question(kind="ledger", fields=("idle_j", "idle_unallocated_j", "active_j"), **EVER))
        assert (total.fields["idle_j"], total.fields["idle_unallocated_j"]) == paid
        assert total.fields["active_j"] == 360


def test_recount_says_which_days_it_leaves(data: Path) -> None:
    run("compact", "--data-dir", data)
    result = run("recount", "--data-dir", data)
    assert result.stdout == (
        f"8 windows recounted in {data}; sums of 12 days stay as they were (2026-09-21 to 2026-10-02):"
        " their windows are gone\n"
    )
    told = json.loads(run("recount", "--data-dir", data, "--json").stdout)
    assert (told["windows"], told["data_dir"], len(told["days_left"])) == (8, str(data), 12)
    assert joules(data) == 12_000.0


def board_of(window: Window, place: int) -> Window:
    """A board that two models share, at 400 and 200 W above idle."""
    seconds = {"a": 10 + place % 7, "b": 5 + place % 11}
    joules = 60 * 50 + 400 * seconds["a"] + 200 * seconds["b"]
    meter = Meter(id="gpu", kind="accelerator", grade="counter", sensor_class="onboard", hw_model="H100")
    told = {"energy_uj": j_to_uj(joules), "covered_ns": window.step_ns, "idle_mw": w_to_mw(50), "idle_learnt": True}
    engines = [
        EngineWindow(
            engine=Engine(id=model, software="x", devices=(Reservation("gpu", 500_000),)),
            covered_ns=window.step_ns,
            work=(Work(key=WorkKey(model), counts=Counts(busy_ns=s_to_ns(busy_s), prefill_busy_ns=0)),),
        )
        for model, busy_s in seconds.items()
    ]
    return msgspec.structs.replace(window, meters=(MeterWindow(meter=meter, **told),), engines=tuple(engines))


def test_fitted_watts_go_into_the_config_and_a_recount_charges_by_them(
    tmp_path: Path, a_window: Callable[..., Window], account: Callable[[Window], list[Row]]
) -> None:
    config, head = tmp_path / "c.toml", f'[store]\ndata_dir = "{tmp_path / "data"}"\n'
    config.write_text(head)
    windows = [board_of(a_window(minute=minute), minute) for minute in range(240)]
    with closing(EmbeddedStore(tmp_path / "data", lambda: "e")) as opened:
        opened.write([Accounted(each, each.encode(), account(each)) for each in windows], windows[-1].end_ns)
    told = json.loads(run("fit-watts", "--config", config, "--json").stdout)
    assert [(each["windows"], each["refused"]) for each in told["fits"]] == [(240, "")]
    assert [each["decode_w"] for each in told["policy"]["busy_watts"]] == pytest.approx([400, 200], abs=0.01)
    text = run("fit-watts", "--config", config).stdout
    config.write_text(head + text[text.rindex("[policy]\n") : text.rindex("]\n") + 2])
    assert run("recount", "--config", config).exit_code == 0
    with closing(EmbeddedStore(tmp_path / "data", lambda: "x")) as opened:
        totals = opened.ask(Question(kind="usage", by=("model",), fields=("active_j",), **EVER))
    expected_j = {"a": 400 * sum(10 + m % 7 for m in range(240)), "b": 200 * sum(5 + m % 11 for m in range(240))}
    assert {t.tags["model"]: t.fields["active_j"] for t in totals} == pytest.approx(expected_j, rel=1e-5)


def test_too_few_windows_are_said_and_a_time_without_any_too(data: Path) -> None:
    result = run("fit-watts", "--data-dir", data)
    assert result.exit_code == 0
    assert result.stdout.startswith("No watts to fit")
    assert "Error" in run("fit-watts", "--since", "yesterday", "--data-dir", data).stderr


def test_export_writes_the_sums_of_a_time(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    times = ("--since", "2026-09-22T10:00:00Z", "--until", "2026-09-23T10:00:00Z")
    result = run("export", "--data-dir", data, "--step", "day", *times, "-o", out, "--json")
    assert json.loads(result.stdout) == {
        "file": str(out),
        "rows": 2,
        "kind": "usage",
        "step": "day",
        "since": "2026-09-22T00:00:00Z",
        "until": "2026-09-24T00:00:00Z",
    }
    with out.open(newline="") as file:
        assert [(line["start"], line["active_j"]) for line in csv.DictReader(file)] == [
            ("2026-09-22T00:00:00Z", "600.0"),
            ("2026-09-23T00:00:00Z", "600.0"),
        ]


def test_an_export_holds_rows_that_waited_to_be_added_up(
    data: Path, tmp_path: Path, a_window: Callable[..., Window], account: Callable[[Window], list[Row]]
) -> None:
    many = [a_window(f"s{number}") for number in range(300)]
    with closing(EmbeddedStore(data, lambda: "e")) as opened:
        opened.write([Accounted(one, one.encode(), account(one)) for one in many], 1)
    result = run("export", "--data-dir", data, "--since", "all", "--step", "day", "-o", tmp_path / "o.csv", "--json")
    assert json.loads(result.stdout)["rows"] == 320


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", "--since", "yesterday", "-o", "x.csv"), "'yesterday' is no time"),
        (("export", "--since", "now", "--until", "-1h", "-o", "x.csv"), "lies after until"),
        (("export", "-o", "none/x.csv"), "none/x.csv: No such file"),
        (("backup", "none/x.db"), "none/x.db"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence_and_exit_code_2(
    data: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words, "--data-dir", data)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert said in result.stderr


@pytest.mark.parametrize("command", [("info",), ("backup", "x"), ("compact",), ("recount",), ("export", "-o", "x")])
@pytest.mark.parametrize("options", [(), ("--data-dir", "/nonexistent/anywhere")])
def test_where_there_is_no_store_it_is_told(command: tuple[str, ...], options: tuple[str, ...]) -> None:
    result = run(*command, *options)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "data" in result.stderr
