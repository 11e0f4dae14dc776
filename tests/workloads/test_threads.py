from __future__ import annotations

import pytest
import torch

from autotune.workloads.threads import with_threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_hold_while_the_kernel_runs_and_no_longer():
    assert [1, 2] == [with_threads(lambda: torch.get_num_threads(), 1)(), torch.get_num_threads()]


def test_threads_are_restored_when_the_kernel_fails():
    def fail():
        raise RuntimeError("no kernel image")

    with pytest.raises(RuntimeError, match="no kernel image"):
        with_threads(fail, 1)()
    assert 2 == torch.get_num_threads()


def test_arguments_and_result_pass_through():
    assert (3, 4) == with_threads(lambda a, b: (a, b), 2)(3, 4)
