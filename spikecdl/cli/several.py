"""One or several recordings of a fit: their files, their counts, and what is found in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikecdl.cli.options import Selected, Selection

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains
    from spikecdl.estimator import DCEA

_OF_THE_FIT = {"versions", "family", "layout"}  # keys that are the same for every recording


@dataclass(frozen=True)
class Recordings:
    """The recordings of a fit by name, with their files and what is selected of each.

    ``whole`` is what the model is fitted to; see `spikecdl.concatenate`.
    """

    files: Mapping[str, Path]
    each: Mapping[str, Selected]
    whole: Selected

    @classmethod
    def read(
        cls, selection: Selection, files: Sequence[Path], bin_size: str | None, layout: str
    ) -> Recordings:
        """Read files, and select from each; ValueError if they do not go together."""
        named = _names(files)
        each = {
            name: selection.count(selection.read(file), bin_size) for name, file in named.items()
        }
        if len(each) == 1:
            (whole,) = each.values()
            return cls(named, each, whole)
        from spikecdl.data import concatenate

        single = concatenate({name: one.single_trials for name, one in each.items()}, layout)
        counts = single.pool() if selection.pool_trials else single

        def alike(some: Any) -> Any:
            return replace(some, sub_bins=single.sub_bins)

        each = {
            n: Selected(s.data, alike(s.counts), alike(s.single_trials)) for n, s in each.items()
        }
        return cls(named, each, Selected(counts, counts, single))

    @property
    def sources(self) -> tuple[Path, ...]:
        """Their files."""
        return tuple(self.files.values())

    def found(self, model: DCEA) -> dict[str, tuple[DCEA, Decomposition]]:
        """Return the model for each of several recordings, and what it finds there, by name."""
        from spikecdl.data.recordings import of_recording

        several = self.each if len(self.each) > 1 else {}
        models = {name: of_recording(model, name, one.counts) for name, one in several.items()}
        return {name: (one, one.decompose(self.each[name].counts)) for name, one in models.items()}

    def summary(self, found: Mapping[str, tuple[DCEA, Decomposition]]) -> dict[str, Any]:
        """Summarize what was found in each recording, as values that JSON can hold."""
        from spikecdl.report.summary import score_summary

        about = {name: score_summary(*each, self.files[name]) for name, each in found.items()}
        each = {
            name: {key: value for key, value in one.items() if key not in _OF_THE_FIT}
            for name, one in about.items()
        }
        return {"recordings": each} if each else {}

    def written(
        self, found: Mapping[str, tuple[DCEA, Decomposition]]
    ) -> dict[str, tuple[SpikeTrains | BinnedSpikes, Decomposition]]:
        """Return the data of each recording and what was found there, for `write_results`."""
        return {name: (self.each[name].data, parts) for name, (_, parts) in found.items()}


def _names(files: Sequence[Path]) -> dict[str, Path]:
    """Name recordings by the stems of their files, with folders as far as they tell them apart."""
    places = [file.resolve() for file in files]
    for file, place in zip(files, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"`files` names {str(file)!r} twice; give each recording once")
    paths = [place.with_suffix("").parts for place in places]
    depth = 1
    while len({path[-depth:] for path in paths}) < len(paths) and depth < max(map(len, paths)):
        depth += 1
    names = ["-".join(path[-depth:]) for path in paths]
    if len(set(names)) < len(names):  # they differ in their suffix only
        names = [place.name for place in places]
    return dict(zip(names, files, strict=True))
