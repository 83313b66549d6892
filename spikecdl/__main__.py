"""`python -m spikecdl` is `spikecdl`."""

from spikecdl.cli import main

if __name__ == "__main__":  # and not a process that `select` has started
    main()
