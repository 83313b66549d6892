"""Containers: spike trains, counts in bins, what a simulator knows and what a model finds."""

from spikecdl.data.binned import BinnedSpikes
from spikecdl.data.inputs import concatenate, count_like, of_recording
from spikecdl.data.results import Decomposition, shift_to_response
from spikecdl.data.spike_trains import SpikeTrains
from spikecdl.data.truth import LAYOUTS, Truth
