"""The documentation site: `make docs`. Pages are Markdown that GitHub shows as well."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import ws_hub  # noqa: E402 - its tree is on the path from here on

project = "ws_hub"
author = "ws_hub contributors"
version = release = ws_hub.__version__
html_title = f"ws_hub {release}"
html_theme = "furo"
html_static_path: list[str] = []
html_copy_source = False
html_extra_path = ["llms.txt"]
html_show_sphinx = False
exclude_patterns = ["_build", "_ext"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "settings"]

# --- Markdown ------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # links such as security.md#limits are checked
myst_links_external_new_tab = False

# --- docstrings ----------------------------------------------------------------------------

default_role = "literal"  # `code` in our docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "inherited-members": True}
napoleon_use_ivar = True
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

# --- links ---------------------------------------------------------------------------------

linkcheck_anchors = False
linkcheck_timeout = 15
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1)", r"https?://[\w.-]*example\.(com|org)"]
