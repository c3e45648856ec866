#!/usr/bin/env bash
# Trains the teacher inside the program and writes it where the program embeds it.
# usage: scripts/make_teacher.sh [RUN]    (RUN: a run folder to reuse or create; default runs/teacher)
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/teacher}
program=(cargo run --release -q -p distillix --)
[ -f "$run/model.safetensors" ] || "${program[@]}" train --teacher none --set model.linear=dense --steps 5000 --seed 7 --out "$run"
cargo run --release -q -p distillix --example embed_teacher -- "$run" distillix/src/smelter/teacher
