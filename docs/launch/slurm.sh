#!/bin/bash
# Four machines of eight GPUs, for as long as it takes: sbatch docs/launch/slurm.sh
#SBATCH --job-name=gpt
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=gpt-%j.log
set -u

name=gpt-1.3b
# Both on a file system that every machine has.
corpus=$HOME/corpora/pile
runs=$HOME/runs

# Five minutes before the time is over Slurm tells this script, which tells the run: save and stop.
asked=
trap 'asked=yes; kill -TERM "$step"' TERM

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun \
  --nnodes="$SLURM_NNODES" --nproc-per-node=8 --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head:29500" \
  --no-python wafergpt pretrain cerebras-gpt/1.3b --auto-resume \
  --runs "$runs" name="$name" data.corpus="$corpus" system.shard=8 &
step=$!
# The first one ends when the signal comes.
wait "$step" || wait "$step"
code=$?

if [ -n "$asked" ] && [ ! -e "$runs/$name/result.json" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
