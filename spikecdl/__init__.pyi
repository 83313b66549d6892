from . import baselines, datasets, denoise, io, plots, report, simulate, suggestions
from .data import (
    BinnedSpikes,
    Decomposition,
    SpikeTrains,
    Truth,
    concatenate,
    count_like,
    of_recording,
    shift_to_response,
)
from .denoise import PoissonDenoiser
from .estimator import DCEA, load
from .evaluation import crossvalidation, goodness_of_fit, heldout, metrics
from .evaluation.bands import bands
from .evaluation.checks import CheckWarning
from .evaluation.permutation import compare_conditions, replay
from .evaluation.selection import select
from .events.online import Online
from .io import (
    read,
    read_counts,
    read_neo,
    read_npz,
    read_nwb,
    read_nwb_signal,
    read_nwb_times,
    read_phy,
    read_spikeinterface,
    to_neo,
    to_pynapple,
    write_counts,
    write_mat,
    write_npz,
    write_nwb,
)
from .model.dictionary import ConvDictionary
from .model.encoder import UnrolledAutoencoder, UnrolledEncoder
from .model.families import Binomial, Family, Gaussian, NegativeBinomial, Poisson
from .model.history import Bursts, History
from .model.penalties import L1, GroupL1
from .solvers.implicit import ImplicitEncoder
from .solvers.sparse_coding import sparse_code
from .training import Alternating, Implicit, Marginal, NotConvergedWarning, Unrolled

__version__: str

__all__ = [
    "DCEA",
    "L1",
    "Alternating",
    "BinnedSpikes",
    "Binomial",
    "Bursts",
    "CheckWarning",
    "ConvDictionary",
    "Decomposition",
    "Family",
    "Gaussian",
    "GroupL1",
    "History",
    "Implicit",
    "ImplicitEncoder",
    "Marginal",
    "NegativeBinomial",
    "NotConvergedWarning",
    "Online",
    "Poisson",
    "PoissonDenoiser",
    "SpikeTrains",
    "Truth",
    "Unrolled",
    "UnrolledAutoencoder",
    "UnrolledEncoder",
    "bands",
    "baselines",
    "compare_conditions",
    "concatenate",
    "count_like",
    "crossvalidation",
    "datasets",
    "denoise",
    "goodness_of_fit",
    "heldout",
    "io",
    "load",
    "metrics",
    "of_recording",
    "plots",
    "read",
    "read_counts",
    "read_neo",
    "read_npz",
    "read_nwb",
    "read_nwb_signal",
    "read_nwb_times",
    "read_phy",
    "read_spikeinterface",
    "replay",
    "report",
    "select",
    "shift_to_response",
    "simulate",
    "sparse_code",
    "suggestions",
    "to_neo",
    "to_pynapple",
    "write_counts",
    "write_mat",
    "write_npz",
    "write_nwb",
]
