"""Alarms, history and budget -> retrain or rest. Run: pytest tests/test_policy.py"""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.params import Policy
from pipelines.policy import calm, decide
from pipelines.records import Alarm, ColumnDrift, Decision, Performance

PERIODS = [f"2013-{month:02d}" for month in range(1, 13)]


def an_alarm(period, raised, champion="1", **more):
    return Alarm(
        task="flights", period=period, champion=champion, rows=100, columns=(),
        raised=raised, reasons=("temperature moved",) if raised else (), **more,
    )  # fmt: skip


def a_decision(period, action):
    return Decision(task="flights", period=period, action=action, reasons=("said",))


def settings(**changed):
    return Policy(**{"alarms": 1, "of": 1, "cooldown": 0, "budget": 12, "min_labels": 1} | changed)


def replayed(raised, policy, labels, promoted):
    """The decisions of a year; a promoted retraining makes a new champion for the next batch."""
    history, champion, decisions = [], 1, []
    for i, period in enumerate(PERIODS[: len(raised)]):
        alarm = an_alarm(period, raised[i], str(champion))
        decision = decide("flights", period, alarm, history, policy, labels[i])
        if decision.action == "retrain" and promoted[i]:
            champion += 1
        history += [alarm, decision]
        decisions.append(decision)
    return decisions


flags = st.lists(st.booleans(), min_size=12, max_size=12)
labels = st.lists(st.integers(0, 4000), min_size=12, max_size=12)
policies = st.builds(
    lambda of, alarms, **rest: Policy(of=of, alarms=min(of, alarms), **rest),
    of=st.integers(1, 4),
    alarms=st.integers(1, 4),
    cooldown=st.integers(0, 4),
    budget=st.integers(1, 5),
    budget_batches=st.integers(1, 12),
    min_labels=st.integers(1, 3000),
)


@given(flags, policies, labels, flags)
def test_the_rules_hold_over_any_year(raised, policy, new, promoted):
    decisions = replayed(raised, policy, new, promoted)
    trained = [i for i, d in enumerate(decisions) if d.action == "retrain"]

    for i in trained:
        assert new[i] >= policy.min_labels
        assert sum(raised[max(0, i - policy.of + 1) : i + 1]) >= policy.alarms
        assert sum(j > i - policy.budget_batches for j in trained if j <= i) <= policy.budget
    for before, after in itertools.pairwise(trained):
        assert not promoted[before] or after - before > policy.cooldown
    assert all(d.reasons and all(d.reasons) for d in decisions)


@given(flags, flags, policies, labels, flags)
def test_more_alarms_never_turn_a_retraining_into_a_rest(raised, more, policy, new, promoted):
    """At one moment, all else the same: what was decided before stays decided."""
    decisions = replayed(raised, policy, new, promoted)
    period = PERIODS[len(raised) - 1]

    def last(flags):
        alarms = [an_alarm(p, f) for p, f in zip(PERIODS, flags, strict=True)]
        history = [*alarms[:-1], *decisions[:-1]]
        return decide("flights", period, alarms[-1], history, policy, new[-1])

    if last(raised).action == "retrain":
        assert last([a or b for a, b in zip(raised, more, strict=True)]).action == "retrain"


@given(policies, labels)
def test_no_alarm_means_rest(policy, new):
    decisions = replayed([False] * 12, policy, new, [True] * 12)
    assert {d.action for d in decisions} == {"rest"}


def test_an_alarm_put_off_by_the_cooldown_is_due_when_it_still_stands():
    decisions = replayed([True] * 5, settings(cooldown=2), [5000] * 5, [True] * 5)
    assert [d.action for d in decisions] == ["retrain", "rest", "rest", "retrain", "rest"]
    assert "cooldown" in decisions[1].reasons[0]
    assert "0 of 2" in decisions[1].reasons[0]


def test_an_alarm_that_stands_for_two_batches_outlives_a_calm_one():
    policy = settings(of=2, cooldown=2)
    raised = [True, False, True, False, False]
    actions = [d.action for d in replayed(raised, policy, [5000] * 5, [True] * 5)]
    assert actions == ["retrain", "rest", "rest", "retrain", "rest"]


def test_a_held_challenger_brings_no_cooldown_but_costs_budget():
    policy = settings(cooldown=3, budget=2)
    decisions = replayed([True] * 4, policy, [5000] * 4, [False] * 4)
    assert [d.action for d in decisions] == ["retrain", "retrain", "rest", "rest"]
    assert "budget" in decisions[2].reasons[0]


def test_the_budget_comes_back_when_its_batches_have_passed():
    policy = settings(budget=1, budget_batches=3)
    actions = [d.action for d in replayed([True] * 7, policy, [5000] * 7, [True] * 7)]
    assert actions == ["retrain", "rest", "rest", "retrain", "rest", "rest", "retrain"]


def test_alarms_answered_by_a_retraining_do_not_count_again():
    policy = settings(alarms=2, of=3)
    actions = [d.action for d in replayed([True] * 5, policy, [5000] * 5, [True] * 5)]
    assert actions == ["rest", "retrain", "rest", "retrain", "rest"]


def test_too_few_labels_are_said_with_their_number():
    alarm = an_alarm("2013-04", True)
    decision = decide("flights", "2013-04", alarm, [], settings(min_labels=9), 3)
    assert decision.action == "rest"
    assert "3 rows since the last training, 9 are needed" in decision.reasons[0]


def test_every_obstacle_is_named():
    history = [an_alarm("2013-04", True, "1"), a_decision("2013-04", "retrain")]
    policy = settings(cooldown=2, budget=1, min_labels=9)
    decision = decide("flights", "2013-05", an_alarm("2013-05", True, "2"), history, policy, 3)
    assert len(decision.reasons) == 3


def test_deciding_again_gives_the_same_and_the_future_is_not_read():
    history = [an_alarm("2013-03", False), a_decision("2013-03", "rest")]
    alarm = an_alarm("2013-04", True)
    first = decide("flights", "2013-04", alarm, history, settings(), 5000)
    later = [*history, alarm, first, an_alarm("2013-05", True), a_decision("2013-05", "retrain")]
    assert decide("flights", "2013-04", alarm, later, settings(cooldown=3), 5000) == first


def test_older_alarms_name_their_batch_in_the_reasons():
    history = [an_alarm("2013-04", True), a_decision("2013-04", "rest")]
    alarm = an_alarm("2013-05", False)
    decision = decide("flights", "2013-05", alarm, history, settings(of=2), 5000)
    assert decision.action == "retrain"
    assert decision.reasons == ("2013-04: temperature moved",)


def test_a_rest_says_what_was_seen():
    column = ColumnDrift(column="humidity", effect=0.05, floor=0.1, p_value=0.4, drifted=False)
    judged = Performance(
        period="2013-03", rows=9, auc=0.71, low=0.69, high=0.73, expected=0.7, learnable=0.705,
        learnable_low=-0.01, degraded=False,
    )  # fmt: skip
    alarm = an_alarm("2013-04", False, joint_auc=0.6, performance=judged)
    said = calm(alarm.model_copy(update={"columns": (column,)}))
    for part in ("0 of 1 columns", "humidity", "0.05 of 0.10", "AUC 0.600", "AUC 0.710 on 2013-03"):
        assert part in said


def test_a_rule_that_can_never_be_met_is_refused():
    with pytest.raises(ValidationError, match="can never be"):
        Policy(alarms=3, of=2)
