"""The source's ablation of tied weights: an encoder with its own, trained without labels.

Analysis, synthesis and decoder are three dictionaries, and thresholds are learned (DCEA-UC).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikecdl.experiments import ablation
from spikecdl.experiments.ablation import Size
from spikecdl.experiments.binomial import unrolled
from spikecdl.experiments.result import Options, Result, median_and_range

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.experiments.benchmark import Method

NAME = "untied"


def run(options: Options, size: Size | None = None) -> Result:
    """Run the experiment; parameters as in `spikecdl.experiments.binomial.run`.

    The decoder's dictionary is compared with the truth; errors of the encoder's are in
    ``error_analysis`` and ``error_synthesis``.
    """
    return ablation.run(_method, findings, options, size)


def _method(size: Size) -> Method:
    return unrolled(size.n_unrolled, size.n_epochs, tied=False)


def findings(table: pd.DataFrame) -> list[str]:
    """Say what the table shows."""
    runs = table[table["method"] == NAME]
    return [
        *ablation.compared(table),
        f"Errors of the untied encoder's own dictionaries: analysis "
        f"{median_and_range(runs['error_analysis'])}, synthesis "
        f"{median_and_range(runs['error_synthesis'])}; of the events that its codes are, "
        f"{median_and_range(100 * runs['false_alarm_rate'], 0)} % are false.",
    ]
