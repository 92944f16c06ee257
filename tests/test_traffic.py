"""pytest tests/test_traffic.py: the challenger's share of the traffic, and when it loses it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.serve_params import Challenger
from pipelines.service.traffic import POINTS, WEIGHED, Traffic

KEYS = [f"customer {i}".encode() for i in range(20_000)]


class Live:
    def __init__(self) -> None:
        self.champion = model("1")
        self.challenger: Any = model("2")
        self.tripped: list[str] = []

    def trip(self, model: Any, reason: str) -> None:
        self.tripped.append(reason)
        self.challenger = None


def model(version: str) -> Any:
    return SimpleNamespace(version=version)


def traffic(**limits: Any) -> tuple[Traffic, Live]:
    live = Live()
    return Traffic("shop", live, Challenger(**({"route": "canary"} | limits))), live  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5, 1.0])
def test_the_share_is_as_large_as_it_says(share: float) -> None:
    found, _ = traffic(share=share)
    seen = sum(map(found.chosen, KEYS)) / len(KEYS)
    # Four standard deviations of a share among 20,000 keys.
    assert abs(seen - share) < 4 * (share * (1 - share) / len(KEYS)) ** 0.5 + 1 / POINTS


def test_the_same_key_always_goes_the_same_way_also_in_another_worker() -> None:
    one, two = traffic(share=0.3)[0], traffic(share=0.3)[0]
    assert [one.chosen(k) for k in KEYS[:500]] == [two.chosen(k) for k in KEYS[:500]]


@given(st.binary(max_size=64), st.floats(0.01, 0.5), st.floats(0.0, 0.5))
def test_a_larger_share_holds_the_smaller_ones_keys(key: bytes, share: float, more: float) -> None:
    small, large = traffic(share=share)[0], traffic(share=share + more)[0]
    assert large.chosen(key) or not small.chosen(key)


def test_another_task_chooses_other_keys() -> None:
    """Else the same customers would be tried on in every experiment."""
    shop, _ = traffic(share=0.5)
    other = Traffic("flights", Live(), Challenger(route="canary", share=0.5))  # type: ignore[arg-type]
    assert [shop.chosen(k) for k in KEYS[:200]] != [other.chosen(k) for k in KEYS[:200]]


@pytest.mark.parametrize(
    ("route", "canary", "shadow"),
    [("off", None, None), ("canary", "2", None), ("shadow", None, "2")],
)
def test_the_setting_says_what_the_challenger_does(
    route: str, canary: str | None, shadow: str | None
) -> None:
    found, _ = traffic(route=route)
    assert getattr(found.canary, "version", None) == canary
    assert getattr(found.shadow, "version", None) == shadow


def test_failures_take_the_challenger_off_at_the_limit_and_not_before() -> None:
    found, live = traffic(max_errors=3)
    challenger = live.challenger
    found.weigh(challenger, True, 0.0)
    found.weigh(challenger, True, 0.0)
    assert live.tripped == []
    found.weigh(challenger, True, 0.0)
    assert live.tripped == ["3 failed predictions (3 are too many)"]
    assert found.canary is None


def test_a_slow_challenger_is_taken_off_after_a_full_window() -> None:
    found, live = traffic(latency_ms=10.0)
    challenger = live.challenger
    for _ in range(WEIGHED - 1):
        found.weigh(challenger, False, 0.02)
    assert live.tripped == []
    found.weigh(challenger, False, 0.02)
    assert live.tripped == ["median 20.0 ms a prediction (10 allowed)"]


def test_many_rows_at_once_are_no_reason() -> None:
    found, live = traffic(latency_ms=10.0)
    for _ in range(3 * WEIGHED):
        found.weigh(live.challenger, False, 0.5, rows=10_000)
        found.weigh(live.challenger, False, 0.009, rows=1)
    assert live.tripped == []
    for _ in range(WEIGHED):
        found.weigh(live.challenger, False, 2.0, rows=10_000)
    assert live.tripped == ["median 12.7 ms a prediction (10 allowed)"]


def test_a_few_slow_predictions_are_no_reason() -> None:
    found, live = traffic(latency_ms=10.0)
    challenger = live.challenger
    for i in range(10 * WEIGHED):
        found.weigh(challenger, False, 0.5 if i % 3 == 0 else 0.001)
    assert live.tripped == []


def test_a_new_version_starts_with_a_clean_slate() -> None:
    found, live = traffic(max_errors=2)
    found.weigh(model("2"), True, 0.0)
    found.weigh(model("3"), True, 0.0)
    assert live.tripped == []
    found.weigh(model("3"), True, 0.0)
    assert len(live.tripped) == 1


def test_a_version_that_was_taken_off_and_named_again_starts_with_a_clean_slate() -> None:
    found, live = traffic(max_errors=2)
    challenger = live.challenger
    found.weigh(challenger, True, 0.0)
    found.weigh(challenger, True, 0.0)
    assert len(live.tripped) == 1
    live.challenger = challenger
    found.weigh(challenger, True, 0.0)
    assert len(live.tripped) == 1
