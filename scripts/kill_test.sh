#!/bin/sh
# Kills a run of the preset tiny at random moments, also while it saves, resumes it each time, and compares the weights
# at the end with those of a run that was left alone.
#
# usage: scripts/kill_test.sh [KILLS [STEPS [PROGRAM [ARGUMENTS OF TRAIN …]]]]
set -eu
kills=${1:-20}
steps=${2:-300}
program=${3:-"$(dirname "$0")/../target/release/distillix"}
[ $# -lt 3 ] && shift $# || shift 3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Replaces the shell, so call it in one of its own. Frequent checkpoints, so that many kills meet one being saved.
train() {
    out=$1
    shift
    [ ! -d "$folder/$out" ] || set -- --resume "$@"
    exec "$program" train --preset tiny --steps "$steps" --set training.checkpoint_every=2 --out "$folder/$out" "$@" \
        >"$folder/log" 2>&1
}

begin=$(date +%s%N)
(train whole "$@") || { cat "$folder/log"; exit 1; }
# Milliseconds that the whole run takes: each life is drawn from a part of it, so that the kills spread over the run.
whole=$((($(date +%s%N) - begin) / 1000000))
echo "the run left alone took $whole ms"

killed=0
saving=0
finished=0
while [ "$killed" -lt "$kills" ]; do
    train killed "$@" &
    run=$!
    random=$(od -An -N4 -tu4 /dev/urandom)
    life=$((random % (whole / 4 + 1)))
    sleep "$((life / 1000)).$(printf %03d $((life % 1000)))"
    # Fails if it has ended meanwhile.
    kill -9 "$run" 2>/dev/null || true
    code=0
    wait "$run" 2>/dev/null || code=$?
    if [ -n "$(ls -A "$folder/killed/checkpoints" 2>/dev/null | grep '^\.')" ]; then
        saving=$((saving + 1))
    fi
    if [ "$code" -eq 0 ]; then
        cmp "$folder/whole/model.safetensors" "$folder/killed/model.safetensors"
        finished=$((finished + 1))
        rm -rf "$folder/killed"
    elif [ "$code" -eq 137 ]; then
        killed=$((killed + 1))
    else
        cat "$folder/log"
        exit 1
    fi
done
(train killed "$@") || { cat "$folder/log"; exit 1; }
cmp "$folder/whole/model.safetensors" "$folder/killed/model.safetensors"
echo "$killed kills, $saving while a checkpoint was saved or removed, $((finished + 1)) runs brought to their end: the same bytes"
