"""Online over a socket: counts of 100 units come every millisecond, for ten minutes."""

from __future__ import annotations

import gc
import resource
import socket
import threading
import time
import warnings
from collections.abc import Iterator

import numpy as np
from timing import Row, Settings

from spikecdl import DCEA, BinnedSpikes, Online

_N_UNITS, _BIN = 100, 0.001


def _send(address: tuple[str, int], counts: np.ndarray) -> None:
    """Send a byte for each unit, every bin, at the pace of the clock."""
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        for number, of_bin in enumerate(counts):
            time.sleep(max(began + number * _BIN - time.perf_counter(), 0.0))
            connection.sendall(of_bin.tobytes())


def _received(server: socket.socket) -> Iterator[np.ndarray]:
    """Yield the counts of one bin after the other."""
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as stream:
        while len(message := stream.read(_N_UNITS)) == _N_UNITS:
            yield np.frombuffer(message, np.uint8)


def measure(settings: Settings) -> Iterator[Row]:
    """The worst step, how late the filter ever was, and memory after it all."""
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = BinnedSpikes.from_array(rng.poisson(0.05, (1, _N_UNITS, 2_000)), _BIN)
        model = DCEA(2, 0.05, "poisson", layout="joint", n_epochs=1, random_state=0).fit(counts)
    online, n_bins = Online(model), 5_000 if settings.quick else 600_000
    sent = rng.poisson(0.005, (n_bins, _N_UNITS)).astype(np.uint8)
    online.step(sent[0])
    gc.collect()
    taken, behind, began = np.empty(n_bins), 0.0, 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        sender = threading.Thread(target=_send, args=(address, sent), daemon=True)
        sender.start()
        for number, of_bin in enumerate(_received(server)):
            start = time.perf_counter()
            began = began or start
            online.step(of_bin)
            taken[number] = time.perf_counter() - start
            behind = max(behind, time.perf_counter() - began - (number + 1) * _BIN)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    text = f"{1e3 * np.median(taken):.3f} ms, longest {1e3 * taken.max():.2f} ms"
    note = f"{n_bins} bins of 1 ms; at most {1e3 * behind:.1f} ms behind; {grown:+.1f} MiB"
    yield Row(f"online: a stream of {_N_UNITS} units at 1 kHz over a socket", "", text, "", note)
