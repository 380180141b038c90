"""Files that are read anew when they change, and what holds while they cannot be read."""

import os
from pathlib import Path

import pytest

from joulefleet.config import ConfigError
from joulefleet_collector.answer.inventory import Stay
from joulefleet_collector.site_files import MAX_BYTES, SiteFiles
from joulefleet_collector.sites import FleetConfig, Site, Varying

HOUR_NS = 3_600 * 10**9


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "pue.csv"
    path.write_text("1970-01-01T00:00:00Z,1.5\n")
    return path


def files(pue: Path, inventory: Path | None = None) -> SiteFiles:
    fleet = FleetConfig(inventory=str(inventory or ""))
    return SiteFiles([Site(name="fra", pue=Varying(file=str(pue)))], fleet, [])


def pue(of: SiteFiles, hour: int = 0) -> float | None:
    return of.now()[0].sites.at("fra", hour * HOUR_NS).pue


def test_a_file_that_grows_is_read_anew(csv: Path) -> None:
    declared = files(csv)
    assert (pue(declared), pue(declared, 5)) == (1.5, 1.5)
    with csv.open("a") as more:
        more.write("1970-01-01T05:00:00Z,1.2\n")
    assert (pue(declared), pue(declared, 5)) == (1.5, 1.2)


def test_a_file_that_is_replaced_by_one_of_the_same_size_and_time_is_read_anew(csv: Path, tmp_path: Path) -> None:
    declared = files(csv)
    other = tmp_path / "other.csv"
    other.write_text("1970-01-01T00:00:00Z,1.7\n")
    about = csv.stat()
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    other.rename(csv)
    assert pue(declared) == 1.7


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"1970-01-01T00:00:00Z,1.5\n1970-01-01T05:", "line 2: 1 columns"),
        (b"1970-01-01T00:00:00Z,0.5\n", "0.5 is less than 1"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"", "no line 'time,value'"),
        (None, "cannot be read: No such file"),
    ],
)
def test_while_a_file_cannot_be_used_what_it_told_before_holds_and_that_is_said(
    csv: Path, content: bytes | None, said: str
) -> None:
    declared = files(csv)
    if content is None:
        csv.unlink()
    else:
        csv.write_bytes(content)
    assert pue(declared) == 1.5
    for _ in range(2):
        (stale,) = declared.now()[1]
        assert stale.file == str(csv)
        assert said in stale.reason
    csv.write_text("1970-01-01T00:00:00Z,1.25\n")
    assert (pue(declared), declared.now()[1]) == (1.25, [])


def test_a_file_of_a_spreadsheet_is_read(csv: Path) -> None:
    csv.write_bytes(b"\xef\xbb\xbftime,value\r\n1970-01-01T00:00:00Z,1.3\r\n")
    assert pue(files(csv)) == 1.3


@pytest.mark.parametrize("content", [None, "", "1970-01-01T00:00:00Z,0.9"])
def test_a_collector_does_not_start_with_a_file_that_cannot_be_used(csv: Path, content: str | None) -> None:
    if content is None:
        csv.unlink()
    else:
        csv.write_text(content)
    with pytest.raises(ConfigError, match=str(csv)):
        files(csv)


def test_a_folder_and_a_huge_file_are_not_read(csv: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        files(tmp_path)
    with csv.open("r+b") as huge:
        huge.truncate(MAX_BYTES + 1)
    with pytest.raises(ConfigError, match="bytes; at most"):
        files(csv)


def test_the_inventory_is_read_anew_too(csv: Path, tmp_path: Path) -> None:
    inventory = tmp_path / "fleet.csv"
    assert files(csv).now()[0].stays is None
    inventory.write_text("server,pool,from,to\na,chat,,\n")
    declared = files(csv, inventory)
    assert declared.now()[0].stays == (Stay("a", "chat", 0, 2**63 - 1),)
    inventory.write_text("a,chat,,1970-01-01T00:00:00Z\nb,chat,,\n")
    places, (stale,) = declared.now()
    assert places.stays == (Stay("a", "chat", 0, 2**63 - 1),)
    assert stale.reason == "line 1: 'a' goes before it comes"
