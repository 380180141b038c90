#!/usr/bin/env bash
# Installs what the benchmarks compare with, from Debian: vmagent and VictoriaMetrics (one package) and InfluxDB 1.6 for
# the collector, prometheus-node-exporter and collectd for the agent.
# The benchmarks start and end their own processes; services of the system are neither started nor changed.
set -euo pipefail

"$(dirname "$0")/../tests/services/install.sh"

missing=()
command -v prometheus-node-exporter >/dev/null || missing+=(prometheus-node-exporter)
command -v collectd >/dev/null || [ -x /usr/sbin/collectd ] || missing+=(collectd-core libcurl3-gnutls)
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "install ${missing[*]} by hand: there is no apt-get here" >&2
    exit 2
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
# Keeps the packages from starting their services where the machine has none of its own rule.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod +x "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
