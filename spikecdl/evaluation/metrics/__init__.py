"""How good an answer is: templates and events against a known truth, rates against the counts."""

from spikecdl.evaluation.metrics.events import EventRates, event_rates
from spikecdl.evaluation.metrics.fit import (
    bits_per_spike,
    deviance,
    deviance_explained,
    psnr,
    rate_gain,
)
from spikecdl.evaluation.metrics.templates import (
    TemplateError,
    TemplateShape,
    template_error,
    template_shape,
    template_table,
)
from spikecdl.evaluation.metrics.truth import Recovery, recovery

__all__ = [
    "EventRates",
    "Recovery",
    "TemplateError",
    "TemplateShape",
    "bits_per_spike",
    "deviance",
    "deviance_explained",
    "event_rates",
    "psnr",
    "rate_gain",
    "recovery",
    "template_error",
    "template_shape",
    "template_table",
]
