#!/usr/bin/env bash
# Fuzz what reads manifests, references and pictures: fuzz.sh BUILD SECONDS. What is found is kept in BUILD/fuzz.
set -euo pipefail
build=$1 seconds=$2
corpus="$(cd "$(dirname "$0")" && pwd)/corpus"
for subject in manifest npz picture; do
  finds="$build/fuzz/$subject"
  mkdir -p "$finds"
  "$build/fuzz/tame-fuzz-$subject" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 \
    -artifact_prefix="$build/fuzz/$subject-" "$finds" "$corpus/$subject" >"$build/fuzz/$subject.log" 2>&1 ||
    { tail -40 "$build/fuzz/$subject.log"; exit 1; }
  echo "fuzzed $subject for $seconds s: no fault"
done
