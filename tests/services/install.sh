#!/usr/bin/env bash
# Installs the servers that the tests in this folder run against, from Debian: InfluxDB 1.6, VictoriaMetrics and net-snmp.
# The tests start and end their own processes; services of the system are neither started nor changed.
set -euo pipefail

missing=()
command -v influxd >/dev/null || missing+=(influxdb)
command -v victoria-metrics >/dev/null || missing+=(victoria-metrics)
command -v snmpd >/dev/null || [ -x /usr/sbin/snmpd ] || missing+=(snmpd)
[ ${#missing[@]} -eq 0 ] || "$(dirname "$0")/apt.sh" "${missing[@]}"
