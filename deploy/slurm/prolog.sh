#!/bin/sh
# slurm.conf: Prolog=/etc/slurm/prolog.d/autotune.sh   PrologFlags=Alloc
# Keeps autotune off the devices of a job before it starts. It never fails, and never waits for long: a prolog
# that fails drains the node.
set -u
[ -n "${SLURM_JOB_ID:-}" ] || exit 0

pause() {
    timeout 20 autotune pause --wait --device "$1" --reason "slurm:$SLURM_JOB_ID" >/dev/null 2>&1 ||
        logger -t autotune "job $SLURM_JOB_ID: no lease on $1" 2>/dev/null || true
}

if [ -n "${SLURM_JOB_GPUS:-}" ]; then
    # The numbers are the node's, such as 0,2; the host's CPU is busy with the job too.
    for index in $(printf %s "$SLURM_JOB_GPUS" | tr ',' ' '); do
        pause "cuda:$index"
    done
    pause cpu
else
    pause all
fi
exit 0
