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
python=${PYTHON:-python3}
export OUT=${OUT:-runs/device/out}
export DELF_JAX_CACHE=${DELF_JAX_CACHE:-runs/device/cache}
export PYTHONUNBUFFERED=1
export PYTHONPATH=$PWD
mkdir -p "$OUT" runs/device
if compgen -G ".device/wheels/*.whl" > /dev/null; then
    site=runs/device/site
    if [ ! -d "$site" ]; then
        "$python" -m pip install --quiet --no-index --no-deps --no-compile \
            --no-cache-dir --upgrade --target "$site.part" .device/wheels/*.whl
        mv "$site.part" "$site"
    fi
    export PYTHONPATH=$PWD:$PWD/$site
fi
"$python" benchmarks/device_train.py "$@" --started="$started" 2>&1 \
    | tee -a "$OUT/train.log"
