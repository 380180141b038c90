"""The collector's configuration: what is refused, by name."""

import re
import tomllib
from pathlib import Path

import pytest

from joulefleet.config import ConfigError, typed
from joulefleet_collector.config import DEFAULT_PORT, CollectorConfig, Role, configure
from joulefleet_collector.store.influx_config import from_environment
from joulefleet_collector.store.retention import Keep
from joulefleet_collector.store.store import DAY_NS


def written(folder: Path, text: str) -> Path:
    path = folder / "collector.toml"
    path.write_text(text)
    return path


def test_the_command_line_stands_alone() -> None:
    config = configure(None, "/data", None)
    assert (config.data_dir, config.listen.port, config.listen.host) == (Path("/data"), DEFAULT_PORT, "127.0.0.1")
    assert DEFAULT_PORT == 8765


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        '[listen]\nport = 1\n[store]\ndata_dir = "x"\nkeep_windows_days = 2\nkeep_minutes_days = 0.5\n'
        "[policy]\npair_threshold = 0.9\n",
    )
    config = configure(file, None, None)
    assert (config.listen.port, config.data_dir) == (1, Path("x"))
    config = configure(file, "y", 0)
    assert (config.listen.port, config.data_dir) == (0, Path("y"))
    assert (config.store.keep_windows_days, config.policy.pair_threshold) == (2.0, 0.9)
    assert config.store.keep == Keep(windows_ns=2 * DAY_NS, minutes_ns=DAY_NS // 2)


def test_windows_are_kept_a_week_and_minutes_for_ninety_days() -> None:
    assert configure(None, "d", None).store.keep == Keep(windows_ns=7 * DAY_NS, minutes_ns=90 * DAY_NS) == Keep()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[listn]\nport = 1\n", "listn"),
        ("[listen]\nprot = 1\n", "listen.*prot"),
        ("[listen]\nport = 70000\n", "listen.port"),
        ('[listen]\nport = "a"\n', "listen.port: expected `int`"),
        ("[store]\nkeep_windows_days = 0\n", "store.keep_windows_days"),
        ("[store]\nkeep_minutes_days = -1\n", "store.keep_minutes_days"),
        ("[policy]\npair_treshold = 1\n", "policy.*pair_treshold"),
        ("[[sites]]\npue = 0.9\n", r"sites.*0\.9 is less than 1"),
        ("[[sites]]\npues = 1.1\n", "sites.*pues"),
        ('[[sites]]\nname = "a"\n[[sites]]\nname = "a"\n', "sites: 'a' stands there twice"),
        ("[[embodied]]\nhardware = 'h'\nkg = 1\nyears = 0\n", "embodied.*years"),
        (
            "[[fleet.overhead]]\nwhat = 'network'\nwatts = 5\n",
            "fleet.overhead.*serves no pool and no site",
        ),
        ("[listen\n", "not TOML"),
    ],
)
def test_a_typo_is_refused_with_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"collector.toml: {said}"):
        configure(written(tmp_path, text), "d", None)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "example.org", ""])
def test_another_host_than_loopback_is_refused_with_the_reason(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=r"listen.host: .*loopback.*auth.key_file"):
        configure(written(tmp_path, f'[listen]\nhost = "{host}"\n'), "d", None)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_loopback_is_taken(tmp_path: Path, host: str) -> None:
    assert configure(written(tmp_path, f'[listen]\nhost = "{host}"\n'), "d", None).listen.host == host


def test_a_missing_data_folder_or_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data-dir"):
        configure(None, None, None)
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read"):
        configure(tmp_path / "none.toml", "d", None)


def test_an_influxdb_is_named_in_its_own_table(tmp_path: Path) -> None:
    text = '[store]\nkind = "influxdb"\ndata_dir = "d"\n[store.influxdb]\ndatabase = "fleet"\ntoken = "hush"\n'
    config = configure(written(tmp_path, text), None, None)
    assert (config.store.kind, config.store.influxdb.database) == ("influxdb", "fleet")
    assert "hush" not in repr(config)
    with pytest.raises(ConfigError, match=r"store.influxdb.*tokn"):
        configure(written(tmp_path, "[store.influxdb]\ntokn = 1\n"), "d", None)
    with pytest.raises(ConfigError, match=r"store\.kind"):
        configure(written(tmp_path, '[store]\nkind = "influx"\n'), "d", None)


def test_the_influxdb_of_the_readme_is_one() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```ini\n(.*?)```", readme, re.DOTALL)
    config = typed(tomllib.loads(text), CollectorConfig, "README.md")
    assert config.store.kind == "influxdb"
    assert from_environment(config.store.influxdb, {}, "README.md").database == "joulefleet"


INFLUX = '[store]\nkind = "influxdb"\n'


def test_workers_and_role_are_in_the_file_and_the_command_line_goes_before_it(tmp_path: Path) -> None:
    assert (configure(None, "d", None).workers, configure(None, "d", None).role) == (1, "all")
    file = written(tmp_path, f'workers = 3\nrole = "watch"\n{INFLUX}')
    config = configure(file, "d", None)
    assert (config.workers, config.role) == (3, "watch")
    config = configure(file, "d", None, 1, "ingest")
    assert (config.workers, config.role) == (1, "ingest")
    for text, said in (("workers = 0", "workers"), ("workers = 65", "workers"), ('role = "reader"', "role")):
        with pytest.raises(ConfigError, match=f"collector.toml: {said}"):
            configure(written(tmp_path, text), "d", None)


@pytest.mark.parametrize("role", ["ingest", "watch"])
def test_the_embedded_store_cannot_be_shared_by_roles(tmp_path: Path, role: Role) -> None:
    with pytest.raises(ConfigError, match=f"command line: role: '{role}' needs an InfluxDB"):
        configure(None, "d", None, role=role)
    with pytest.raises(ConfigError, match="needs an InfluxDB"):
        configure(written(tmp_path, f'role = "{role}"\n'), "d", None)
