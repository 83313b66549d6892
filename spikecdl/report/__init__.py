"""Report a fit: figures, a summary of plain values, and one HTML page of both."""

from spikecdl.report.page import draw_figures, png, write_report
from spikecdl.report.summary import fit_summary, verdict

__all__ = ["draw_figures", "fit_summary", "png", "verdict", "write_report"]
