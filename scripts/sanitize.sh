#!/usr/bin/env bash
# Runs packed test binaries (scripts/pack_tests.py) under NVIDIA's compute-sanitizer, on a machine with a GPU. Prints a
# line a tool and binary; exits with 1 if a tool found an error or a test failed, with 2 if it was called wrongly.
#
# usage: scripts/sanitize.sh FOLDER [NAME[:FILTER] …]
#
# NAME takes the binaries whose name holds it, FILTER those of its tests whose name holds that; without a NAME, all.
# Environment: TOOLS (memcheck racecheck initcheck), SANITIZER (compute-sanitizer), DISTILLIX_CASES, the shapes drawn a row
# of tests/ops.rs (2), and LIMIT, the seconds a tool and binary may take (1800).
set -uo pipefail

usage() {
    sed -n '/^# usage/,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

folder=${1:-}
[[ -n "$folder" && "$folder" != -* ]] || usage
shift
[[ -d "$folder/tests" ]] || { echo "$folder holds no tests: pack it with scripts/pack_tests.py" >&2; exit 2; }
folder=$(cd "$folder" && pwd)
sanitizer=${SANITIZER:-compute-sanitizer}
command -v "$sanitizer" > /dev/null || { echo "there is no $sanitizer; it comes with the CUDA toolkit" >&2; exit 2; }
read -ra tools <<< "${TOOLS:-memcheck racecheck initcheck}"
for tool in "${tools[@]}"; do
    [[ " memcheck racecheck initcheck synccheck " == *" $tool "* ]] || { echo "there is no tool $tool" >&2; exit 2; }
done
[[ $# -gt 0 ]] || set -- ""

# A tensor gets memory of its own, with no reserve around it and nothing written to it.
export DISTILLIX_REQUIRE_CUDA=1 DISTILLIX_SEPARATE_MEMORY=1 DISTILLIX_CASES=${DISTILLIX_CASES:-2}
export CARGO_BIN_EXE_distillix="$folder/programs/distillix"
logs="$folder/logs"
mkdir -p "$logs"
failed=0 runs=0

# check TOOL BINARY FILTER
check() {
    local tool=$1 test=$2 filter=$3 name log start code verdict summaries errors passed
    local -a options=(--error-exitcode 99 --require-cuda-init no --print-limit 20)
    # Libraries ask the driver for what it may not have, and go on.
    [[ "$tool" != memcheck ]] || options+=(--report-api-errors no)
    name=$(basename "$test")
    log="$logs/$tool--$name${filter:+--$filter}.log"
    start=$SECONDS code=0
    CARGO_MANIFEST_DIR="$folder/data/${name%%--*}" timeout "${LIMIT:-1800}" "$sanitizer" --tool "$tool" \
        "${options[@]}" "$test" --test-threads=1 ${filter:+"$filter"} > "$log" 2>&1 || code=$?
    # One a process; the last that found something counts.
    summaries=$(sed -nE 's/^=+ ((ERROR|RACECHECK) SUMMARY: .*)/\1/p' "$log")
    errors=$(grep -vE ': 0 errors|: 0 hazards displayed \(0 errors, 0 warnings\)' <<< "$summaries" | tail -1)
    # The exit code alone tells too little: a test that ends by itself may hide the tool's.
    [[ $code -ne 0 || -z "$errors" ]] || code=99
    errors=${errors:-$(tail -1 <<< "$summaries")}
    passed=$(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1 tests passed, \2 failed/p' "$log" | tail -1)
    case $code in
        0) verdict=ok ;;
        99) verdict="ERRORS" ;;
        124) verdict="CUT OFF after ${LIMIT:-1800} s" ;;
        *) verdict="FAILED with $code" ;;
    esac
    # A run that reports nothing has checked nothing: right where tests use no GPU, wrong elsewhere.
    if [[ "$verdict" == ok ]] && grep -q 'before first instrumented API call' "$log"; then
        verdict=ok errors="made no CUDA call"
    elif [[ "$verdict" == ok && (-z "$errors" || -z "$passed") ]]; then
        verdict="NOTHING CHECKED"
    fi
    echo "$tool $name${filter:+ $filter}: $verdict; ${passed:-no result}; ${errors:-no summary} ($((SECONDS - start)) s)"
    runs=$((runs + 1))
    [[ "$verdict" == ok ]] || { failed=$((failed + 1)) && echo "    see $log"; }
}

for tool in "${tools[@]}"; do
    for wanted in "$@"; do
        found=
        filter=
        [[ "$wanted" != *:* ]] || filter=${wanted#*:}
        for test in "$folder"/tests/*; do
            [[ "$(basename "$test")" == *"${wanted%%:*}"* ]] || continue
            found=yes
            check "$tool" "$test" "$filter"
        done
        [[ -n "$found" ]] || { echo "no binary's name holds ${wanted%%:*}" >&2; exit 2; }
    done
done
[[ $failed -eq 0 ]] && echo "all $runs clean" || echo "$failed of $runs not clean"
[[ $failed -eq 0 ]]
