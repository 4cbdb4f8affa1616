"""Sphinx: Markdown pages, docstrings by autodoc, warnings are errors (`python tools/dev.py docs`)."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import figures
import pages

pages.write()
if not figures.fresh(pages.PAGES / "figures"):
    figures.draw(pages.PAGES / "figures")

project = "gradxform"
author = "The gradxform authors"
copyright = author
release = version = importlib.metadata.version("gradxform")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
exclude_patterns = ["_build", "api/methods/_*"]

# Links are relative paths, so that they work on a code host too; headings can be linked to.
myst_heading_anchors = 3

# Formulas between dollars, as on a code host; tools/mathml.py translates them.
myst_enable_extensions = ["dollarmath"]
myst_dmath_double_inline = True
html_math_renderer = "mathml"

# Docstrings are written in plain text with `code` in single backticks; the words live there, the pages list names.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Every reference must resolve, but for Python's own names: no inventory is fetched, so that a build needs no network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:(class|exc|func|obj|data)", r"(collections\.|numpy\.|typing\.|optax\.|jax\.)?[A-Za-z]+")
]

html_theme = "furo"
html_theme_options = {"light_css_variables": {"code-font-size": "var(--font-size--small--2)"}}
html_title = "gradxform"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False
