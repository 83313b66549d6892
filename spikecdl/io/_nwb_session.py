"""An empty NWB file that says whose session it is: from the source file, or plainly unknown."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from spikecdl._files import HDF5_SIGNATURE, starts_with
from spikecdl.io._hdf_tables import read_values

if TYPE_CHECKING:
    import h5py
    from pynwb import NWBFile

UNKNOWN_START = datetime(2000, 1, 1, tzinfo=timezone.utc)
"""``session_start_time`` where it is not known; NWB requires one."""

UNIDENTIFIED = "http://purl.obolibrary.org/obo/NCBITaxon_32644"
"""Species of subjects that are not known, in the NCBI taxonomy."""

_SESSION = ("experimenter", "institution", "lab", "session_id", "protocol", "surgery")
_SUBJECT = ("subject_id", "age", "description", "genotype", "sex", "species", "strain", "weight")


def new_file(source: str, *, simulated: bool) -> NWBFile:
    """Return an NWB file in memory, with the session of ``source`` if that is an NWB file."""
    from pynwb import NWBFile
    from pynwb.file import Subject

    unknown = "simulated" if simulated else "unknown"
    session: dict[str, Any] = {
        "session_start_time": UNKNOWN_START,
        "experimenter": [f"{unknown.title()}, {unknown.title()}"],
        "institution": unknown,
    }
    subject = {
        "subject_id": unknown,
        "description": f"{unknown} subject",
        "age": "P0D/",
        "sex": "U",
        "species": UNIDENTIFIED,
    }
    if starts_with(source, HDF5_SIGNATURE):
        known_session, known_subject = _session_of(source)
        session |= known_session
        subject = known_subject or subject
    file = NWBFile(
        session_description=f"Written by spikecdl; the data come from {source or 'arrays'}",
        identifier=str(uuid.uuid4()),
        experiment_description="Spike trains and templates of firing-rate change found in them",
        keywords=["spike trains", "convolutional dictionary learning"],
        **session,
    )
    file.subject = Subject(**subject)
    return file


def _session_of(source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    import h5py
    import pandas as pd

    with h5py.File(source, "r") as file:
        general = file.get("general", {})
        session = _texts(general, _SESSION)
        subject = _texts(general.get("subject", {}), _SUBJECT)
        if "session_start_time" in file:
            start = pd.Timestamp(str(read_values(file["session_start_time"]))).to_pydatetime()
            session["session_start_time"] = start if start.tzinfo else start.astimezone()
    return session, subject


def _texts(group: h5py.Group | dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Read those of the named texts that are there and not empty."""
    found = {name: read_values(group[name]) for name in names if name in group}
    return {name: value for name, value in found.items() if value}
