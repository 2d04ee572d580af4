"""The launch files for clusters: their syntax, and that the command in them is one."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from wafergpt.cli.pretrain import command
from wafergpt.cli.recipe import split_arguments
from wafergpt.config import load_recipe

FOLDER = Path(__file__).parents[1] / "docs" / "launch"


def check(words: list[str]) -> dict[str, Any]:
    """Parse torchrun's and our own options as they would be, and read the recipe."""
    from torch.distributed.run import get_args_parser

    torchrun = get_args_parser().parse_args(words[1:])
    assert torchrun.no_python
    assert torchrun.training_script == "wafergpt"
    verb, *arguments = torchrun.training_script_args
    assert verb == "pretrain"
    parsed = command.make_context("pretrain", list(arguments)).params
    assert parsed["auto_resume"]
    recipe = load_recipe(*split_arguments(parsed["arguments"]))
    assert recipe.system.shard == 8
    recipe.system.require_groups(16)
    return vars(torchrun)


def test_slurm() -> None:
    path = FOLDER / "slurm.sh"
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text(encoding="utf-8")
    options = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.M)
    assert len(options) == text.count("#SBATCH")
    # Slurm reads them only above the first command.
    assert text.rindex("#SBATCH") < text.index("set -u")
    folded = text.replace("\\\n", " ")
    (line,) = [line for line in folded.split("\n") if line.startswith("srun")]
    line = line.removesuffix("&").replace('"$SLURM_NNODES"', "4").replace("$", "")
    words = shlex.split(line)
    torchrun = check(words[words.index("torchrun") :])
    assert str(torchrun["nproc_per_node"]) == dict(options)["gpus-per-node"]


def test_kubernetes() -> None:
    job = yaml.safe_load((FOLDER / "pytorchjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    spec = job["spec"]
    # The fields that the operator's definition of a job has; an unknown one is refused by it.
    assert spec.keys() <= {"elasticPolicy", "nprocPerNode", "pytorchReplicaSpecs", "runPolicy"}
    assert isinstance(spec["nprocPerNode"], str)
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    elastic = spec["elasticPolicy"]
    assert elastic["minReplicas"] <= worker["replicas"] <= elastic["maxReplicas"]
    assert worker["restartPolicy"] in {"Always", "OnFailure", "Never", "ExitCode"}
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    # The operator looks for a container of this name.
    assert container["name"] == "pytorch"
    check(container["command"])
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == spec["nprocPerNode"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", ["slurm.sh", "pytorchjob.yaml"])
def test_the_page_names_them(name: str) -> None:
    assert f"launch/{name}" in (FOLDER.parent / "clusters.md").read_text(encoding="utf-8")
