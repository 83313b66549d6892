"""A summary as lines of text, and the verdict."""

from __future__ import annotations

import numpy as np
import pytest

from spikecdl.report import verdict
from spikecdl.report.summary import at_edge, lines

GOOD = {
    "deviance_explained": 0.2,
    "events_per_template": [50, 40],
    "held_out": {
        **{"deviance_explained": 0.1, "standard_error": 0.01, "n_folds": 3, "how": "trials"},
        "template_errors": [[0.1, 0.2], [0.2, 0.3], [0.1, 0.2]],
    },
}

PASSED = {"check": "search", "passed": True, "found": "", "remedy": ""}
FAILED = {"check": "drift", "passed": False, "found": "rates still change", "remedy": "set `drift`"}
LENGTH = {"check": "length of templates", "passed": False, "found": "large at both ends"}
LENGTH["remedy"] = "raise it"


def test_numbers_are_rounded_without_a_minus_zero():
    found = {"n_true_events": 1, "tolerance": 0.003, "hit_rate": None, "false_alarm_rate": 0.256}
    said = lines("recovery", {**found, "template_errors": [-0.0003, 0.12349, None]})
    assert "0.000, 0.123, - (0 is perfect" in said[0]
    assert said[1] == "of 1 true event, - found within 3 ms; of the events found, 26% false"


def test_a_good_fit_gets_one_sentence_that_says_how_sure_it_is():
    (sentence,) = verdict(GOOD)
    assert "better than by a constant rate, by 10 standard errors" in sentence
    assert "templates of 3 folds agree" in sentence


def test_each_doubt_has_its_sentence():
    for changes, of_folds, words in [
        ({}, {"deviance_explained": -0.027}, "Nothing was found that clearly predicts held-out"),
        ({}, {"deviance_explained": 0.015}, "Nothing was found that clearly predicts held-out"),
        ({}, {"deviance_explained": None}, "Nothing was found that clearly predicts held-out"),
        ({}, {"evidence_gain": 0.01, "evidence_gain_error": 0.006}, "Nothing was found that"),
        ({"deviance_explained": 0.83}, {}, "(0.830) is far above that of held-out data (0.100)"),
        ({"events_per_template": [50, 9]}, {}, "Template 1 has fewer than 10 events"),
        (
            {"starts": {"template_errors": [0.1, 0.8], "gap_nats": 3.0}},
            {},
            "Template 1 differs between two starts",
        ),
        ({"templates_at_edge": [1]}, {}, "Template 1 is largest at an edge of the window"),
        ({"templates_at_edge": [0, 1], "checks": [LENGTH]}, {}, "Large at both ends: raise it."),
        ({"events_per_template": [0, 9]}, {}, "Templates 0 and 1 have fewer than 10 events"),
        ({}, {"template_errors": [[0.1, 0.6], [0.2, 0.7]]}, "Template 1 differs between the 3"),
        ({"checks": [PASSED, FAILED]}, {}, "Rates still change: set `drift`."),
        ({"held_out": {"n_folds": 0, "why": None}}, {}, "Nothing was held out, so"),
        (
            {"held_out": {"n_folds": 0, "why": "no split"}},
            {},
            "Nothing was held out (no split), so",
        ),
    ]:
        sentences = verdict({**GOOD, "held_out": {**GOOD["held_out"], **of_folds}, **changes})
        assert words in sentences[-1]
        assert len(sentences) == 1 + ("was" not in words)
        assert ("folds agree" in sentences[0]) == ("was" not in words and "the 3" not in words)
    known = {"templates_at_edge": [1], "recovery": {}}  # the truth says whether it is cut off
    assert len(verdict({**GOOD, **known})) == 1


@pytest.mark.parametrize(
    ("length", "edge"), [(1, []), (2, []), (3, [0, 2]), (25, [0, 24]), (150, [0, 5, 144, 149])]
)
def test_templates_that_are_largest_at_an_edge_of_their_window(length, edge):
    place = np.eye(length)
    place[:, length // 2] -= 0.1
    found = at_edge(np.stack([place, -2 * place], axis=1))
    assert set(edge) <= set(found)
    inside = max(1, length // 25)
    assert not set(found) & set(range(inside, length - inside))


def test_pooled_trials_are_advised_only_where_there_are_trials():
    poor = {**GOOD, "held_out": {**GOOD["held_out"], "deviance_explained": 0.0}}
    noisy = {**GOOD, "deviance_explained": 0.9}
    for summary in (poor, noisy):
        for n_trials, advised in ((1, False), (20, True)):
            said = " ".join(verdict({**summary, "data": {"n_trials": n_trials}}))
            assert ("pooled trials" in said) == advised
            assert "fewer templates" in said
