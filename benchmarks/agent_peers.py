"""The peers beside which the agent's cost is told: Debian's prometheus-node-exporter and collectd, as processes."""

import http.client
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from processes import DEADLINE_S, running, until
from surroundings import beside

SBIN = ":/usr/sbin"
PAGE_PERIOD_S = 5.0
WANTED = ("request_success_total", "prompt_tokens_total", "generation_tokens_total", "num_requests_running")
"""Metrics of the page that collectd is told to find; each is one regular expression over all of it."""


class Peer:
    """One program that is measured beside the agent."""

    def __init__(self, name: str, pid: int, note: str) -> None:
        self.name = name
        self.pid = pid
        self.note = note
        """What it does of what the agent does, and what not."""


def found(program: str) -> str | None:
    """Where this program is installed."""
    return shutil.which(program, path=os.environ.get("PATH", "") + SBIN)


@contextmanager
def node_exporter(folder: Path, powercap: Path, period_s: float, cores: tuple[int, int], small: bool) -> Iterator[Peer]:
    """Scraped once a period; its default collectors with the tree in place of the machine's, or the tree alone."""
    program = found("prometheus-node-exporter")
    assert program
    more = ["--collector.disable-defaults", "--collector.rapl"] if small else []
    command = [program, f"--path.sysfs={_sys_with(folder, powercap)}", "--web.listen-address=127.0.0.1:0", *more]
    with ExitStack() as stack:
        said = folder / "node_exporter.err"
        process = stack.enter_context(running(command, said, cores[1]))
        port = int(until(lambda: re.search(r"127\.0\.0\.1:(\d+)", said.read_text()), "node exporter to listen")[1])
        zones, bytes_ = _scrape_once(port)
        stack.enter_context(beside(cores[0], _scrape, port, period_s))
        which = "rapl only" if small else "its default collectors"
        note = f"{which}: {zones} zones in {bytes_:,} bytes a scrape; no page, no windows; keeps and sends nothing"
        yield Peer(f"node_exporter, {'rapl' if small else 'default'}", process.pid, note)


@contextmanager
def collectd(folder: Path, counters: Sequence[Path], page_url: str, period_s: float, core: int) -> Iterator[Peer]:
    """Reads the same files and page by its plugins `table` and `curl`, and writes CSV files."""
    program = found("collectd")
    assert program
    folder.mkdir()
    config, csv = folder / "collectd.conf", folder / "csv"
    config.write_text(_collectd_config(folder, csv, counters, page_url, period_s))
    with running([program, "-f", "-C", str(config)], folder / "collectd.err", core) as process:
        until(lambda: len(list(csv.rglob("derive-*"))) >= len(counters), "collectd to write every counter")
        note = (
            f"{len(counters)} counters, {len(WANTED)} metrics of the page, no windows; CSV without sync; sends nothing"
        )
        yield Peer("collectd", process.pid, note)


def _collectd_config(folder: Path, csv: Path, counters: Sequence[Path], page_url: str, period_s: float) -> str:
    tables = "\n".join(
        f'<Table "{path}">\nInstance "energy-{k}"\nSeparator " "\n<Result>\nType derive\n'
        f'InstancePrefix "{k}"\nValuesFrom 0\n</Result>\n</Table>'
        for k, path in enumerate(counters)
    )
    matches = "\n".join(
        f'<Match>\nRegex "vllm:{name}[{{][^}}]*[}}] ([0-9.]+)"\n'
        f'DSType GaugeLast\nType gauge\nInstance "{name}"\n</Match>'
        for name in WANTED
    )
    return (
        f'Hostname "server"\nBaseDir "{folder}"\nPIDFile "{folder}/collectd.pid"\nPluginDir "/usr/lib/collectd"\n'
        f'TypesDB "/usr/share/collectd/types.db"\nInterval {period_s}\nReadThreads 2\nWriteThreads 1\n'
        "LoadPlugin table\nLoadPlugin csv\n"
        f"<LoadPlugin curl>\nInterval {PAGE_PERIOD_S}\n</LoadPlugin>\n"
        f"<Plugin table>\n{tables}\n</Plugin>\n"
        f'<Plugin curl>\n<Page "vllm">\nURL "{page_url}"\n{matches}\n</Page>\n</Plugin>\n'
        f'<Plugin csv>\nDataDir "{csv}"\nStoreRates false\n</Plugin>\n'
    )


def _sys_with(folder: Path, powercap: Path) -> Path:
    """The machine's /sys as links, with another powercap tree in its class."""
    root = folder / "sys"
    (root / "class").mkdir(parents=True)
    for of, into in ((Path("/sys"), root), (Path("/sys/class"), root / "class")):
        for one in of.iterdir():
            if one.name not in ("class", "powercap"):
                (into / one.name).symlink_to(one)
    (root / "class" / "powercap").symlink_to(powercap)
    return root


def _scrape_once(port: int) -> tuple[int, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read()
    connection.close()
    return len(re.findall(rb"(?m)^node_rapl_", text)), len(text)


def _scrape(port: int, period_s: float) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    while True:
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        time.sleep(period_s - time.monotonic() % period_s)
