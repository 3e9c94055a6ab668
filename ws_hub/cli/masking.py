"""The options of commands that mask secrets."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ..errors import ConfigError, excerpt
from ..mask.masks import MaskEnv

__all__ = ["add_masks", "secrets_of"]


def add_masks(command: Any) -> None:
    """Add --mask-env, --mask-file and --mask-pattern."""
    command.add_argument(
        "--mask-env",
        action="append",
        default=[],
        metavar="NAME",
        help="have *** stand in place of this variable's value, wherever the output has it; "
        "NAME may be a pattern such as '*_TOKEN'; can be given again, as the next two",
    )
    command.add_argument(
        "--mask-file",
        action="append",
        default=[],
        metavar="FILE",
        help="the same for each line of a file, such as a private key",
    )
    command.add_argument(
        "--mask-pattern",
        action="append",
        default=[],
        metavar="REGEX",
        help="the same for what a regular expression of characters, classes and counts matches, "
        "such as 'ghp_[A-Za-z0-9]{36}'",
    )


def secrets_of(arguments: argparse.Namespace) -> list[str | MaskEnv | re.Pattern[str]]:
    """Return the secrets; raises ConfigError for a bad pattern, OSError for a bad file."""
    secrets: list[str | MaskEnv | re.Pattern[str]] = [MaskEnv(name) for name in arguments.mask_env]
    for path in arguments.mask_file:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            secrets.append(file.read())
    for pattern in arguments.mask_pattern:
        try:
            secrets.append(re.compile(pattern))
        except re.error as error:
            raise ConfigError(
                f"--mask-pattern must be a regular expression, not {excerpt(pattern)}: {error}"
            ) from None
    return secrets
