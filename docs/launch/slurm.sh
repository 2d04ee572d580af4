#!/bin/bash
# Four machines of eight GPUs, for as long as it takes: sbatch docs/launch/slurm.sh
#SBATCH --job-name=gpt
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=gpt-%j.log
set -u

name=gpt-1.3b
# Both on a file system that every machine has.
corpus=$HOME/corpora/pile
runs=$HOME/runs

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 torchrun \
  --nnodes="$SLURM_NNODES" --nproc-per-node=8 --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head:29500" \
  --no-python wafergpt pretrain cerebras-gpt/1.3b --go-on \
  --runs "$runs" name="$name" data.corpus="$corpus" system.shard=8
code=$?

# Five minutes before the time is over the run saves and stops; then it queues up again.
if [ "$code" -eq 0 ] && [ ! -e "$runs/$name/result.json" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
