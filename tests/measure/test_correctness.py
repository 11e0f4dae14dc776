"""Wrong outputs are told from right ones, whatever memory happened to hold."""

from __future__ import annotations

import math

import pytest
import torch

from autotune.errors import TrialError
from autotune.measure.correctness import check, checksum, relative_error


def test_relative_error_is_the_norm_of_the_difference_over_the_norm_of_the_reference():
    reference = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(torch.tensor([3.0, 4.5]), reference) == pytest.approx(0.1)
    assert relative_error(reference.clone(), reference) == 0.0


def test_of_several_outputs_the_worst_counts():
    reference = (torch.ones(4), torch.ones(9))
    assert relative_error((torch.ones(4), torch.full((9,), 1.25)), reference) == pytest.approx(0.25)


def test_low_precision_outputs_are_compared_in_high_precision():
    reference = torch.full((1000,), 1.001, dtype=torch.float64)
    assert relative_error(torch.ones(1000, dtype=torch.bfloat16), reference) == pytest.approx(0.001, rel=1e-3)


def test_large_outputs_are_compared_whole():
    reference = torch.ones(9_000_000)
    out = reference.clone()
    out[-1] = 31.0
    assert relative_error(out, reference) == pytest.approx(30 / math.sqrt(9_000_000))


def test_an_empty_output_and_a_zero_reference_are_no_division_by_zero():
    assert relative_error(torch.zeros(0), torch.zeros(0)) == 0.0
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0.0
    with pytest.raises(TrialError, match="wrong"):
        relative_error(torch.ones(3), torch.zeros(3))


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        (torch.tensor([1.0, math.nan]), "50.00% of the output is NaN"),
        (torch.tensor([1.0, math.inf]), "50.00% of the output is NaN or infinite"),
        (torch.ones(1, 2), r"shape \(1, 2\); expected \(2,\)"),
        (torch.ones(2, dtype=torch.int32), "type torch.int32"),
        ((torch.ones(2), torch.ones(2)), "2 outputs; expected 1"),
        (None, "returned NoneType"),
        (torch.zeros(2), "no nearer to the reference than zeros"),
        (torch.full((2,), 3e38), "garbage"),
    ],
)
def test_what_is_no_answer_is_wrong(out, reason):
    with pytest.raises(TrialError, match=reason) as caught:
        relative_error(out, torch.ones(2, dtype=torch.float64))
    assert caught.value.verdict == "wrong"


def test_a_reference_that_is_no_number_lets_nothing_pass():
    with pytest.raises(TrialError, match="wrong"):
        relative_error(torch.ones(2), torch.tensor([1.0, math.nan]))


def test_a_kernel_is_checked_on_every_case():
    cases = [((torch.full((4,), float(i)),), torch.full((4,), 2.0 * i)) for i in (1, 2)]
    assert check(lambda x: x * 2, cases) == 0.0
    with pytest.raises(TrialError, match="wrong"):
        check(lambda x: x * 2 if x[0] == 1 else x * 5, cases)


def test_outputs_must_be_fresh():
    cases = [((torch.full((4,), float(i)),), torch.full((4,), float(i))) for i in (1, 2)]
    kept = torch.zeros(4)
    with pytest.raises(TrialError, match="shares memory with an input"):
        check(lambda x: x[:], cases)
    with pytest.raises(TrialError, match="two calls returned the same memory"):
        check(lambda x: kept.copy_(x), cases)


def test_an_unwritten_output_is_found_even_where_the_right_answer_was_freed_just_before():
    cases = [((torch.full((1 << 16,), float(i)),), torch.full((1 << 16,), float(i))) for i in (1, 2)]

    def kernel(x):
        x.clone()
        return torch.empty_like(x)

    with pytest.raises(TrialError, match="garbage"):
        check(kernel, cases)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_a_checksum_notices_one_changed_element(dtype):
    tensors = [torch.ones(1001).to(dtype), torch.ones(3, 5).t()]
    before = checksum(tensors)
    assert checksum(tensors) == before
    tensors[0][1000] = 2
    assert checksum(tensors) != before
