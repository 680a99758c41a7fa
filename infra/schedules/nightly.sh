#!/bin/sh
# What a night does: train on the newest shards, evaluate, promote. One step after the other; one that fails ends the
# night, and the champions stay as they are. STORE, RUNS and IMAGES (held out) come from the environment.
#
# A run is named by its date: without a name, every night would find the first one's run finished. Started again on the
# same day, it goes on where it was: what is evaluated is not evaluated again, and what is decided stays decided. It takes
# the GPUS of this machine, one if that is not set.
set -eu
python=.venv/bin/python
night=nightly-$(date +%F)
reports=${KGT_HOME:?}/reports

$python training/run.py task=all recipe=full steps=20000 workers="${GPUS:-1}" gpus_per_worker=1 precision=bf16 \
  activation_checkpointing=true store="$STORE" name="$night" out="$RUNS/$night"
[ -e "$reports/$night.json" ] ||
  $python training/evaluate.py task=all images="$IMAGES" "model=models:/kgt-{task}@challenger" report="$reports/$night.json"
exec $python training/promote.py task=all images="$IMAGES" store="$STORE" only_new=true
