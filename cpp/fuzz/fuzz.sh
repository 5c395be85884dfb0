#!/usr/bin/env bash
# Fuzz what reads manifests and pictures: fuzz.sh BUILD SECONDS. Finds are kept in BUILD/fuzz.
set -euo pipefail
build=$1 seconds=$2
corpus="$(cd "$(dirname "$0")" && pwd)/corpus"
for subject in manifest picture; do
  finds="$build/fuzz/$subject"
  mkdir -p "$finds"
  "$build/fuzz/tame-fuzz-$subject" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 \
    -artifact_prefix="$finds/crash-" -print_final_stats=0 -verbosity=0 "$finds" "$corpus/$subject"
  echo "fuzzed $subject for $seconds s: no fault"
done
