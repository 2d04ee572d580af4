"""Charts and pages: what people look at."""

from __future__ import annotations

from wafergpt.report.listing import list_runs
from wafergpt.report.page import write_report

__all__ = ["list_runs", "write_report"]
