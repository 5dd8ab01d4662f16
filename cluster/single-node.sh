#!/bin/sh
# One machine, all its GPUs: a run that outlives this terminal, and Ray's dashboard on 127.0.0.1:8265.
#
#     sh single-node.sh program.md --hours 8        the arguments are those of `autoresearch-ray run`
#     ray stop                                      when Ray is no longer wanted
#
# Run with Ray 2.60, on the CPU. Not run with GPUs.
#
# Without this file `autoresearch-ray run` starts a Ray of its own, which ends with it. Here Ray goes on between runs.
set -eu

export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 # every port binds 127.0.0.1, and no other machine can join
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_worker_niceness=0 RAY_worker_oom_score_adjustment=0
export RAY_ADDRESS=127.0.0.1:6379

test -s ~/.ray/auth_token || ray get-auth-token --generate > /dev/null
chmod 600 ~/.ray/auth_token
python -c 'import socket; socket.create_connection(("127.0.0.1", 6379), 1)' 2> /dev/null ||
  ray start --head --port=6379 --disable-usage-stats --object-store-memory=200000000

exec autoresearch-ray run --as-job "$@"
