"""Tenants by key, by hash, by header; and keys that stay untold."""

import hashlib
import hmac
from pathlib import Path

import pytest
from multidict import CIMultiDict

from joulefleet.config import ConfigError
from joulefleet_agent.proxy.tenants import Tenants, kept_salt, load_tenants

KEY = "sk-very-secret"
SALT = b"s" * 32
HASHED = "key-" + hmac.new(SALT, KEY.encode(), hashlib.sha256).hexdigest()[:12]


def tenant(named: dict[bytes, str] | None = None, header: str = "", **headers: str) -> str:
    return Tenants(SALT, named or {}, header).of(CIMultiDict(headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY} "},
        {"X-API-Key": KEY},
        {"api-key": KEY},
        {"Authorization": KEY},
    ],
)
def test_a_key_by_its_hash(headers: dict[str, str]) -> None:
    assert tenant(**headers) == HASHED
    assert tenant({hashlib.sha256(KEY.encode()).digest(): "red"}, **headers) == "red"
    assert Tenants(b"t" * 32, {}).of(CIMultiDict(headers)) != HASHED


def test_a_header_names_the_tenant_only_without_a_key() -> None:
    assert tenant(header="X-Team", **{"x-team": "blue"}) == "blue"
    assert tenant(header="X-Team", **{"x-team": "blue", "api-key": KEY}) == HASHED
    assert tenant(**{"x-team": "blue"}) == ""
    assert tenant(header="X-Team") == ""


def test_a_key_of_odd_bytes() -> None:
    assert tenant(Authorization="Bearer \udcff").startswith("key-")


def file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "tenants.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_file_of_tenants(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"other").hexdigest()
    named = load_tenants(file(tmp_path, f'[tenants]\n"{KEY}" = "red"\n"sha256:{digest.upper()}" = "blue"\n'))
    assert tenant(named, Authorization=f"Bearer {KEY}") == "red"
    assert tenant(named, Authorization="Bearer other") == "blue"


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        (f'[tenants]\n"{KEY}" = "red"\n', 0o640, "chmod 600"),
        (f'[tenants]\n"{KEY}" = 7\n', 0o600, "expected a table"),
        (f'[tenants]\n"{KEY} = \n', 0o600, "expected a table"),
        ('[tenants]\n"sha256:abc" = "red"\n', 0o600, "64 hexadecimal digits"),
    ],
)
def test_a_file_of_no_use_is_told_without_its_keys(tmp_path: Path, text: str, mode: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        load_tenants(file(tmp_path, text, mode))
    assert KEY not in str(error.value)


def test_what_systemd_gave_to_the_service_alone(tmp_path: Path) -> None:
    path = file(tmp_path, f'[tenants]\n"{KEY}" = "red"\n', 0o440)
    assert len(load_tenants(path, {"CREDENTIALS_DIRECTORY": str(tmp_path)})) == 1
    for environ in ({"CREDENTIALS_DIRECTORY": str(tmp_path / "other")}, {"CREDENTIALS_DIRECTORY": ""}, {}):
        with pytest.raises(ConfigError, match="chmod 600"):
            load_tenants(path, environ)
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_tenants(path, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_tenants(tmp_path / "none")


def test_the_salt_stays(tmp_path: Path) -> None:
    path = tmp_path / "state" / "salt"
    salt = kept_salt(path)
    assert len(salt) == 32
    assert kept_salt(path) == salt != kept_salt(tmp_path / "other")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["salt"]


def test_a_salt_of_no_use(tmp_path: Path) -> None:
    (tmp_path / "salt").write_text("abc")
    with pytest.raises(ConfigError, match="no salt"):
        kept_salt(tmp_path / "salt")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept"):
        kept_salt(tmp_path / "file" / "salt")
