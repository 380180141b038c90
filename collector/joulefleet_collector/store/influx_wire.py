"""The way to an InfluxDB: lines in, statements and answers, and every failure in words with its mend.

Import it only where an InfluxDB is configured: influxdb-client costs 0.3 s and 40 MB.

Lines go through influxdb-client's async client to the v2 API, or to `/write` of InfluxDB 1.x. The client's batching
writer is not used: it drops what it cannot deliver. Nothing is tried again here: whoever sent the windows still has
them and sends them again.
"""

import asyncio
import re
import threading
import traceback
from base64 import b64encode
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import aiohttp
import msgspec
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.rest import ApiException

from joulefleet_collector.store.influx_config import InfluxConfig
from joulefleet_collector.store.influxql import BadAnswer, Series, read
from joulefleet_collector.store.set_aside import LinesRefused
from joulefleet_collector.store.store import StoreUnavailable

WRITE_TIMEOUT_S = 10.0
"""A batch may wait for the write before its own: both together end before its agent, after 30 s, hears nothing."""
ASK_TIMEOUT_S = 120.0
LONGEST_REST_S = 60
"""How long a server is left alone that asks for it (`Retry-After`), at most: it may have been mended."""
DROPPED_AS_OLD = re.compile(r"beyond retention policy.* dropped=(\d+)")
NOT_FOUND = "not found"
MAKE_MEND = "make it, or start the collector again with create = true"
MOST_REASON = 300
"""Characters of a server's own words that are passed on."""

T = TypeVar("T")


