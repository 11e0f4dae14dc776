"""What is packed comes back, whatever it is."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autotune.store.encoding import from_json, pack_samples, to_json, unpack_samples
from tests.store.factories import measurement


@given(st.lists(st.integers(0, 2**63 - 1)))
def test_samples_come_back_in_order(samples: list[int]) -> None:
    assert tuple(samples) == unpack_samples(pack_samples(samples))


def test_samples_of_any_integer_type_come_back_as_ints() -> None:
    back = unpack_samples(pack_samples(np.array([3, 1, 2], dtype=np.int32)))
    assert ((3, 1, 2), {int}) == (back, set(map(type, back)))


def test_a_sample_takes_less_than_half_of_its_eight_bytes() -> None:
    samples = measurement(samples=1000, variation=0.02).samples_ns
    assert len(pack_samples(samples)) < 4 * len(samples)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@given(st.dictionaries(st.text(), scalars | st.lists(scalars)))
def test_objects_come_back_with_their_keys_in_order(value: dict[str, object]) -> None:
    back = from_json(to_json(value))
    assert (value, list(value)) == (back, list(back))
