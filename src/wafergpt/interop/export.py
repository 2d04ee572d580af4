"""Export of a run; nothing appears before its outputs were compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wafergpt import files
from wafergpt.errors import InputError, require_one_of
from wafergpt.progress import working
from wafergpt.runs.run import RUNS, AnyRun, Run

if TYPE_CHECKING:
    from wafergpt.interop.onnx_graph import OnnxWeights

Format = Literal["hf", "gguf", "onnx"]


def export(
    run: AnyRun,
    out: str | Path,
    format: Format = "hf",  # noqa: A002
    root: Path = RUNS,
    weights: OnnxWeights = "fp32",
) -> dict[str, Any]:
    """Write a run as a Hugging Face folder, a GGUF file, or a folder with an ONNX graph.

    The export is read back and compared with the run. For Hugging Face and GGUF, a run under µP is
    folded into plain GPT-2, and the comparison is on random tokens.

    Args:
        run: a run, its name or path, or one of its checkpoints.
        out: the folder (hf, onnx) or file (gguf) to create.
        format: ``hf``, ``gguf`` or ``onnx``.
        root: the folder of runs.
        weights: ``int8``, for ONNX only, makes a smaller and faster graph, which is measured.

    Returns:
        ``path``, ``format``, ``max_relative_logit_difference``, ``compared_with`` and ``warnings``;
        of ONNX ``compared_on``, ``weights``, and what int8 changed.

    Raises:
        InputError: if ``out`` exists, or the format cannot express the run.
        RunFailed: if the outputs of the export differ.
    """
    out = Path(out)
    require_one_of(Format, "to", format)
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists: choose another --out")
    files.require_writable(out.absolute().parent, "--out")
    if weights != "fp32" and format != "onnx":
        raise InputError(f"--weights {weights} is for --format onnx; {format} is written in fp32")
    found = run if isinstance(run, Run) else Run.find(run, root)
    result: dict[str, Any] = {"path": str(out), "format": format}
    if format == "onnx":
        from wafergpt.interop import onnx_export, onnx_graph

        require_one_of(onnx_graph.OnnxWeights, "weights", weights)
        written = onnx_export.write_folder(found, out, weights)
        return {
            **result,
            "max_relative_logit_difference": written.difference,
            "compared_with": written.by,
            "warnings": [],
            "compared_on": written.compared_on,
            "weights": weights,
            **written.measured,
        }
    from wafergpt.interop.export_source import Source

    source = Source.open(found)
    if format == "gguf":
        from wafergpt.interop.gguf_export import write_gguf

        with working(f"writing {out}"):
            checked = write_gguf(source, out)
    else:
        from wafergpt.interop.hf_export import write_folder

        with working(f"writing {out}"):
            checked = write_folder(source, out)
    return {
        **result,
        "max_relative_logit_difference": checked.difference,
        "compared_with": checked.by,
        "warnings": list(checked.warnings),
    }
