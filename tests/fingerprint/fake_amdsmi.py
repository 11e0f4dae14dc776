"""An AMD SMI library that answers as an MI300X would, by the names and errors of `amdsmi`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

NOT_SUPPORTED, NO_PERM = 2, 10
MI300X: dict[str, Any] = {
    "gpu_asic_info": {
        "market_name": "AMD Instinct MI300X",
        "num_compute_units": 304,
        "target_graphics_version": "gfx942",
    },
    "gpu_vram_info": {"vram_size": 196592, "vram_bit_width": 8192},
    "gpu_vram_usage": {"vram_total": 196592, "vram_used": 300},
    "gpu_process_list": [],
    "gpu_device_uuid": "GPU-1",
    "gpu_driver_info": {"driver_version": "6.12.12"},
    "violation_status": {"active_ppt_pwr": False, "active_prochot_thrm": False, "active_hbm_thrm": "N/A"},
    "clock_info": {0: {"clk": 132, "max_clk": 2100}, 1: {"clk": 900, "max_clk": 1300}},
    "temp_metric": {(1, 0): 40},
    "power_info": {"current_socket_power": 150, "average_socket_power": "N/A"},
    "power_cap_info": {"power_cap": 750_000_000},
    "energy_count": {"energy_accumulator": 327_680, "counter_resolution": 15.259},
}


class AmdSmiError(Exception):
    """As `amdsmi` raises it: the code in `err_code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"Error code: {code}")
        self.err_code = code


class FakeAmdSmi:
    """The library; a handle is a dictionary of answers."""

    AmdSmiClkType = SimpleNamespace(GFX=0, MEM=1)
    AmdSmiTemperatureType = SimpleNamespace(HOTSPOT=1)
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT=0)

    def __init__(self, *gpus: dict[str, Any], init: Exception | None = None) -> None:
        self.gpus, self.init, self.is_open = gpus, init, 0

    def amdsmi_init(self) -> None:
        if self.init:
            raise self.init
        self.is_open += 1

    def amdsmi_shut_down(self) -> None:
        self.is_open -= 1

    def amdsmi_get_processor_handles(self) -> list[dict[str, Any]]:
        return list(self.gpus)

    def __getattr__(self, name: str) -> Any:
        call = name.removeprefix("amdsmi_get_")

        def ask(gpu: dict[str, Any], *which: Any) -> Any:
            answer = gpu.get(call, AmdSmiError(NOT_SUPPORTED))
            if isinstance(answer, Exception):
                raise answer
            return answer[which[0] if len(which) == 1 else which] if which else answer

        return ask
