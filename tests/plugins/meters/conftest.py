"""The fake NVML library, built once, and a process that reads it through the real pynvml."""

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading

FIXTURES = Path(__file__).parents[2] / "fixtures" / "nvml"


def _load() -> ModuleType:
    """tests/fixtures/nvml/fake_nvml.py, which no import path reaches."""
    spec = importlib.util.spec_from_file_location("fake_nvml", FIXTURES / "fake_nvml.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_nvml"] = module
    spec.loader.exec_module(module)
    return module


def _reading(told: dict[str, Any]) -> MeterReading | Failure:
    return msgspec.convert(told, MeterReading) if "meter" in told else msgspec.convert(told, Failure)


class NvmlReader:
    """The NVML source, open in a process of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, FIXTURES / "reader.py"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """The process's answer to this order."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = msgspec.json.decode(self._process.stdout.readline())
        return answer

    def open(self, **table: Any) -> list[Meter]:
        """Open the source; its declarations."""
        return msgspec.convert(self.ask({"open": table})["meters"], list[Meter])

    def read(self) -> list[MeterReading | Failure]:
        """Read the source once."""
        readings = self.ask({"read": 1})["readings"]
        return [_reading(one) for one in readings]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@pytest.fixture(scope="session")
def fake_nvml() -> ModuleType:
    """The module that builds and drives the fake; skips where there is no C compiler."""
    module = _load()
    if module.compiler() is None:
        pytest.skip("no C compiler to build the fake NVML library with")
    return module


@pytest.fixture(scope="session")
def nvml_library(fake_nvml: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the fake libnvidia-ml.so.1."""
    folder: Path = fake_nvml.build(tmp_path_factory.mktemp("nvml"))
    return folder


@pytest.fixture
def nvml(fake_nvml: ModuleType, nvml_library: Path, tmp_path: Path) -> Any:
    """A fake NVML with one H100 at its time 0."""
    fake = fake_nvml.FakeNvml(library=nvml_library, control=tmp_path / "nvml.control")
    fake.write()
    return fake


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
