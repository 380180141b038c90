#!/usr/bin/env bash
# Installs what the benchmarks compare with, from Debian: vmagent and VictoriaMetrics (one package) and InfluxDB 1.6 for
# the collector, prometheus-node-exporter and collectd for the agent.
# The benchmarks start and end their own processes; services of the system are neither started nor changed.
set -euo pipefail

"$(dirname "$0")/../tests/services/install.sh"

missing=()
command -v prometheus-node-exporter >/dev/null || missing+=(prometheus-node-exporter)
command -v collectd >/dev/null || [ -x /usr/sbin/collectd ] || missing+=(collectd-core libcurl3-gnutls)
[ ${#missing[@]} -eq 0 ] || "$(dirname "$0")/../tests/services/apt.sh" "${missing[@]}"
