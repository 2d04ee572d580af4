"""Charts and pages for people."""

from __future__ import annotations

from wafergpt.reports.page import write_report
from wafergpt.reports.runs_table import list_runs

__all__ = ["list_runs", "write_report"]
