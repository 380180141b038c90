"""What one tick of the agent costs: 8 boards, 2 packages, 2 DRAM and a BMC, each source read once.

The boards are the tests' fake driver library under NVIDIA's own binding, the packages files in memory, the BMC a local
Redfish server by HTTPS. So this is what reading costs the agent itself: a driver and a BMC take their own time on top.
Each source is read in a process of its own, after some reads to warm up; CPU is the reading thread's. Writes a table
and a JSON file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from joulefleet.describe import Meter
from joulefleet_agent.sources import opener_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fixtures.nvml import fake_nvml
from fixtures.powercap import Tree
from fixtures.redfish import fake_bmc, trees

BOARDS = 8
WARM = 20
READS = {"nvml": 500, "rapl": 2_000, "redfish": 100}
MEMORY = "/dev/shm"
"""A read of sysfs touches no disk."""


def main() -> None:
    """Measure every source, print and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path, default=Path("bench-tick.json"))
    arguments.add_argument("--read", nargs=2, metavar=("SOURCE", "TABLE"), help="the process that reads one source")
    asked = arguments.parse_args()
    if asked.read:
        print(json.dumps(measured(asked.read[0], json.loads(asked.read[1]))))
        return
    with ExitStack() as stack:
        rows = [read_in_a_process(*one) for one in surroundings(stack)]
    rows.append({"source": "all", **{key: sum(row[key] for row in rows) for key in ("meters", "cpu_us", "wall_us")}})
    asked.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    print(f"{'source':<10}{'meters':>8}{'CPU, us':>12}{'wall, us':>12}   a read, the middle of many")
    for row in rows:
        print(f"{row['source']:<10}{row['meters']:>8}{row['cpu_us']:>12.0f}{row['wall_us']:>12.0f}")


def surroundings(stack: ExitStack) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """Each source with its table and what it needs in its environment."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)))
    tree = Tree(folder)
    tree.add_two_sockets()
    boards = fake_nvml.FakeNvml(fake_nvml.build(folder / "nvml"), folder / "nvml.control", boards=BOARDS)
    boards.write()
    certificate = fake_bmc.Certificate.made(folder)
    bmc = stack.enter_context(fake_bmc.running(fake_bmc.FakeBmc(trees.dmtf), certificate))
    secret = folder / "password"
    secret.write_text(fake_bmc.PASSWORD)
    secret.chmod(0o600)
    bmc_table = {
        "url": bmc.url,
        "user": fake_bmc.USER,
        "password_file": str(secret),
        "fingerprint_sha256": certificate.fingerprint,
    }
    return [
        ("nvml", {}, boards.environment()),
        ("rapl", {"root": str(tree.root), "boot_id": str(tree.boot_id)}, {}),
        ("redfish", bmc_table, {}),
    ]


def read_in_a_process(source: str, table: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """What the source costs, measured where nothing else runs."""
    command = [sys.executable, __file__, "--read", source, json.dumps(table)]
    said = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True).stdout
    row: dict[str, Any] = json.loads(said)
    return row


def measured(name: str, table: dict[str, Any]) -> dict[str, Any]:
    """The middle of many reads of one source, in microseconds."""
    source = opener_of(name, "tick")(table)
    cpu_us, wall_us = [], []
    for _ in range(WARM + READS[name]):
        cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
        source.read()
        cpu_us.append((time.thread_time_ns() - cpu_ns) / 1_000)
        wall_us.append((time.perf_counter_ns() - wall_ns) / 1_000)
    meters = sum(isinstance(one, Meter) for one in source.declares)
    told = (statistics.median(cpu_us[WARM:]), statistics.median(wall_us[WARM:]))
    return {"source": name, "meters": meters, "cpu_us": told[0], "wall_us": told[1]}


if __name__ == "__main__":
    main()
