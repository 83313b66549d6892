"""The words in which wrong arguments are refused."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

import spikecdl
from spikecdl import validation
from spikecdl.model.families import FAMILIES, Family, Gaussian, Poisson


def test_good_values_are_returned_plain():
    for call, value in [
        (lambda: validation.positive("x", 2), 2.0),
        (lambda: validation.positive("x", np.float32(0.5)), 0.5),
        (lambda: validation.positive("x", torch.tensor(0.5)), 0.5),
        (lambda: validation.real("x", -3), -3.0),
        (lambda: validation.integer("x", 1), 1),
        (lambda: validation.integer("x", np.int64(7)), 7),
        (lambda: validation.integer("x", 0, minimum=0), 0),
        (lambda: validation.one_of("x", "a", ("a", "b")), "a"),
        (lambda: validation.one_of("x", "a", {"a": 1}), "a"),
    ]:
        result = call()
        assert result == value
        assert type(result) is type(value)


def test_bad_values_are_refused():
    for call, error, message in [
        (
            lambda: validation.positive("bin_size", 0, "seconds"),
            ValueError,
            "`bin_size` (=0) must be positive, in seconds",
        ),
        (lambda: validation.positive("x", -1e-9), ValueError, "`x` (=-1e-09) must be positive"),
        (lambda: validation.positive("x", math.nan), ValueError, "`x` (=nan) must be finite"),
        (
            lambda: validation.real("x", math.inf, "Hz"),
            ValueError,
            "`x` (=inf) must be finite, in Hz",
        ),
        (
            lambda: validation.positive("x", "1", "seconds"),
            TypeError,
            "`x` (='1') must be a number, in seconds",
        ),
        (lambda: validation.real("x", b"1"), TypeError, "`x` (=b'1') must be a number"),
        (lambda: validation.real("x", None), TypeError, "`x` (=None) must be a number"),
        (lambda: validation.real("x", True), TypeError, "`x` (=True) must be a number"),
        (lambda: validation.real("x", [1.0]), TypeError, "`x` (=[1.0]) must be a number"),
        (lambda: validation.real("x", 1j), TypeError, "`x` (=1j) must be a number"),
        (lambda: validation.integer("n", 0), ValueError, "`n` (=0) must be at least 1"),
        (lambda: validation.integer("n", 3, 4), ValueError, "`n` (=3) must be at least 4"),
        (lambda: validation.integer("n", 2.0), TypeError, "`n` (=2.0) must be an integer"),
        (lambda: validation.integer("n", "2"), TypeError, "`n` (='2') must be an integer"),
        (lambda: validation.integer("n", None), TypeError, "`n` (=None) must be an integer"),
        (lambda: validation.integer("n", True), TypeError, "`n` (=True) must be an integer"),
        (
            lambda: validation.one_of("way", "up", ("left", "down")),
            ValueError,
            "`way` (='up') must be one of: down, left",
        ),
        (
            lambda: validation.one_of("way", None, ("left", "down")),
            ValueError,
            "`way` (=None) must be one of: down, left",
        ),
        (
            lambda: validation.member("family", "gamma", FAMILIES, Family),
            ValueError,
            "`family` (='gamma') must be one of: binomial, gaussian, negative_binomial, poisson",
        ),
        (
            lambda: validation.member("family", 3, FAMILIES, Family),
            TypeError,
            "`family` (=3) must be a Family or one of: binomial, gaussian, negative_binomial, "
            "poisson",
        ),
        (
            lambda: validation.member("family", Poisson, FAMILIES, Family),
            TypeError,
            f"`family` (={Poisson!r}) must be a Family or one of: binomial, gaussian, "
            "negative_binomial, poisson",
        ),
    ]:
        with pytest.raises(error, match=f"^{re.escape(message)}$") as caught:
            call()
        assert caught.type is error
        assert caught.value.__cause__ is None


def test_members_of_a_registry():
    family = Gaussian(scale=3.0)
    assert validation.member("family", family, FAMILIES, Family) is family
    assert validation.member("family", "poisson", FAMILIES, Family) == Poisson()


MODULES = "io simulate datasets suggestions metrics heldout goodness_of_fit crossvalidation"


@pytest.mark.parametrize("name", MODULES.split())
def test_completion_offers_what_a_module_is_for(name):
    offered = dir(getattr(spikecdl, name))
    assert offered
    assert not {"Any", "np", "os", "annotations", "dataclass", "validation"} & set(offered)
