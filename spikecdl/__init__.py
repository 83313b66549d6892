"""spikecdl: convolutional dictionary learning for spike trains.

Learns *templates*, short waveforms of firing-rate change that recur at unknown times, from counts
in small bins that follow a natural exponential family.  Public names are listed in the stub
``__init__.pyi`` and imported on first use, so that ``import spikecdl`` is quick.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
