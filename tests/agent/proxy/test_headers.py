"""Which headers go on."""

from joulefleet_agent.proxy.headers import OF_ONE_REQUEST, passed


def test_all_but_those_of_one_connection() -> None:
    raw = [
        (b"Host", b"x"),
        (b"X-Two", b"1"),
        (b"connection", b"close, X-Hop"),
        (b"Connection", b"x-other"),
        (b"x-hop", b"1"),
        (b"X-Other", b"1"),
        (b"TE", b"trailers"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"x-two", b"\xff\xe9"),
        (b"Authorization", b"Bearer k"),
    ]
    told = passed(raw, OF_ONE_REQUEST)
    assert [(name, value.encode("utf-8", "surrogateescape")) for name, value in told.items()] == [
        ("X-Two", b"1"),
        ("x-two", b"\xff\xe9"),
        ("Authorization", b"Bearer k"),
    ]
    assert "Host" in passed(raw)
