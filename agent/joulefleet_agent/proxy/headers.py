"""Which headers go on, from client to server and back: all but those of one connection (RFC 9110, section 7.6.1)."""

from collections.abc import Iterable

from multidict import CIMultiDict

OF_ONE_CONNECTION = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    }
)
OF_ONE_REQUEST = frozenset({"host", "expect"})
"""The server has a name of its own, and the proxy itself tells the client to go on."""
ADDED = ("Server", "Content-Type")
"""Headers that aiohttp adds to an answer that has none."""


def passed(raw: Iterable[tuple[bytes, bytes]], but: frozenset[str] = frozenset()) -> CIMultiDict[str]:
    """The headers that go on, as they were written and in their order, but for some (in lower case)."""
    pairs = [(name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")) for name, value in raw]
    named = {one.strip().lower() for name, value in pairs if name.lower() == "connection" for one in value.split(",")}
    left_out = OF_ONE_CONNECTION | named | but
    return CIMultiDict((name, value) for name, value in pairs if name.lower() not in left_out)
