#!/usr/bin/env bash
# Runs the image once, small, while it is built: that it works is seen, and what Numba and DeepSpeed compile is kept.
# Numba's attention is compiled for each width of heads: 16 channels in kgt-tiny, 32 in all other presets, which the
# evaluation of a challenger meets on a CPU. Triton compiles on the GPU that it is for, so when it is first wanted.
set -euo pipefail
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
KGT_HOME=$(mktemp -d)
RAY_TMPDIR=$KGT_HOME
export RAY_AUTH_TOKEN KGT_HOME RAY_TMPDIR  # none of them reaches the image
trap 'rm -rf "$KGT_HOME"' EXIT
python pipelines/synthesize.py task=all source=sample limit=6 crop=96 crops=2
python training/run.py task=denoise model=kgt-tiny steps=2 batch_size=2 patch=32 workers=1 validation_pairs=2
python training/run.py task=sr model=kgt-s steps=1 batch_size=1 patch=32 workers=1 validation_pairs=1
