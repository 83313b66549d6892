"""Make `demo.nwb`: 30 units under a repeated stimulus, with the paper's three templates.

All 30 trials of a unit have the same events, whose onsets the fit has to find.
"""

from pathlib import Path

from spikecdl.io import write_nwb
from spikecdl.simulate import place_spikes, simulate

SEED = 7

if __name__ == "__main__":
    counts = simulate(
        "binomial",
        ["square", "vee", "cosine"],
        n_trials=30,
        n_units=30,
        duration=2.0,
        event_rate=2.0,
        amplitude=(10.0, 20.0),
        baseline=8.0,
        same_events=True,
        random_state=SEED,
    )
    write_nwb(Path(__file__).with_name("demo.nwb"), place_spikes(counts, SEED))
