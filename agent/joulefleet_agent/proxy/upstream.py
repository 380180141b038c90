"""The server behind the proxy: asked in the client's words, and for the tokens of its streams where it tells them."""

from collections.abc import AsyncIterator, Callable

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, ServerTimeoutError, web
from multidict import CIMultiDict
from yarl import URL

from joulefleet.units import s_to_ns
from joulefleet_agent.proxy.asked import Asked

NO_OPTION = (400, 422)
"""Statuses with which a server refuses an option that it does not know."""
HTTP_OK = 200
LOOK = ClientTimeout(total=10.0)
MOST_LOOKED_AT = 65_536
REFUSED_FOR_NS = s_to_ns(3600)
"""A server that refused the option is asked again after this: it may be another release."""


class Refused(Exception):
    """A request that is answered here, with a status and one sentence."""

    def __init__(self, status: int, reason: str, sentence: str) -> None:
        self.status = status
        self.reason = reason
        """A word for counting."""
        super().__init__(sentence)


class Upstream:
    """The server behind the proxy, as far as it is known."""

    def __init__(self, base: str, session: ClientSession, now_ns: Callable[[], int]) -> None:
        self._base, self._session, self._now_ns = base.rstrip("/"), session, now_ns
        self._refused_ns: int | None = None
        self._accepted = False

    @property
    def tells_usage(self) -> bool:
        """Whether it may be asked to tell the tokens of a stream."""
        return self._refused_ns is None or self._now_ns() - self._refused_ns > REFUSED_FOR_NS

    async def ask(
        self, request: web.Request, headers: CIMultiDict[str], body: bytes | AsyncIterator[bytes] | None
    ) -> ClientResponse:
        """The head of its answer. Raises Refused where none comes."""
        url = URL(self._base + request.raw_path, encoded=True)
        try:
            return await self._session.request(request.method, url, headers=headers, data=body, allow_redirects=False)
        except ServerTimeoutError as error:
            raise Refused(504, "timeout", "the server behind this proxy cannot be reached in time") from error
        except (ClientError, OSError) as error:
            if isinstance(error.__cause__, Refused):
                raise error.__cause__ from error
            raise Refused(502, "connect", "the server behind this proxy gives no answer") from error

    async def ask_for_usage(
        self, request: web.Request, headers: CIMultiDict[str], asked: Asked
    ) -> tuple[ClientResponse, bool]:
        """Its answer, and whether it was asked for usage. One that refuses that is asked again, without."""
        if not asked.with_usage or not self.tells_usage:
            return await self.ask(request, headers, asked.body), False
        response = await self.ask(request, headers, asked.with_usage)
        if self._accepted or response.status not in NO_OPTION:
            self._accepted |= response.status == HTTP_OK
            return response, True
        response.close()
        again = await self.ask(request, headers, asked.body)
        if again.status == HTTP_OK:
            self._refused_ns = self._now_ns()
        return again, False

    async def shows_metrics(self) -> bool | None:
        """Whether it has a metrics page of its own; None where it does not answer now."""
        try:
            async with self._session.get(f"{self._base}/metrics", timeout=LOOK, allow_redirects=False) as response:
                return response.status == HTTP_OK and b"# TYPE " in await response.content.read(MOST_LOOKED_AT)
        except (ClientError, OSError):
            return None
