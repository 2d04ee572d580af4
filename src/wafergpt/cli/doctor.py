"""``wafergpt doctor``."""

from __future__ import annotations

from typing import Any

import click

from wafergpt.cli import emit, json_option


@click.command("doctor", epilog="Example: wafergpt doctor --json")
@click.option("--fresh", is_flag=True, help="Measure this machine again.")
@json_option
def command(fresh: bool, as_json: bool) -> None:
    """Say what is here, what works, and what to install."""
    from wafergpt.devices.report import examine

    facts = examine(fresh)
    emit(facts, as_json, _text(facts))


def _text(facts: dict[str, Any]) -> str:
    from wafergpt.devices.report import EXTRAS

    gib = 1 << 30
    faster = facts["matmul_flops_bf16"] / facts["matmul_flops_fp32"]
    compiler = facts["compiler"]
    lines = [
        f"ok       {facts['device']}: {facts['name']}, {facts['cores']} cores",
        f"ok       python {facts['python']}, torch {facts['torch']}",
        f"ok       {facts['memory_available_bytes'] / gib:.1f} of "
        f"{facts['memory_bytes'] / gib:.1f} GiB of memory and "
        f"{facts['disk_free_bytes'] / gib:.1f} GiB of disk are free",
        f"ok       matrix products: fp32 {facts['matmul_flops_fp32'] / 1e9:,.0f} GFLOP/s, "
        f"bf16 {facts['matmul_flops_bf16'] / 1e9:,.0f} ({faster:.1f}×)",
        f"ok       torch.compile: {compiler}"
        if compiler
        else "missing  torch.compile needs a C++ compiler: install g++",
    ]
    for name, extra in EXTRAS.items():
        version = facts["extras"][name]
        lines.append(
            f"ok       {name} {version}"
            if version
            else f"missing  {name}: pip install 'wafergpt[{extra}]'"
        )
    return "\n".join(lines)