class Wire:
    """One InfluxDB. Its methods may be called from any thread and wait for the answer."""

    def __init__(self, config: InfluxConfig, write_timeout_s: float = WRITE_TIMEOUT_S) -> None:
        self.place = config.place
        """Address and name, for a person."""
        self.config = config
        self._write_timeout_s = write_timeout_s
        self._rests_until_s = 0.0
        self._url = config.url.rstrip("/")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="influxdb", daemon=True)
        self._thread.start()
        self._session = self._run(_session(config))
        self._client = self._run(_client(config, write_timeout_s)) if config.bucket else None

    def write(self, body: bytes, timeout_s: float | None = None) -> None:
        """Store these lines; they are durable as far as the server's own 204 goes when it returns.

        `timeout_s` is for who wants to know sooner. Raises LinesRefused or StoreUnavailable.
        """
        if (rests_s := self._rests_until_s - self._loop.time()) > 0:
            raise self._down(f"it asked to be left alone for {rests_s:.1f} s more", _mend(429, "write", self.config))
        try:
            status, said, later = self._run(self._write_v2(body) if self._client else self._write_v1(body), timeout_s)
        except (aiohttp.ClientError, CancelledError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error
        if status in (429, 503):
            self._rests_until_s = self._loop.time() + _rest_s(later)
        if status != 204:
            raise self._refusal(status, said)

    def ask(self, *statements: str, timeout_s: float | None = None) -> list[list[Series]]:
        """The whole answer to each of these InfluxQL statements. Raises StoreUnavailable."""
        if not statements:
            return []
        status, body = self._asked("; ".join(statements), timeout_s)
        if status != 200:
            raise self._failure(status, _text(body), "read")
        try:
            return read(body)
        except BadAnswer as error:
            raise self._down(str(error), MAKE_MEND if NOT_FOUND in str(error) else "see the server's log") from error

    def present(self) -> bool:
        """Whether the bucket or database is there. Raises StoreUnavailable where that cannot be told."""
        status, body = self._asked("SELECT opened FROM joulefleet_store LIMIT 1")
        if status == 404 or (status == 200 and NOT_FOUND in _text(body)):
            return False
        if status != 200:
            raise self._failure(status, _text(body), "read")
        return True

    def call(self, method: str, path: str, **options: Any) -> bytes:
        """A request to the API by which buckets and databases are made. Raises StoreUnavailable."""
        status, body = self._requested(method, path, **options)
        if status // 100 != 2:
            raise self._failure(status, _text(body), "make")
        return body

    def close(self) -> None:
        """End connections and the thread; whoever waits for an answer is told that there will be none."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout_s), self._loop).result()

    async def _write_v2(self, body: bytes) -> tuple[int, str, str]:
        """Status, the server's own words, and its Retry-After."""
        assert self._client
        try:
            taken = await self._client.write_api().write(self.config.bucket, self.config.org, body)
        except ApiException as error:
            return error.status or 0, _text(error.body or b""), str(error.retry_after or "")
        # The client counts 201 as stored too; no version answers that to a write.
        return (204, "", "") if taken else (200, "it answered a write without saying that it was stored", "")

    async def _write_v1(self, body: bytes) -> tuple[int, str, str]:
        timeout = aiohttp.ClientTimeout(total=self._write_timeout_s)
        address, options = f"{self._url}/write", {"db": self.config.database}
        async with self._session.post(
            address, params=options, data=body, timeout=timeout, allow_redirects=False
        ) as answer:
            return answer.status, _text(await answer.read()), answer.headers.get("Retry-After", "")

    def _asked(self, statement: str, timeout_s: float | None = None) -> tuple[int, bytes]:
        data = {"q": statement, "db": self.config.name, "epoch": "ns"}
        return self._requested("POST", "/query", timeout_s, data=data)

    def _requested(self, method: str, path: str, timeout_s: float | None = None, **options: Any) -> tuple[int, bytes]:
        try:
            return self._run(self._request(method, path, **options), timeout_s)
        except (aiohttp.ClientError, CancelledError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error

    async def _request(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
        async with self._session.request(
            method, self._url + path, timeout=timeout, allow_redirects=False, **options
        ) as answer:
            return answer.status, await answer.read()

    async def _close(self) -> None:
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if self._client:
            await self._client.close()  # type: ignore[no-untyped-call]  # the client's own lack
        await self._session.close()

    def _refusal(self, status: int, said: str) -> Exception:
        """What it means that a write was not answered with success: a fault of lines, or one that a person mends."""
        if status == 413:
            return LinesRefused(said or "larger than the server takes")
        if status not in (400, 422):
            return self._failure(status, said, "write")
        if "type conflict" in said:
            return self._down(said, "it holds data of another program: name a database or bucket for joulefleet alone")
        if "limit exceeded" in said:
            return self._down(said, "raise that limit of the server")
        old = DROPPED_AS_OLD.search(said)
        return LinesRefused(said, int(old[1]) if old else 0)

    def _failure(self, status: int, said: str, what: str) -> StoreUnavailable:
        mend = _mend(status, what, self.config)
        return self._down(f"status {status} to a request to {what}: {said or 'without a word'}", mend)

    def _down(self, reason: str, mend: str) -> StoreUnavailable:
        return StoreUnavailable(self.place, reason, mend)

    def _unreachable(self, error: Exception) -> StoreUnavailable:
        _let_go(error)
        if isinstance(error, CancelledError):
            return self._down("it was closed before it answered", "send it again to a collector that runs")
        told = str(getattr(error, "os_error", error)) or type(error).__name__
        if isinstance(error, TimeoutError):
            return self._down("it did not answer in time", "see whether it is overloaded or cut off")
        return self._down(f"it cannot be reached: {told}", "start it, or mend the address or the network")


async def _session(config: InfluxConfig) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers=_credentials(config))


def _credentials(config: InfluxConfig) -> dict[str, str]:
    if config.token:
        return {"Authorization": f"Token {config.token}"}
    if config.username:
        pair = b64encode(f"{config.username}:{config.password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}
    return {}


async def _client(config: InfluxConfig, timeout_s: float) -> InfluxDBClientAsync:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    secret = {"token": config.token} if config.token else {}
    # After a redirect a write would become a GET, and its answer look like success.
    return InfluxDBClientAsync(config.url.rstrip("/"), org=config.org, timeout=timeout, allow_redirects=False, **secret)


def _rest_s(retry_after: str) -> int:
    """Seconds for which a server asks to be left alone; 0 where it does not say, or says a date."""
    return min(int(retry_after), LONGEST_REST_S) if re.fullmatch("[0-9]{1,9}", retry_after) else 0


def _text(body: bytes | str) -> str:
    """A server's own words, from the forms in which InfluxDB and its kin put them; without line breaks."""
    text = body if isinstance(body, str) else body.decode(errors="replace")
    try:
        said = msgspec.json.decode(text, type=dict[str, Any])
        text = str(said.get("error") or said.get("message") or text)
    except msgspec.MsgspecError:
        pass
    return " ".join(text.split())[:MOST_REASON]


def _mend(status: int, what: str, config: InfluxConfig) -> str:
    secret = "INFLUX_TOKEN" if config.bucket else "INFLUX_USERNAME and INFLUX_PASSWORD"
    if status == 401:
        return f"set {secret} to what the server knows"
    if status == 403:
        return f"give that token or user the right to {what} {config.place.partition(' ')[2]}"
    if status == 404:
        return MAKE_MEND
    if status == 429:
        return "it asks for fewer requests: wait, or give it more room"
    if status == 503:
        return "it is overloaded or starting: wait, or see its log"
    return "see the server's log" if status >= 500 else "see whether the address is that of an InfluxDB"


def _let_go(error: BaseException | None) -> None:
    """Free what the frames of a failed request hold: aiohttp leaves them in cycles, each with the lines of a commit.

    Garbage is seldom looked for, so that every try while the server is down would cost memory for an hour.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
