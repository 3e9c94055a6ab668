"""The fields of a program's statuses, beside `status` and the exit code; no I/O."""

from __future__ import annotations

from .spawn import signal_name
from .usage import Usage

__all__ = ["CODE_UNKNOWN", "of_end", "of_usage"]

CODE_UNKNOWN = "its exit code is not known: SIGCHLD is ignored, or something waits for any child"


def of_end(code: int | None, reason: str, usage: Usage | None, lost: int) -> dict[str, object]:
    """Return the fields of `exited`.

    Args:
        code: the exit code, or minus the signal; None where it is not known.
        reason: what we have ended the program for; "" for nothing.
        usage: what it has used; None where that is not known.
        lost: lines or events that its log misses.
    """
    fields: dict[str, object] = {}
    if code is None:
        fields = {"exitCode": None, "error": CODE_UNKNOWN}
    elif code < 0:
        fields = {"signal": signal_name(-code)}
    if reason:
        fields["reason"] = reason
    if usage is not None:
        fields |= of_usage(usage)
    if lost:
        fields["logLost"] = lost
    return fields


def of_usage(usage: Usage) -> dict[str, object]:
    """Return the field that says what a program uses, or has used."""
    fields: dict[str, object] = {"cpuSeconds": usage.cpu_seconds}
    if usage.memory_bytes is not None:
        fields["memoryBytes"] = usage.memory_bytes
    if usage.peak_bytes is not None:
        fields["peakBytes"] = usage.peak_bytes
    return {"usage": fields}
