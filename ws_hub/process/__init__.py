"""Programs, logs and prints, streamed to channels."""

from __future__ import annotations

from ..mask.masks import MaskEnv
from .process import ExitCodeUnknown, Process, ProcessStartError, run_process
from .stdin import InputClosed, InputTimeout
from .writers import log_handler, writer

__all__ = [
    "ExitCodeUnknown",
    "InputClosed",
    "InputTimeout",
    "MaskEnv",
    "Process",
    "ProcessStartError",
    "log_handler",
    "run_process",
    "writer",
]
