"""The event model: templates, how often their events begin, and sums over all that may."""
