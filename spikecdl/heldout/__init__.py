"""Scores of any model on counts that it has not seen: split counts, hidden bins, other trials.

A model is anything with ``predict(counts)``: expected counts (trial, unit, bin), given what the
counts show.  Where their mask is False, it must expect what as many recorded trials as the unit
pools in its other bins would count.
"""

from spikecdl.heldout.result import HeldOut, Model
from spikecdl.heldout.scores import masked, transfer
from spikecdl.heldout.splitting import Split, split

__all__ = ["HeldOut", "Model", "Split", "masked", "split", "transfer"]
