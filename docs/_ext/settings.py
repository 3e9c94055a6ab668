"""A directive that lists some settings of a dataclass, from its docstring.

    :::{settings} ws_hub.HubConfig
    heartbeat_interval pong_timeout
    :::

Each field of the dataclass has to be listed exactly once in the documentation; the build warns
of one that is not.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Parser
from docutils.utils import new_document
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)


def documented(cls: type) -> dict[str, str]:
    """Return what the docstring of a class says about each argument."""
    text = inspect.getdoc(cls) or ""
    block = re.search(r"^Args:\n((?:    .*\n|\n)+)", text + "\n", re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in (block[1] if block else "").splitlines():
        if match := re.match(r"    (\w+): (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif line.strip():
            found[name] += " " + line.strip()
    return found


def default_of(field: dataclasses.Field[Any]) -> str:
    """Return the default of a field as one writes it."""
    if field.default is dataclasses.MISSING:
        return "required" if field.default_factory is dataclasses.MISSING else "see below"
    value = field.default
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    return f"{value:_}"


class Settings(SphinxDirective):
    """Lists the settings that its body names."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return a list of definitions, by way of reStructuredText as in docstrings."""
        module, _, name = self.arguments[0].rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        texts = documented(cls)
        fields = {each.name: each for each in dataclasses.fields(cls)}
        lines: list[str] = []
        for setting in " ".join(self.content).split():
            if setting not in fields or setting not in texts:
                raise self.error(f"{self.arguments[0]} has no documented field {setting}")
            listed(self.env).setdefault(self.arguments[0], []).append((setting, self.env.docname))
            text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", texts[setting])
            lines += [f"``{setting}`` = ``{default_of(fields[setting])}``", f"    {text}", ""]
        node = nodes.container()
        document = new_document("", self.state.document.settings)
        Parser().parse("\n".join(lines), document)
        node += document.children
        return [node]


def listed(env: BuildEnvironment) -> dict[str, list[tuple[str, str]]]:
    """Return the settings that pages list, by class, each with its page."""
    if not hasattr(env, "ws_hub_settings"):
        env.ws_hub_settings = {}  # type: ignore[attr-defined]
    found: dict[str, list[tuple[str, str]]] = env.ws_hub_settings  # type: ignore[attr-defined]
    return found


def purge(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Forget what a page listed that is read anew."""
    for cls, entries in listed(env).items():
        listed(env)[cls] = [each for each in entries if each[1] != docname]


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of settings that no page lists, or that two list."""
    for path, entries in listed(env).items():
        module, _, name = path.rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        names = [setting for setting, _ in entries]
        for field in dataclasses.fields(cls):
            if names.count(field.name) != 1:
                logger.warning(
                    "%s.%s is listed %d times", path, field.name, names.count(field.name)
                )


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("settings", Settings)
    app.connect("env-purge-doc", purge)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": False}
