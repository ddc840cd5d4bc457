#!/usr/bin/env bash
# Trains the bundled model for MINUTES on a borrowed machine: one large GPU, Python 3.12,
# JAX, no network. Needs .device/ of benchmarks/device_pack.py.
#
#     bash benchmarks/device_train.sh MINUTES [--smoke] [--config.FIELD=VALUE ...]
#
# Everything counts: installation, compilation, the training, its end. Called again, it
# goes on from what it finds in runs/device. What is worth keeping lies in $OUT, or in
# runs/device/out: the model, metrics.jsonl, report.json, train.log. --smoke shows in a
# few steps of tiny views that it runs, on a CPU, too. PYTHON names another interpreter.
set -euo pipefail
started=$(date +%s)
cd "$(dirname "$0")/.."
. benchmarks/device_env.sh
"$python" benchmarks/device_train.py "$@" --started="$started" 2>&1 \
    | tee -a "$OUT/train.log"
