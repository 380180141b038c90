"""A soak: 200 agents with windows of one second, kill -9 of everything at random, and in the end every sum exact.

Half of the agents deliver to a collector with the embedded store, half to two collectors before one InfluxDB 1.x; all
to the embedded store where no `influxd` is installed. Collectors, InfluxDB and four of the agents are the real
processes; the other agents are hosted, some twenty in a process (soak/host.py says what of them is simulated).
Processes are killed by a plan that follows from the seed; what happens between two kills does not. At the end each
server's joules, tokens, requests and windows at each boundary, as its store tells them, are compared: of hosted agents
with the simulation's truth, of real ones with the windows in their own spools. Exit 1 where anything is off.
"""

import argparse
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from soak.outcome import show
from soak.soak import Soak

AGENTS = 200


def main() -> int:
    """Soak, tell, and judge."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="from the first reading to the last [600]")
    parser.add_argument("--seed", type=int, default=None, help="of the kills; drawn by chance and told if left out")
    parser.add_argument("--json", type=Path, default=None, help="file for the outcome")
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
    logging.basicConfig(level=logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="joulefleet-soak-"))
    print(f"seed {seed}, {asked.seconds} s, {AGENTS} agents; logs and stores in {folder}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing that was started outlives this
    began_s = time.monotonic()
    try:
        with Soak(folder, seed, asked.seconds, AGENTS) as soak:
            outcome = soak.run()
    except TimeoutError as error:
        print(f"OFF: {error}; logs and stores are kept in {folder}")
        return 1
    outcome.took_s = time.monotonic() - began_s
    show(outcome)
    if asked.json:
        asked.json.write_text(json.dumps(outcome.as_json(), indent=1) + "\n")
    if outcome.faults:
        print(f"logs and stores are kept in {folder}; run again with --seconds {asked.seconds} --seed {seed}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
