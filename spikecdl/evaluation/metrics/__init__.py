"""How good a model is: templates, events and images against a known truth, rates against counts."""

from spikecdl.evaluation.deviance import bits_per_spike, deviance, deviance_explained
from spikecdl.evaluation.metrics.templates import (
    TemplateError,
    TemplateShape,
    rate_gain,
    template_error,
    template_shape,
    template_table,
)
from spikecdl.evaluation.metrics.truth import EventRates, Recovery, event_rates, psnr, recovery

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
