"""What models and steps did to the device, as a metrics endpoint would tell it."""

from dataclasses import asdict

from shared.models import process
from shared.worker.turn import Turnstile

NAMES = {
    "loads": "doctorgen_model_loads_total",
    "moves_to_device": "doctorgen_model_moves_to_device_total",
    "evictions_to_host": "doctorgen_model_evictions_to_host_total",
    "drops": "doctorgen_model_drops_total",
    "bytes_loaded": "doctorgen_model_loaded_bytes_total",
    "bytes_to_device": "doctorgen_model_moved_to_device_bytes_total",
    "bytes_to_host": "doctorgen_model_moved_to_host_bytes_total",
    "bytes_dropped": "doctorgen_model_dropped_bytes_total",
    "seconds_loading": "doctorgen_model_loading_seconds_total",
    "seconds_moving": "doctorgen_model_moving_seconds_total",
    "seconds_waiting": "doctorgen_model_waiting_seconds_total",
    "device_bytes": "doctorgen_model_device_bytes",
    "host_bytes": "doctorgen_model_host_bytes",
}
"""Of the fields of a Residency's figures. All are counters but the last two, which are gauges."""


def device_figures(turnstile: Turnstile) -> dict[str, float]:
    """Name to value; those of the models are absent until an engine of this process has borrowed one."""
    turns = turnstile.figures()
    found: dict[str, float] = {
        "doctorgen_turns_total": turns.turns,
        "doctorgen_turns_preferred_total": turns.preferred,
        "doctorgen_turns_waiting_seconds_total": turns.seconds_waiting,
    }
    models = process.figures()
    if models is not None:
        values = asdict(models)
        found |= {told: values[name] for name, told in NAMES.items()}
    return found


def process_turnstile() -> Turnstile:
    """For the workers of this process: it prefers steps whose models its Residency has on the device."""
    return Turnstile(lambda: process.residency().on_device())
