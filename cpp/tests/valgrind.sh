#!/usr/bin/env bash
# One explanation under valgrind: valgrind.sh BUILD ARTIFACT. What ONNX Runtime itself keeps or
# reads is not ours to mend; everything that libtame allocates is freed, and nothing is read wrongly.
set -euo pipefail
build=$1 artifact=$2
here="$(cd "$(dirname "$0")" && pwd)"
picture="$here/../../tests/golden/pictures/wide.jpg"
printf '%s\n' "{\"open\": \"$artifact\"}" "{\"explain\": \"$picture\"}" "{\"explain\": \"nowhere\"}" |
  valgrind --quiet --leak-check=full --errors-for-leak-kinds=definite --error-exitcode=9 \
    --suppressions="$here/valgrind.supp" "$build/tests/api/tame-replay" >"$build/valgrind.jsonl"
grep -c '"status":"OK"' "$build/valgrind.jsonl" | grep -qx 2
echo "valgrind: nothing lost, nothing read wrongly"
