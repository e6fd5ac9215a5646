#!/usr/bin/env bash
# On a machine with a GPU, jax with CUDA, torch and transformers: parity on the GPU, then speed in bfloat16, forward,
# training and decoding. About half an hour; every part writes its results as it goes, and one that fails stops none.
# Usage: benchmarks/gpu/run.sh [OUTPUT_FOLDER] [PART...]     parts: parity forward train decode (all by default)
# PYTHON=python3.12 chooses the interpreter; TINY=1 tries train and decode with small models on the CPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-benchmarks/results}
parts=${*:2}
python=${PYTHON:-python3}
tiny=${TINY:+--tiny}
mkdir -p "$out"
export PYTHONPATH="$PWD:$PWD/benchmarks" XLA_PYTHON_CLIENT_PREALLOCATE=false TF_CPP_MIN_LOG_LEVEL=2

asked() { [[ -z "$parts" || " $parts " == *" $1 "* ]]; }

# speed PART SECONDS SCRIPT: a table in PART.md, numbers in PART.json
speed() {
  timeout "$2" "$python" "$3" $tiny --output "$out/$1.json" | tee "$out/$1.md" || echo "$1: not finished, see above"
}

if asked parity && [[ -z "$tiny" ]]; then
  echo "== parity: float32 on the GPU against PyTorch on the CPU"
  rm -f "$out/parity_gpu.jsonl"
  JAXFORMERS_TEST_PLATFORM=cuda PARITY_REPORT="$out/parity_gpu.jsonl" timeout 330 \
    "$python" -m pytest -q -n 6 -p no:cacheprovider tests/parity/test_families.py -k "test_forward and default" \
    | tee "$out/parity_gpu.log" || echo "parity: not all rows passed, see $out/parity_gpu.log"
fi
asked forward && { echo "== forward passes"; speed gpu 270 benchmarks/gpu/bench.py; }
asked train && { echo "== train steps"; speed gpu_train 900 benchmarks/gpu/train.py; }
asked decode && { echo "== prefill and decoding"; speed gpu_decode 900 benchmarks/gpu/decode.py; }
exit 0
