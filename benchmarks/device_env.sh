# What device.sh and device_train.sh run in: the packages of .device/wheels, one cache of
# compiled programs, results in $OUT. Sourced from the root of the checkout.
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
