"""How good a fit is: deviance, scores on unseen counts, goodness of fit, metrics."""

import lazy_loader

_MODULES = ("crossvalidation", "goodness_of_fit", "heldout", "metrics")
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, _MODULES)
