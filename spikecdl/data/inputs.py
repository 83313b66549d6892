"""What estimators accept as counts, and whether they match those of a fit."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse import issparse

from spikecdl import validation
from spikecdl.data.binned import BinnedSpikes
from spikecdl.data.labelled import labelled, values_of
from spikecdl.data.recordings import concatenate
from spikecdl.data.spike_trains import SpikeTrains


class PooledTrialsWarning(UserWarning):
    """A model of counts that were summed over trials is given single trials."""


def check_shape(X: Any) -> None:
    """Raise unless an array is (trial, unit, bin) or (trial, bin), of real numbers."""
    values = X if hasattr(X, "shape") else np.asarray(X)
    if values.ndim not in (2, 3):
        raise ValueError(
            f"`X` {values.shape} must have shape (trial, unit, bin), or (trial, bin) for one "
            "unit. Reshape your data: one window x is x[None]"
        )
    if np.iscomplexobj(values):
        raise ValueError("Complex data not supported: counts are real numbers")


def checked_array(X: Any, estimator: Any, reset: bool) -> np.ndarray:
    """Check an array as scikit-learn does; its values are checked with the counts."""
    from sklearn.utils.validation import check_array, validate_data

    check_shape(X)
    array = check_array(X, allow_nd=True, ensure_all_finite=False, estimator=estimator)
    if array.ndim == 2:  # bins are features
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    return array


def are_binned(X: Any) -> bool:
    """Whether these are counts that say what their axes are, of one or several recordings.

    They are `BinnedSpikes`, or such as a DataArray of xarray.  TypeError for times of spikes.
    """
    if isinstance(X, SpikeTrains):
        raise TypeError(
            "`X` is SpikeTrains, whose spikes are not counted yet; use `X.bin(bin_size)`, with "
            "bin_size in seconds, and its `align` and `window` if trials are not used whole"
        )
    if labelled(X) is not None and not issparse(X):  # which scikit-learn refuses
        return True
    each = X.values() if isinstance(X, Mapping) else X if isinstance(X, list | tuple) else ()
    return isinstance(X, BinnedSpikes) or any(isinstance(part, BinnedSpikes) for part in each)


def as_counts(X: Any, bin_size: float, layout: str = "shared") -> BinnedSpikes:
    """Return counts as `BinnedSpikes`; a (trial, bin) array has one unit.

    Those of several recordings are put together; see `concatenate`.
    """
    if isinstance(X, BinnedSpikes):
        return X
    if labelled(X) is not None:
        return BinnedSpikes.from_array(X, values_of(X).known.get("bin_size", bin_size))
    if are_binned(X):
        return concatenate(X, layout)
    array = np.asarray(X)
    if array.dtype.kind == "i" and array.min(initial=0) < 0:
        array = array.astype(float)  # a signal, not counts
    return BinnedSpikes.from_array(array, validation.positive("bin_size", bin_size))


def check_like_fit(
    counts: BinnedSpikes,
    bin_size: float,
    n_bins: int,
    channels: tuple[int | str, ...] | None,
    pooled: bool = False,
) -> None:
    """Raise unless the counts have the bin size, enough bins, and the units of the templates.

    Warns of single trials if those of the fit were ``pooled``.
    """
    if pooled and len(counts) > 1 and counts.n_pooled.max() <= 1:
        warnings.warn(
            f"the model was fitted to counts summed over trials, but these are {len(counts)} "
            "single trials, in which it explains far less; sum them with `counts.pool()`, or fit "
            "single trials",
            PooledTrialsWarning,
            stacklevel=4,
        )
    if not np.isclose(counts.bin_size, bin_size, rtol=1e-9):
        raise ValueError(
            f"`bin_size` of the counts (={counts.bin_size:g}) must be that of the fit "
            f"({bin_size:g}); bin the spikes again"
        )
    if counts.n_bins < n_bins:
        raise ValueError(
            f"the windows have {counts.n_bins} bins, fewer than a template ({n_bins}); use longer "
            "windows"
        )
    units = counts.unit_ids
    if channels is not None and len(units) != len(channels):
        raise ValueError(
            f"the counts have {len(units)} units, the joint templates {len(channels)}; select the "
            "units of the fit"
        )
    if channels is not None and units != channels and set(units) == set(channels):
        raise ValueError(
            f"the units of the counts {units} are in another order than those of the joint "
            f"templates {channels}; select them in that order"
        )


def unit_rows(
    counts: BinnedSpikes, known: tuple[int | str, ...], learned: tuple[str, ...]
) -> list[int]:
    """Return the position of each unit among those of the fit, which must all be there.

    If nothing was ``learned`` of single units, any units will do, and there are no positions.
    """
    unknown = [unit for unit in counts.unit_ids if learned and unit not in known]
    if unknown:
        raise ValueError(
            f"unit {unknown[0]!r} was not in the fit, which has learned the "
            f"{' and the '.join(learned)} of each unit; select units of the fit"
        )
    return [known.index(unit) for unit in counts.unit_ids] if learned else []


def windows_of(counts: BinnedSpikes) -> dict[str, Any]:
    """Return how the windows of a fit were chosen, as far as counts say it."""
    pooled = {"pool_trials": True} if counts.n_pooled.max() > 1 else {}
    return {**(counts.windows or {}), **pooled}


class CodesAsTable:
    """Base of estimators whose codes are a table after ``set_output``, one row per trial."""

    n_templates: int
    layout: str
    unit_ids_: tuple[int | str, ...]
    _n_onsets: int

    @property
    def _gives_table(self) -> bool:
        """Whether ``set_output``, of the estimator or of scikit-learn, asks for a table."""
        from sklearn import get_config

        asked = getattr(self, "_sklearn_output_config", {})
        return asked.get("transform", get_config()["transform_output"]) != "default"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.three_d_array = True
        tags.target_tags.required = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the columns of the table of codes, in the order of the codes.

        They are named such as ``unit3_template0_bin12``, by the bin of the onset in windows as long
        as those of the fit; without ``unit`` in the joint layout.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, "templates_")
        rows = [""] if self.layout == "joint" else [f"unit{unit}_" for unit in self.unit_ids_]
        places = itertools.product(rows, range(self.n_templates), range(self._n_onsets))
        return np.array([f"{row}template{i}_bin{j}" for row, i, j in places], dtype=object)
