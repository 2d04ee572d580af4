"""Export of a run; nothing appears before its logits were compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from wafergpt.errors import InputError
from wafergpt.interop.export_source import Source
from wafergpt.progress import working
from wafergpt.runs.run import RUNS, Run

Format = Literal["hf", "gguf"]


def export(
    run: Run | str | Path,
    out: str | Path,
    format: Format = "hf",  # noqa: A002
    root: Path = RUNS,
) -> dict[str, Any]:
    """Write a run as a Hugging Face folder or a GGUF file.

    A run under µP is folded into plain GPT-2. The export is read back and compared with the run on
    random tokens.

    Args:
        run: a run, its name or path, or one of its checkpoints.
        out: the folder (hf) or file (gguf) to create.
        format: ``hf`` or ``gguf``.
        root: the folder of runs.

    Returns:
        ``path``, ``format``, ``max_relative_logit_difference``, ``compared_with`` and ``warnings``.

    Raises:
        InputError: if ``out`` exists, or the format cannot express the run.
        RunFailed: if the logits of the export differ.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists: choose another --out")
    found = run if isinstance(run, Run) else Run.find(run, root)
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
        "path": str(out),
        "format": format,
        "max_relative_logit_difference": checked.difference,
        "compared_with": checked.by,
        "warnings": list(checked.warnings),
    }
