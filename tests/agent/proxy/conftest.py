"""A fake appliance and a proxy before it, in the loop of the test."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from fixtures.fake_appliance import FakeAppliance
from fixtures.front import Front, Start, fronting
from joulefleet_agent.proxy.config import ProxyConfig


@pytest.fixture
async def appliance() -> AsyncIterator[FakeAppliance]:
    async with FakeAppliance() as made:
        yield made


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a proxy before this URL, with these settings."""
    own: dict[str, Any] = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "stop_s": 1.0}
    own["salt_file"] = str(tmp_path / "salt")
    async with AsyncExitStack() as stack:

        async def begin(to: str, **settings: Any) -> Front:
            return await stack.enter_async_context(fronting(ProxyConfig(to=to, **own | settings)))

        yield begin
