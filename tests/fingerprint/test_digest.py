import hashlib
import os
import subprocess
import sys

import pytest

from autotune.fingerprint.digest import digest

FACTS = {"cores": 2, "isa": ["avx2", "fma"], "smt": None, "name": "A ½ CPU"}


def test_a_digest_is_sixteen_hex_digits_of_sha256_over_sorted_lines() -> None:
    lines = "cores=2\nisa=avx2,fma\nname=A ½ CPU\nsmt=None"
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest(FACTS)


def test_neither_order_nor_the_kind_of_sequence_matters() -> None:
    assert digest(FACTS) == digest({**dict(reversed(FACTS.items())), "isa": ("avx2", "fma")})


@pytest.mark.parametrize("changed", [{"cores": 3}, {"isa": ["avx2"]}, {"smt": False}, {"more": ""}])
def test_every_fact_counts(changed: dict[str, object]) -> None:
    assert digest(FACTS) != digest({**FACTS, **changed})


def test_every_process_computes_the_same_digest() -> None:
    """The hash seed orders sets and nothing else; no digest may depend on it."""
    code = (
        "from autotune.fingerprint.digest import digest\n"
        "from autotune.fingerprint.cpu import cpu_digest\n"
        "from autotune.fingerprint.stack import stack_digest\n"
        f"print(digest({FACTS!r}), cpu_digest(), stack_digest(), stack_digest('cuda'))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert 1 == len(told)
    assert digest(FACTS) == next(iter(told)).split()[0]
