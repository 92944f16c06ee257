"""What a change does to the model, as a comment: pytest tests/test_compare.py"""

from __future__ import annotations

from ops import compare, newest

ROC = "data/5_report/flights/roc.csv"
NUMBERS = {
    "data/5_report/flights/metrics.json": {
        "test_auc": {"old": 0.5, "new": 0.625, "diff": 0.125},
        "test_rows": {"old": 10, "new": 10, "diff": 0},
        "new_one": {"new": 1},
    }
}


def plots(*rows: tuple[str, float, float]) -> dict:
    values = [
        {"false_positive_rate": str(x), "true_positive_rate": str(y), "rev": rev}
        for rev, x, y in rows
    ]
    return {"data": {ROC: [{"content": {"data": {"values": values}}}]}}


def test_changed_numbers_are_a_table_and_the_others_are_counted():
    said = compare.page("main", "c" * 40, NUMBERS, {})
    assert "2 of 3 numbers changed" in said
    assert "| test_auc | 0.5 | 0.625 | +0.125 |" in said
    assert "| new_one | none | 1 | other |" in said
    assert "test_rows" not in said


def test_nothing_to_compare_is_said():
    assert "No metrics on either side." in compare.page("main", "c" * 40, {}, {})


def test_a_curve_that_changed_is_drawn_from_both_sides():
    drawn = compare.curves(
        plots(("workspace", 0, 0), ("workspace", 1, 1), ("base", 0, 0.5), ("base", 1, 1)), "base"
    )
    assert drawn == {ROC: ([(0, 0.5), (1, 1)], [(0, 0), (1, 1)])}
    said = compare.page("main", "c" * 40, {}, drawn)
    assert "xychart-beta" in said
    assert "line [0.500, 0.525," in said
    assert "line [0.000, 0.050," in said


def test_a_curve_that_is_the_same_or_on_one_side_only_is_not():
    assert compare.curves(plots(("workspace", 0, 0), ("base", 0, 0)), "base") == {}
    assert compare.curves(plots(("workspace", 0, 0)), "base") == {}


def test_the_canary_says_what_it_tested_and_what_is_newer():
    lock = newest.locked((compare.Path("requirements.lock")).read_text())
    said = newest.page({"dvc": "9.1"}, {"dvc": "9.2"}, "The fast tests fail", "one\n```\ntwo")
    assert said.startswith("The fast tests fail")
    assert f"| dvc | {lock['dvc']} | 9.1 | 9.2 |" in said
    assert "one\n'''\ntwo" in said
