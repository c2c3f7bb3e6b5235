#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, without network: build dkcam, run tests/gpu, measure, write JSON.
#   tests/gpu/run.sh [OUT]        OUT: folder for the results (default: gpu-results)
# Needs python3 with the packages of pyproject.toml's extras, nvcc, cmake. torch must see the GPU for the peers to use it.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:-gpu-results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
export DKCAM_CACHE="$out/cache" PYTHONUNBUFFERED=1
trap 'rm -rf "$DKCAM_CACHE"' EXIT
python3 -m pip install --no-build-isolation --no-deps -e . >"$out/build.log" 2>&1 || { tail -20 "$out/build.log"; exit 1; }
python3 -m pytest tests/gpu -q -rs -o faulthandler_timeout=300 2>&1 | tee "$out/tests.log"
failed=${PIPESTATUS[0]}
scripts=$(python3 -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
for device in tensorrt cuda; do
    "$scripts/dk-bench" --random-width 1 --device "$device" --rounds 100 --peers --json "$out/full-width-$device.json" || failed=1
    "$scripts/dk-bench" --device "$device" --rounds 100 --json "$out/demo-$device.json" || failed=1
done
exit "$failed"
