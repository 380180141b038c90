"""The fake NVML library, built once, and a process that reads it through the real pynvml."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fixtures.nvml import fake_nvml as fake
from fixtures.nvml.nvml_process import NvmlReader


@pytest.fixture(scope="session")
def fake_nvml() -> ModuleType:
    """The module that builds and drives the fake; skips where there is no C compiler."""
    if fake.compiler() is None:
        pytest.skip("no C compiler to build the fake NVML library with")
    return fake


@pytest.fixture(scope="session")
def nvml_library(fake_nvml: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the fake libnvidia-ml.so.1."""
    folder: Path = fake_nvml.build(tmp_path_factory.mktemp("nvml"))
    return folder


@pytest.fixture
def nvml(fake_nvml: ModuleType, nvml_library: Path, tmp_path: Path) -> Any:
    """A fake NVML with one H100 at its time 0."""
    made = fake_nvml.FakeNvml(library=nvml_library, control=tmp_path / "nvml.control")
    made.write()
    return made


@pytest.fixture
def open_reader(nvml: Any) -> Iterator[Callable[[], NvmlReader]]:
    """Starts a process that reads the fake `nvml` as it is then."""
    with contextlib.ExitStack() as ends:

        def start() -> NvmlReader:
            reader = NvmlReader(nvml.environment())
            ends.callback(reader.close)
            return reader

        yield start


@pytest.fixture
def nvml_reader(open_reader: Callable[[], NvmlReader]) -> NvmlReader:
    """A process that reads the fake `nvml`."""
    return open_reader()
