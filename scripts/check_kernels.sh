#!/usr/bin/env bash
# Compiles every kernel for every architecture we promise; fails on an error, a warning, or a register spill in a hot file.
# usage: scripts/check_kernels.sh NVCC
set -euo pipefail
cd "$(dirname "$0")/.."

export nvcc=$1
architectures=(75 80 86 89 90a 100 120)
# Files whose speed decides that of a training step.
export hot="attention attention_backward attention_sm90 attention_sm90_backward ternary_gemm head_loss norm_quantize norm_rope \
rms_norm swiglu swiglu_quantize quantize optim"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

check() {
    local file=$1 arch=$2 out
    if ! out=$("$nvcc" -cubin "-gencode=arch=compute_$arch,code=sm_$arch" -O3 -std=c++17 -I kernels -Xptxas -v \
        -o /dev/null "kernels/$file.cu" 2>&1); then
        echo "$file.cu, sm_$arch does not compile: $out"
        return
    fi
    grep -i 'warning' <<< "$out" | sed "s/^/$file.cu, sm_$arch: /" || true
    if [[ " $hot " == *" $file "* ]]; then
        grep -E '[1-9][0-9]* bytes spill' <<< "$out" | sed "s/^/$file.cu, sm_$arch: /" || true
    fi
}
export -f check

for file in kernels/*.cu; do
    for arch in "${architectures[@]}"; do
        echo "$(basename "$file" .cu) $arch"
    done
done | xargs -P "$(nproc)" -L 1 bash -c 'check "$0" "$1"' > "$log"

if [[ -s "$log" ]]; then
    cat "$log"
    exit 1
fi
echo "$(ls kernels/*.cu | wc -l) files for sm_$(IFS=,; echo "${architectures[*]}"): no warning; no spill in the hot ones"
