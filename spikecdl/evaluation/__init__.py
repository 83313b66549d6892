"""How good a fit is: deviance, scores on unseen counts, goodness of fit, metrics."""
