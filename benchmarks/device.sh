#!/usr/bin/env bash
# Measures a borrowed machine with an accelerator in at most 8 minutes: one large GPU,
# Python 3.12, JAX, no network. Needs .device/ of benchmarks/device_pack.py, without
# which nothing is installed and the bundled model's training is left out.
#
#     bash benchmarks/device.sh [--smoke] [--minutes=8]
#
# The table is printed, and written to device.md in $OUT, or in runs/device/out, after
# each of its parts. --smoke shows in a few tiny steps that it runs, on a CPU, too.
set -euo pipefail
started=$(date +%s)
cd "$(dirname "$0")/.."
. benchmarks/device_env.sh
"$python" benchmarks/device.py "$@" --started="$started"
