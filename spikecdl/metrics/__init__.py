"""How good an answer is: templates and events against a known truth, rates against the counts."""

from spikecdl.metrics.events import EventRates, event_rates
from spikecdl.metrics.fit import bits_per_spike, deviance_explained, psnr
from spikecdl.metrics.templates import (
    TemplateError,
    TemplateShape,
    rate_gain,
    template_error,
    template_shape,
    template_table,
)

__all__ = [
    "EventRates",
    "TemplateError",
    "TemplateShape",
    "bits_per_spike",
    "deviance_explained",
    "event_rates",
    "psnr",
    "rate_gain",
    "template_error",
    "template_shape",
    "template_table",
]
