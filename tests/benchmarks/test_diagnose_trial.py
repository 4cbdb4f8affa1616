"""The trial of `diagnose`: its runs can be made, its labels are true, its table counts."""

import pytest

from benchmarks.diagnose import faulty, healthy, history, learned, said, table
from gradxform.diagnostics.diagnose.finding import RULES


def test_every_fault_is_named_by_rules_that_there_are():
    known = {rule.name for rule in RULES}
    named = [set(trial.rules) for trial in faulty()]
    assert all(rules <= known for rules in named)
    assert sum(map(bool, named)) >= 20
    assert len(healthy()) >= 30
    names = [(trial.model, trial.name) for trial in (*healthy(), *faulty())]
    assert len(set(names)) == len(names)


def test_the_table_counts():
    rows = {"fault": [(True, True, False, True), (False, True, False, False), (False, False, False, False)]}
    assert table(rows).splitlines()[-1] == "| fault | 3 | 1 | 1 | 1 | 0 | 1 | 2 |"


@pytest.mark.slow
def test_some_healthy_runs_learn_and_give_no_alarm():
    for trial in healthy()[::8]:
        readings = history(trial)
        assert learned(readings), trial.name
        assert said(trial, readings) == (set(), set()), trial.name


@pytest.mark.slow
def test_some_faults_are_named():
    for trial in faulty():
        if trial.name in (
            "NaN in a batch",
            "outliers",
            "clip at 0.001",
            "a leaf left out",
            "warmup for a longer run",
        ):
            full, _ = said(trial, history(trial))
            assert full & set(trial.rules), trial.name
