"""Servers that are gone for good, in a file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.store.retired import RetiredFile, changed, read, written
from joulefleet_collector.store.store import StoreUnavailable

retired = st.dictionaries(st.text(max_size=8), st.integers(0, 2**63 - 1), max_size=5)
changes = st.dictionaries(st.text(max_size=8), st.none() | st.integers(0, 2**63 - 1), max_size=5)


@given(retired, changes)
def test_changes_change_what_they_name_and_nothing_else(before: dict[str, int], what: dict[str, int | None]) -> None:
    after = changed(before, what)
    assert {name: after.get(name) for name in what} == what
    assert {name: end for name, end in after.items() if name not in what} == {
        name: end for name, end in before.items() if name not in what
    }


@given(retired)
def test_what_is_written_is_read(several: dict[str, int]) -> None:
    assert read(written(several), "here") == several


def test_the_file_outlives_a_collector(tmp_path: Path) -> None:
    assert RetiredFile(tmp_path).read() == {}
    RetiredFile(tmp_path).change({"a": 5, "b": 6})
    RetiredFile(tmp_path).change({"a": None})
    assert RetiredFile(tmp_path).read() == {"b": 6}
    assert [one.name for one in tmp_path.iterdir()] == ["retired.json"]


def test_workers_that_change_it_at_once_lose_nothing_of_each_other(tmp_path: Path) -> None:
    def retire(worker: int) -> None:
        file = RetiredFile(tmp_path)
        for number in range(20):
            file.change({f"{worker}-{number}": number})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(retire, range(4)))
    assert len(RetiredFile(tmp_path).read()) == 80
    assert [one.name for one in tmp_path.iterdir()] == ["retired.json"]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"a": "x"}', b"\xff"])
def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, text: bytes) -> None:
    file = RetiredFile(tmp_path)
    file.path.write_bytes(text)
    with pytest.raises(StoreUnavailable, match=r"retired\.json: the list of retired servers is damaged"):
        file.change({"a": 5})
    assert file.path.read_bytes() == text


def test_a_folder_that_is_gone_is_named_with_its_mend(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="No such file"):
        RetiredFile(tmp_path / "gone").change({"a": 5})
