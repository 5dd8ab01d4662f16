#!/bin/bash
# Whole nodes of a Slurm cluster: sbatch slurm.sh program.md --hours 8, in the folder of program.md.
#
# Not run under Slurm: run with Ray 2.60 on two namespaces of one machine, with an `srun` that is ssh, on the CPU.
#
# The folder must be on a file system that the first node sees; the others get commits inside Ray's own calls. On every
# node the same environment must be on PATH: it is the one that sbatch is called from.
#
#SBATCH --job-name=autoresearch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=09:00:00
#SBATCH --signal=B:INT@900
set -eu

export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_worker_niceness=0 RAY_worker_oom_score_adjustment=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN # srun hands it to the other nodes

# This script runs on the first node, which is Ray's head: by its first address, so name another network's here if the
# nodes do not reach each other on that one. The port differs between jobs.
head=$(hostname --all-ip-addresses | cut -d ' ' -f 1)
port=$((20000 + SLURM_JOB_ID % 10000))
RAY_health_check_initial_delay_ms=1000 RAY_health_check_period_ms=1000 \
RAY_health_check_timeout_ms=2000 RAY_health_check_failure_threshold=3 \
  ray start --head --node-ip-address="$head" --port="$port" --disable-usage-stats --object-store-memory=200000000
export RAY_ADDRESS=$head:$port

if [ "$SLURM_NNODES" -gt 1 ]; then
  srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$(hostname --short)" \
    ray start --address="$RAY_ADDRESS" --object-store-memory=200000000 --block &
fi

# `workers: auto` counts the GPUs that have joined by now.
python - "$SLURM_NNODES" << 'END'
import sys
import time

import ray

ray.init(log_to_driver=False)
deadline = time.monotonic() + 120
while (joined := sum(each["Alive"] for each in ray.nodes())) < int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit(f"{joined} of {sys.argv[1]} nodes joined Ray within two minutes")
    time.sleep(1)
END

# In place of this shell, so that Slurm's SIGINT, 15 minutes before the end, lets it finish what it measures.
exec autoresearch-ray run --foreground "$@"
