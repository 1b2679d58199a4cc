"""The documentation site: `make docs` builds it from these pages and from the docstrings."""

from otel_sessions._version import __version__

project = "otel-sessions"
author = "The otel-sessions contributors"
project_copyright = "The otel-sessions contributors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["embedding.md"]  # its sections become pages of how-to
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
default_role = "code"

nitpicky = True
nitpick_ignore_regex: list[tuple[str, str]] = []

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "otel-sessions"
html_copy_source = False
