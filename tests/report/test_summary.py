"""A summary as lines of text."""

from __future__ import annotations

from spikecdl.report.summary import recovery_lines


def test_numbers_are_rounded_without_a_minus_zero():
    found = {"n_true_events": 1, "tolerance": 0.003, "hit_rate": None, "false_alarm_rate": 0.256}
    lines = recovery_lines({**found, "template_errors": [-0.0003, 0.12349, None]})
    assert "0.000, 0.123, - (0 is perfect" in lines[0]
    assert lines[1] == "of 1 true event, - found within 3 ms; of the events found, 26% false"
