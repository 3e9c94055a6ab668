"""`python -m bench.servers NAME`: one server under test, driven over its input."""

from __future__ import annotations

import importlib
import logging
import sys

from bench.servers import CONTENDERS

module, name = CONTENDERS[sys.argv[1]].where
# What a server logs costs it time that is no part of what is measured.
logging.disable()
getattr(importlib.import_module(f"bench.servers.{module}"), name)().main()
