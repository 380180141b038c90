"""The proof of a store: what holds is told, and a store that loses or doubles a row is refused."""

import json
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from fixtures.services import Server, free_port
from joulefleet.units import NS_PER_S
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.agents import PROOF
from joulefleet_collector.check import prove
from joulefleet_collector.cli import collector
from joulefleet_collector.fleet import Fleet
from joulefleet_collector.service import under
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import Accounted, Question, StoreUnavailable, Total

NOW_NS = 1_790_000_030 * NS_PER_S + 7


class Odd(EmbeddedStore):
    """A fake of a store that counts a row as often as its factor for the number of the write says."""

    def __init__(self, folder: Path, *factors: float) -> None:
        super().__init__(folder, lambda: "e")
        self._factors = [0.0, *factors]
        self._writes = 0

    def write(self, accounted: Sequence[Accounted], received_ns: int) -> int:
        self._writes += 1
        return super().write(accounted, received_ns)

    def ask(self, question: Question) -> list[Total]:
        factor = self._factors[self._writes]
        return [Total(None, one.tags, {"seen": factor}) for one in super().ask(question) if factor]


def test_a_good_store_proves_everything_again_and_again(tmp_path: Path) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        for later_ns in (0, 0, NS_PER_S, 90 * NS_PER_S):
            proofs = list(prove(store, "here", NOW_NS + later_ns, readable=True))
            assert [proof.what for proof in proofs] == ["write", "read", "idempotency"]


def test_the_proof_leaves_no_joule_and_is_marked_as_simulated(tmp_path: Path) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        list(prove(store, "here", NOW_NS, readable=True))
        (row,) = store.latest("facts")
        assert (row.tags["server"], row.tags["simulated"]) == (PROOF, "true")
        for kind in ("usage", "ledger", "meter", "work"):
            assert store.latest(kind) == []


def test_the_proof_is_no_agent_that_falls_silent_not_even_after_a_recount(tmp_path: Path) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        list(prove(store, "here", NOW_NS, readable=True))
        fleet = Fleet(store, lambda: NOW_NS + 3_600 * NS_PER_S)
        for _ in range(2):
            assert fleet.listing().agents == []
            assert set(fleet.summary().by_status.values()) == {0} and fleet.summary().newest_end_ns is None
            store.recount(under(Policy()), lambda _done, _total: None)


@pytest.mark.parametrize(
    ("factors", "said"),
    [((0.0, 0.0), "a row was written, and 0 instead of 1"), ((1.0, 2.0), "counts 2 times")],
)
def test_a_store_that_loses_or_doubles_is_refused(tmp_path: Path, factors: tuple[float, ...], said: str) -> None:
    with closing(Odd(tmp_path, *factors)) as store, pytest.raises(StoreUnavailable, match=said):
        list(prove(store, "here", NOW_NS, readable=True))


def test_what_cannot_be_read_is_not_called_proved(tmp_path: Path) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        proofs = list(prove(store, "here", NOW_NS, readable=False))
    assert [proof.detail.startswith("not proved") for proof in proofs] == [False, True]


def test_the_command_proves_the_embedded_store_and_sizes_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(collector, ["check", "--data-dir", str(tmp_path), "--servers", "1000", "--models", "2"])
    assert result.exit_code == 0, result.output
    assert "idempotency" in result.stdout and "servers 1,000, meters on each 13, models on each 2" in result.stdout
    assert re.search(r"[0-9.]+ GB a day, [0-9.]+ GB in all", result.stdout)
    assert "in all: windows for 7 days, minutes for 90, hours and days for a year" in result.stdout
    result = CliRunner().invoke(collector, ["check", "--data-dir", str(tmp_path), "--json"])
    told = json.loads(result.stdout)
    assert [proof["what"] for proof in told["proofs"]] == ["write", "read", "idempotency"]
    assert (told["fleet"]["servers"], told["size"]["series"]) == (10, 210)


def on(url: str, folder: Path, **environment: str) -> tuple[int, str]:
    config = folder / "collector.toml"
    config.write_text(f'[store]\nkind = "influxdb"\ndata_dir = "{folder}"\n[store.influxdb]\nurl = "{url}"\n')
    result = CliRunner(env=environment).invoke(collector, ["check", "--config", str(config)])
    return result.exit_code, result.output


def test_the_command_proves_a_real_influxdb(influxdb_1: Server, tmp_path: Path) -> None:
    code, told = on(influxdb_1.url, tmp_path, INFLUX_DATABASE=tmp_path.name)
    assert code == 0, told
    assert "written again, counted once" in told and f"database '{tmp_path.name}'" in told


def test_a_store_that_is_not_there_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    code, told = on(f"http://127.0.0.1:{free_port()}", tmp_path, INFLUX_BUCKET="b", INFLUX_TOKEN="hush")
    assert (code, len(told.splitlines())) == (2, 1)
    assert "cannot be reached" in told and "hush" not in told
