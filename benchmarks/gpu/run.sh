#!/usr/bin/env bash
# On a machine with a GPU, jax with CUDA, torch and transformers: parity on the GPU, then speed in bfloat16. About ten minutes.
# Usage: benchmarks/gpu/run.sh [OUTPUT_FOLDER]        (PYTHON=python3.12 to choose the interpreter)
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-benchmarks/results}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH="$PWD:$PWD/benchmarks" XLA_PYTHON_CLIENT_PREALLOCATE=false TF_CPP_MIN_LOG_LEVEL=2

echo "== parity: float32 on the GPU against PyTorch on the CPU"
rm -f "$out/parity_gpu.jsonl"
JAXFORMERS_TEST_PLATFORM=cuda PARITY_REPORT="$out/parity_gpu.jsonl" timeout 330 \
  "$python" -m pytest -q -n 6 -p no:cacheprovider tests/parity/test_families.py -k "test_forward and default" \
  | tee "$out/parity_gpu.log" || echo "parity: not all rows passed, see $out/parity_gpu.log"

echo "== speed: bfloat16, side by side with PyTorch"
timeout 270 "$python" benchmarks/gpu/bench.py --output "$out/gpu.json" | tee "$out/gpu.md"
