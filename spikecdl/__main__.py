"""`python -m spikecdl` is `spikecdl`."""

from spikecdl.cli import main

main()
