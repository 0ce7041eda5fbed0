#!/usr/bin/env bash
# Begin a sweep, or go on with it where its run directory is there: a scheduler may start it again and again.
#
#   deploy/sweep.sh RUN_DIR SPACE [OPTION ...]
#
# The cluster is that of RAY_ADDRESS, or the one that this node is part of.
set -euo pipefail
run=${1:?a run directory is missing}
shift
address=${RAY_ADDRESS:-auto}
if [ -e "$run/sweep.yaml" ]; then
  exec pareto-amb sweep --resume "$run" --trust-run --address "$address"
fi
exec pareto-amb sweep "$@" --output "$run" --address "$address"
