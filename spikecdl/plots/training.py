"""How the loss fell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikecdl.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spikecdl.estimator import DCEA


@style.styled
def training_curve(model: DCEA, *, ax: Axes | None = None) -> Axes:
    """Draw the loss after each epoch of a fitted model.

    Parameters
    ----------
    model : DCEA
        A fitted model.
    ax : Axes, optional
        Default: a new figure.

    Returns
    -------
    Axes
        The axes drawn on.

    Examples
    --------
    >>> import numpy as np
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(0.2, size=(10, 100))
    >>> counts[:, 20:25] += 2
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> training_curve(model).get_xlabel()
    'epoch'
    """
    from matplotlib.ticker import MaxNLocator
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(model)
    panel = style.axes_array(ax, (1, 1), (5.2, 2.8))[0, 0]
    epochs = [entry["epoch"] for entry in model.history_]
    losses = [entry["loss"] for entry in model.history_]
    marker = "o" if len(epochs) < 30 else ""
    panel.plot(epochs, losses, color=style.PALETTE[0], marker=marker, markersize=3.5)
    panel.margins(x=0.02)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.ticklabel_format(axis="y", useOffset=False)
    panel.set(xlabel="epoch", ylabel="loss")
    panel.set_title("converged" if model.converged_ else "stopped before it converged")
    style.tidy(panel)
    return panel
