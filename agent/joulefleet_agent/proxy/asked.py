"""What a request asks of an inference server, and how it is asked to tell the tokens of its answer."""

from typing import Any, NamedTuple

import msgspec

_ALL = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NULL = b"null"


class Route(NamedTuple):
    """One kind of request that is counted."""

    path: str
    """What its path ends with."""
    streams: bool = False
    """Whether its answer comes in parts where the request does not say."""
    has_option: bool = False
    """Whether streams tell their tokens only where they are asked to."""
    has_output: bool = True
    """Whether its answer is tokens."""


ROUTES = (
    Route("/v1/chat/completions", has_option=True),
    Route("/v1/completions", has_option=True),
    Route("/v1/responses"),
    Route("/v1/embeddings", has_output=False),
    Route("/api/chat", streams=True),
    Route("/api/generate", streams=True),
)


class Asked(NamedTuple):
    """What of a request matters here."""

    model: str = ""
    body: bytes = b""
    """As it came."""
    with_usage: bytes = b""
    """As it has to be sent so that its stream tells tokens; empty where that needs nothing, or is not known."""


def route_of(method: str, path: str) -> Route | None:
    """The kind of this request; None where it is passed on and not counted. `path` is without its query."""
    if method != "POST":
        return None
    return next((one for one in ROUTES if path.endswith(one.path)), None)


def asked_of(route: Route, body: bytes) -> Asked:
    """What this body asks. One that cannot be read is passed on as it is: to refuse it is the server's affair."""
    try:
        members = _ALL.decode(body)
        model = _plain(members.get("model"))
        streams = _plain(members.get("stream"))
        options = _plain(members.get("stream_options"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Asked("", body)
    named = model if isinstance(model, str) else ""
    lacks = route.has_option and streams is True and _lacks_usage(options)
    return Asked(named, body, _with_usage(members) if lacks else b"")


def _plain(raw: msgspec.Raw | None) -> Any:
    return None if raw is None else msgspec.json.decode(raw)


def _lacks_usage(options: Any) -> bool:
    """Whether tokens would not be told. Where options are of no known form, or tell usage in each part, none is added:
    who asked so would get what was not asked for in every part."""
    if options is None:
        return True
    return isinstance(options, dict) and not options.get("include_usage") and not options.get("continuous_usage_stats")


def _with_usage(members: dict[str, msgspec.Raw]) -> bytes:
    """The same members, each value byte by byte as it came, and the option."""
    own = members.get("stream_options")
    options = _ALL.decode(own) if own is not None and bytes(own) != _NULL else {}
    options = {**options, "include_usage": msgspec.Raw(b"true")}
    return msgspec.json.encode({**members, "stream_options": options})
