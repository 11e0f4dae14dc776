from __future__ import annotations

from typing import ClassVar

from conformance import Conformance


class TestLinear(Conformance):
    workload = "linear"
    problems = (
        {"m": 1, "n": 96, "k": 128},
        {"m": 13, "n": 37, "k": 33},
        {"m": 4, "n": 7, "k": 50},
        {"m": 16, "n": 64, "k": 192, "weight_format": "int4_g32"},
        {"m": 1, "n": 80, "k": 64, "weight_format": "int4_g32"},
        {"m": 3, "n": 48, "k": 64, "dtype": "float16"},
        {"m": 2, "n": 40, "k": 96, "dtype": "float16", "weight_format": "int4_g32"},
        {"m": 6, "n": 33, "k": 47, "dtype": "float32"},
        {"m": 2, "n": 64, "k": 64, "dtype": "float32", "weight_format": "int4_g32"},
    )
    lossy_errors: ClassVar = {
        "int8_dynamic": 0.05,
        "int8_weight_only": 0.02,
        "int4_weight_only": 0.15,
        "native_int4": 0.15,
    }
