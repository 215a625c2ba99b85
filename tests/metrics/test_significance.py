import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kn_sweeps.metrics.significance import holm, paired_test

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_a_clear_shift_is_significant_and_its_direction_does_not_matter():
    generator = np.random.default_rng(0)
    pre = generator.normal(size=30)
    post = pre + 1 + 0.1 * generator.normal(size=30)
    assert paired_test(pre, post) < 1e-6
    assert paired_test(post, pre) == pytest.approx(paired_test(pre, post))


def test_no_change_has_a_p_value_of_one():
    assert paired_test([1, 2, 3], [1, 2, 3]) == 1


def test_without_an_effect_p_falls_below_five_percent_about_five_times_in_100():
    generator = np.random.default_rng(0)
    drawn = generator.normal(size=(600, 2, 25))
    rejected = np.mean([paired_test(pre, post) < 0.05 for pre, post in drawn])
    assert 0.02 <= rejected <= 0.08


@pytest.mark.parametrize(
    ("pre", "post", "message"),
    [
        ([1, 2], [1], r"equally long.*\(2,\) and \(1,\)"),
        ([], [], "non-empty"),
        ([1, float("nan")], [1, 2], "finite values"),
    ],
)
def test_pairs_that_cannot_be_tested_are_refused(pre, post, message):
    with pytest.raises(ValueError, match=message):
        paired_test(pre, post)


def test_holm_on_a_worked_example():
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, each at least its predecessor.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(p_values)
def test_holm_lies_between_the_raw_value_and_bonferroni(raw):
    adjusted = holm(raw)
    assert (adjusted >= np.array(raw)).all()
    assert (adjusted <= np.minimum(np.array(raw) * len(raw), 1) + 1e-12).all()
    assert min(adjusted) == pytest.approx(min(1, min(raw) * len(raw)))


@given(p_values)
def test_holm_keeps_the_order_of_the_tests(raw):
    adjusted = holm(raw)
    order = np.argsort(raw, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


@pytest.mark.parametrize("raw", [[0.5, 1.5], [float("nan")], [-0.1]])
def test_what_is_no_p_value_is_refused(raw):
    with pytest.raises(ValueError, match="numbers from 0 to 1"):
        holm(raw)
