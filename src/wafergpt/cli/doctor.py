"""``wafergpt doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wafergpt.cli import emit, json_option

if TYPE_CHECKING:
    from rich.table import Table


@click.command("doctor", epilog="Example: wafergpt doctor --json")
@click.option("--fresh", is_flag=True, help="Measure this machine again.")
@click.option(
    "--install-cerebras",
    is_flag=True,
    help="Install Cerebras' SDK into its own environment (6 GB, about 5 minutes), or resume that.",
)
@json_option
def command(fresh: bool, install_cerebras: bool, as_json: bool) -> None:
    """Show what is installed, what works, and what is missing."""
    from wafergpt.cerebras import environment
    from wafergpt.cerebras.install import install
    from wafergpt.devices.doctor import examine

    if install_cerebras:
        install()

    facts = {**examine(fresh), "cerebras": environment.state()}
    text = _text(facts)
    emit(facts, as_json, text, lambda width: [_screen(text)])


def _screen(text: str) -> Table:
    from wafergpt.cli.tables import Cell, details

    colours = {"ok": "green", "missing": "yellow"}
    rows = [line.split(maxsplit=1) for line in text.splitlines()]
    return details((Cell(state, colours.get(state, "red")), what) for state, what in rows)


def _compiler_line(facts: dict[str, Any]) -> str:
    if facts["compiler"]:
        return f"ok       torch.compile: {facts['compiler']}"
    if facts["compiler_missing"]:
        return f"missing  torch.compile needs {facts['compiler_missing']}"
    return f"broken   torch.compile: {facts['compiler_broken']}; training runs without it"


def _text(facts: dict[str, Any]) -> str:
    from wafergpt.devices.doctor import EXTRAS

    gib = 1 << 30
    faster = facts["matmul_flops_bf16"] / facts["matmul_flops_fp32"]
    lines = [
        f"ok       {facts['device']}: {facts['name']}, {facts['cores']} cores",
        f"ok       python {facts['python']}, torch {facts['torch']}",
        f"ok       {facts['memory_available_bytes'] / gib:.1f} of "
        f"{facts['memory_bytes'] / gib:.1f} GiB of memory and "
        f"{facts['disk_free_bytes'] / gib:.1f} GiB of disk are free",
        f"ok       matrix products: fp32 {facts['matmul_flops_fp32'] / 1e9:,.0f} GFLOP/s, "
        f"bf16 {facts['matmul_flops_bf16'] / 1e9:,.0f} ({faster:.1f}×)",
        _compiler_line(facts),
    ]
    cerebras = facts["cerebras"]
    lines.append(
        f"ok       Cerebras' SDK {cerebras['sdk']} (torch {cerebras['torch']}) in "
        f"{cerebras['path']}"
        if cerebras
        else "missing  Cerebras' SDK: wafergpt doctor --install-cerebras"
    )
    for name, extra in EXTRAS.items():
        version = facts["extras"][name]
        lines.append(
            f"ok       {name} {version}"
            if version
            else f"missing  {name}: pip install 'wafergpt[{extra}]'"
        )
    return "\n".join(lines)
