"""The folder of logs, `HubConfig.logs`: which file is the log of a program, for every process.

A log is found by the name of its process id. A run without a log leaves a mark beside that of an
earlier run, `<process id>.nolog`, so that no process takes the one for the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
from urllib.parse import quote

from ..errors import excerpt
from ..log import get_logger

__all__ = ["file_name", "find_log", "is_recording", "note_log"]

logger = get_logger(__name__)

_ENDS = (".log", ".log.gz", ".cast", ".cast.gz")
_MARK = ".nolog"

Path = str | os.PathLike[str]


def file_name(process_id: str) -> str:
    """Return the name of the file of a process id: that of no other id."""
    return _base(process_id) + _ENDS[0]


def is_recording(path: Path) -> bool:
    """Return whether a log is a recording with times, compressed or not, as its name says."""
    return os.fspath(path).removesuffix(".gz").endswith(".cast")


def find_log(folder: Path, process_id: str) -> str | None:
    """Return the path of the log of the last run of a process id; None for none."""
    name = os.path.join(folder, _base(process_id))
    return None if os.path.exists(name + _MARK) else _any_log(name)


def note_log(folder: Path | None, process_id: str, path: str | None) -> None:
    """Have every process find the log of a new run, or none where that cannot be found.

    Args:
        folder: the folder; None for none.
        process_id: the process id.
        path: the log; None for none.
    """
    if folder is None:
        return
    name = os.path.join(folder, _base(process_id))
    found = _any_log(name)
    try:
        if found is None or (path is not None and os.path.samefile(found, path)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name + _MARK)
        else:
            os.close(os.open(name + _MARK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if found is None and error.errno == errno.ENAMETOOLONG:
            return  # no file has such a name
        logger.warning(
            "other processes take the log %s for that of the new run of %s: %s",
            excerpt(found),
            excerpt(process_id),
            error,
        )


def _base(process_id: str) -> str:
    return quote(process_id, safe="")


def _any_log(name: str) -> str | None:
    return next((name + end for end in _ENDS if os.path.isfile(name + end)), None)
