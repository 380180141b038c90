"""One connection to a BMC: who is trusted, who is logged in, and what slow, broken and busy BMCs are told apart by."""

import contextlib
import gc
import json
import threading
import traceback
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from fixtures.redfish.fake_bmc import BEGIN, PASSWORD, SESSIONS, USER, Certificate, FakeBmc, has_openssl, running
from fixtures.redfish.trees import V1
from joulefleet.config import ConfigError
from joulefleet_plugins.meters.redfish_session import (
    LOCKED_OUT_S,
    MAX_BODY_BYTES,
    Bmc,
    Login,
    NoAnswer,
    Origin,
    Trust,
    host_and_port,
    shown_fingerprint,
)

CHASSIS = f"{V1}/Chassis/1U"
LOGIN = Login(USER, lambda: PASSWORD)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    if not has_openssl():
        pytest.skip("openssl is not on this machine: no certificate can be made")
    return Certificate.made(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def fake(certificate: Certificate) -> Iterator[FakeBmc]:
    with running(FakeBmc(), certificate) as bmc:
        yield bmc


def origin(fake: FakeBmc) -> Origin:
    return (fake.scheme, "127.0.0.1", fake.port)


def pinned(certificate: Certificate) -> Trust:
    return Trust(fingerprint=certificate.fingerprint.replace(":", "").lower())


@pytest.fixture
def bmc(fake: FakeBmc, certificate: Certificate) -> Bmc:
    return Bmc(origin(fake), pinned(certificate), LOGIN, 20, fake.now_s)


def refused(bmc: Bmc, path: str = CHASSIS) -> NoAnswer:
    with pytest.raises(NoAnswer) as raised:
        bmc.begin()
        bmc.get(path)
    assert PASSWORD not in "".join(traceback.format_exception(raised.value)) + repr(bmc) + str(raised.value)
    return raised.value


def test_a_session_is_made_once_used_and_given_back(fake: FakeBmc, bmc: Bmc) -> None:
    for _ in range(5):
        bmc.begin()
        answer = bmc.get(CHASSIS)
    assert (answer.document["Id"], answer.at) == ("1U", BEGIN)
    assert (fake.count("POST"), len(fake.sessions)) == (1, 1)
    bmc.close()
    assert (fake.count("DELETE"), fake.sessions) == (1, set())
    bmc.close()
    assert fake.count("DELETE") == 1


def test_a_session_is_given_back_by_who_forgot_to(fake: FakeBmc, certificate: Certificate) -> None:
    bmc = Bmc(origin(fake), pinned(certificate), LOGIN, 20, fake.now_s)
    bmc.get(CHASSIS)
    assert fake.sessions
    del bmc
    gc.collect()
    assert not fake.sessions


def test_an_expired_session_is_made_anew_once(fake: FakeBmc, bmc: Bmc) -> None:
    bmc.get(CHASSIS)
    fake.sessions.clear()
    assert bmc.get(CHASSIS).document["Id"] == "1U"
    assert fake.count("POST") == 2


def test_a_wrong_password_is_tried_once_in_ten_minutes(fake: FakeBmc, bmc: Bmc) -> None:
    fake.password = "another"
    error = refused(bmc)
    assert (error.code, error.again_s) == ("permission", LOCKED_OUT_S)
    for _ in range(59):
        fake.seconds += 10
        assert refused(bmc).code == "permission"
    assert fake.count("POST") == 1
    fake.seconds += 11
    fake.password = PASSWORD
    bmc.begin()
    assert bmc.get(CHASSIS).document["Id"] == "1U"


def test_a_session_that_is_never_believed_is_no_reason_to_log_in_again_and_again(fake: FakeBmc, bmc: Bmc) -> None:
    fake.status = 401
    assert refused(bmc).code == "permission"
    assert refused(bmc).code == "permission"
    assert fake.count("POST") == 2, "once, and once more for a session that might have expired"


def test_a_resource_that_this_account_may_not_read_locks_nobody_out(fake: FakeBmc, bmc: Bmc) -> None:
    fake.status = 403
    error = refused(bmc)
    assert (error.code, error.again_s) == ("permission", 0)
    fake.status = 200
    assert bmc.get(CHASSIS).document["Id"] == "1U"


def test_basic_sends_the_password_each_time_and_makes_no_session(fake: FakeBmc, certificate: Certificate) -> None:
    bmc = Bmc(origin(fake), pinned(certificate), Login(USER, lambda: PASSWORD, basic=True), 20, fake.now_s)
    assert bmc.get(CHASSIS).document["Id"] == "1U"
    assert fake.count("POST") == 0


def test_a_wrong_password_of_basic_is_sent_once(fake: FakeBmc, certificate: Certificate) -> None:
    bmc = Bmc(origin(fake), pinned(certificate), Login(USER, lambda: "another", basic=True), 20, fake.now_s)
    assert (refused(bmc).code, len(fake.asked)) == ("permission", 1)
    assert (refused(bmc).code, len(fake.asked)) == ("permission", 1)


def test_a_bmc_may_be_asked_by_nobody_in_particular(fake: FakeBmc, certificate: Certificate) -> None:
    fake.login = False
    assert Bmc(origin(fake), pinned(certificate), None, 20, fake.now_s).get(CHASSIS).document["Id"] == "1U"


def test_a_certificate_is_trusted_by_its_authority(fake: FakeBmc, certificate: Certificate) -> None:
    bmc = Bmc(origin(fake), Trust(ca_file=str(certificate.path)), LOGIN, 20, fake.now_s)
    assert bmc.get(CHASSIS).document["Id"] == "1U"


def test_any_certificate_is_trusted_where_that_is_said(fake: FakeBmc) -> None:
    assert Bmc(origin(fake), Trust(verify=False), LOGIN, 20, fake.now_s).get(CHASSIS).document["Id"] == "1U"


@pytest.mark.parametrize("trust", [Trust(), Trust(fingerprint="0" * 64)])
def test_nothing_is_sent_over_a_connection_that_is_not_trusted(fake: FakeBmc, trust: Trust) -> None:
    assert refused(Bmc(origin(fake), trust, LOGIN, 20, fake.now_s)).code == "tls"
    assert fake.asked == []


def test_the_certificate_s_fingerprint_can_be_shown(fake: FakeBmc, certificate: Certificate) -> None:
    assert shown_fingerprint(origin(fake), 5) == pinned(certificate).fingerprint
    assert shown_fingerprint(("https", "127.0.0.1", 1), 5) == ""


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_a_ca_file_that_is_none_is_the_user_s_to_mend(tmp_path: Path, text: str) -> None:
    (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(ConfigError, match="ca_file"):
        Bmc(("https", "127.0.0.1", 1), Trust(ca_file=str(tmp_path / "ca.pem")), None, 1)


def test_a_redirect_on_the_same_host_is_followed_once(fake: FakeBmc, bmc: Bmc) -> None:
    bmc.get(CHASSIS)
    fake.status, fake.headers = 308, {"Location": f"{CHASSIS}/"}
    assert refused(bmc).code == "http_status"
    assert fake.asked[-2:] == [f"GET {CHASSIS}", f"GET {CHASSIS}/"]


@pytest.mark.parametrize("to", ["https://elsewhere.example/redfish/v1", "//elsewhere.example/", "http://127.0.0.1/a"])
def test_a_redirect_to_another_host_is_never_followed(fake: FakeBmc, bmc: Bmc, to: str) -> None:
    fake.status, fake.headers = 302, {"Location": to}
    assert refused(bmc).code == "redirect"


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": format_datetime(BEGIN + timedelta(seconds=90), usegmt=True)}, 90),
        ({"Retry-After": "999999"}, 600),
        ({"Retry-After": "-5"}, 0),
        ({"Retry-After": "soon"}, 0),
        ({}, 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_bmc_is_left_alone_as_long_as_it_asks(
    fake: FakeBmc, bmc: Bmc, status: int, headers: dict[str, str], pause_s: int
) -> None:
    bmc.get(CHASSIS)
    fake.status, fake.headers = status, headers
    assert refused(bmc).code == "busy"
    asked = len(fake.asked)
    fake.status = 200
    if pause_s:
        fake.seconds += pause_s - 1
        assert refused(bmc).code == "busy"
        assert len(fake.asked) == asked
        fake.seconds += 1
    bmc.begin()
    assert bmc.get(CHASSIS).document["Id"] == "1U"


@pytest.mark.parametrize(("status", "code"), [(404, "not_found"), (410, "not_found"), (500, "http_status")])
def test_a_resource_that_is_refused_tells_its_status(fake: FakeBmc, bmc: Bmc, status: int, code: str) -> None:
    fake.status = status
    assert refused(bmc).code == code


@pytest.mark.parametrize(
    "body",
    [b"", b'{"Id": ', b"[]", b"<html>busy</html>", b"\xff\xfe", b'{"Reading": NaN}', b'{"a":' * 5000, b"null"],
)
def test_what_is_no_resource_is_malformed(fake: FakeBmc, bmc: Bmc, body: bytes) -> None:
    fake.body = body
    assert refused(bmc).code == "malformed"
    fake.body = None
    bmc.begin()
    assert bmc.get(CHASSIS).document["Id"] == "1U"


def test_a_body_of_megabytes_is_not_read_to_its_end(fake: FakeBmc, bmc: Bmc) -> None:
    fake.body = json.dumps({"a": "x" * 5_000_000}).encode()
    assert len(fake.body) > MAX_BODY_BYTES
    assert refused(bmc).code == "too_large"


def test_an_answer_that_ends_in_the_middle_is_truncated(fake: FakeBmc, bmc: Bmc) -> None:
    bmc.get(CHASSIS)
    fake.cut = True
    assert refused(bmc).code == "truncated"
    fake.cut = False
    bmc.begin()
    assert bmc.get(CHASSIS).document["Id"] == "1U"


def test_a_connection_that_was_dropped_while_idle_is_made_anew(fake: FakeBmc, bmc: Bmc) -> None:
    bmc.get(CHASSIS)
    fake.drops = 1
    assert bmc.get(CHASSIS).document["Id"] == "1U"


def test_a_connection_that_is_dropped_again_is_a_failure(fake: FakeBmc, bmc: Bmc) -> None:
    bmc.get(CHASSIS)
    fake.drops = 2
    assert refused(bmc).code == "unreachable"
    bmc.begin()
    assert bmc.get(CHASSIS).document["Id"] == "1U"


def test_a_login_is_never_sent_twice_by_itself(fake: FakeBmc, bmc: Bmc) -> None:
    bmc.get(CHASSIS)
    fake.sessions.clear()
    fake.drops, fake.drops_on = 1, "POST"
    assert refused(bmc).code == "unreachable"
    assert fake.count("POST") == 2


def test_nobody_there_is_unreachable(fake: FakeBmc) -> None:
    assert refused(Bmc(("http", "127.0.0.1", 1), Trust(), None, 5)).code == "unreachable"


def test_three_seconds_an_answer_are_waited_for_within_the_time_of_a_poll(fake: FakeBmc, bmc: Bmc) -> None:
    bmc.get(CHASSIS)
    fake.latency_s = 3
    bmc.begin()
    for _ in range(6):
        assert bmc.get(CHASSIS).document["Id"] == "1U"
    assert fake.now_s() == 1018.0
    with pytest.raises(NoAnswer) as raised:
        bmc.get(CHASSIS)
    assert raised.value.code == "timeout"
    bmc.begin()
    assert bmc.get(CHASSIS).document["Id"] == "1U"


def test_no_answer_ever_ends_at_the_time_limit(fake: FakeBmc, certificate: Certificate) -> None:
    fake.waits = threading.Event()
    assert refused(Bmc(origin(fake), pinned(certificate), LOGIN, 0.2)).code == "timeout"


def test_sessions_are_made_where_the_root_says_or_where_the_specification_does(fake: FakeBmc, bmc: Bmc) -> None:
    fake.patch = {f"{V1}/": {"Links": {"Sessions": {"@odata.id": "//elsewhere.example/"}}}}
    assert bmc.get(CHASSIS).document["Id"] == "1U"
    assert f"POST {SESSIONS}" in fake.asked


def test_an_address_is_written_as_in_a_url() -> None:
    assert host_and_port(("https", "bmc", 443)) == "bmc:443"
    assert host_and_port(("https", "fe80::1", 8443)) == "[fe80::1]:8443"


def test_a_hundred_questions_leave_no_connection_open(fake: FakeBmc, bmc: Bmc) -> None:
    bmc.get(CHASSIS)
    before = _open_files()
    for k in range(100):
        fake.drops = k % 3
        fake.status = 500 if k % 5 == 0 else 200
        with contextlib.suppress(NoAnswer):
            bmc.begin()
            bmc.get(CHASSIS)
    bmc.close()
    gc.collect()
    assert _open_files() <= before + 2


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
