"""The documentation site: `make docs` builds it from these pages and from the docstrings.

A public class is documented under the name that users import. Docstrings are plain text with names in single backticks:
a name that the reference has becomes a link, and any other name is shown as code.
"""

import re
from importlib import import_module
from typing import Final

from docutils.nodes import Element, TextElement
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from otel_sessions._version import __version__

project = "otel-sessions"
author = project_copyright = "The otel-sessions contributors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block", "deflist"]

nitpicky = True
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(fastapi|opentelemetry|pathlib|collections|contextlib|datetime|os|enum|types|socket|ipaddress|ssl)\..*",
    ),  # other manuals
    (r"py:.*", r"Any|Mapping|Callable|Awaitable|MutableMapping|Sequence|[a-z]+"),  # Python's own
    (r"py:.*", r".*(DataT|ValueT|_LifespanT|HasScope)"),  # type variables, and a protocol that requests fit anyway
    (r"py:class", r"otel_sessions\._engine\.owners\.Reports"),  # what a manager gives to fleets of ours only
]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = "otel-sessions"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

_PUBLIC: Final = (
    "otel_sessions.testing",
    "otel_sessions.admin",
    "otel_sessions.proxy",
    "otel_sessions.matchers",
    "otel_sessions.asgi",
    "otel_sessions",
)
_HOMES: Final = {
    name: home
    for home in _PUBLIC
    for module in (import_module(home),)
    for name in (*dir(module), *getattr(module, "__all__", ()))
    if isinstance(value := getattr(module, name), type) and value.__module__.startswith("otel_sessions")
}
"""Where users import each public class from."""
_PROGRAM: Final = ".. code-block:: python"
_QUOTED: Final = re.compile(r"(?<![`:])`([^`]+)`(?!`)")


def _write_as_rest(_app: Sphinx, _what: str, _name: str, _value: object, _options: object, lines: list[str]) -> None:
    """Make reStructuredText of a docstring.

    Backticks become links or code. What is fenced, or indented after an empty line, becomes a program.
    """
    written: list[str] = []
    fenced = indented = False
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("```"):
            fenced = not fenced
            written += [_PROGRAM, ""] if fenced else [""]
            continue
        if line.startswith("    ") and not before.strip() and not (fenced or indented):
            written += [_PROGRAM, ""]
            indented = True
        indented = indented and (line.startswith("    ") or not line.strip())
        text = line if indented else _QUOTED.sub(_linked, line)
        written.append(f"    {line}" if fenced else text)
    lines[:] = written


def _linked(found: re.Match[str]) -> str:
    name = found[1]
    return f":py:class:`~{_HOMES[name]}.{name}`" if name in _HOMES else f"``{name}``"


def _find_public(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: TextElement) -> Element | None:
    """Return the reference to a class that a signature names by the private module that has it."""
    name = str(node["reftarget"]).rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in _HOMES:
        return None
    target = f"{_HOMES[name]}.{name}"
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "class", target, node, content)


def setup(app: Sphinx) -> None:
    """Register what reads docstrings and signatures."""
    app.connect("autodoc-process-docstring", _write_as_rest)
    app.connect("missing-reference", _find_public)
