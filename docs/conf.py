"""How the pages are built: ``make docs``. Nothing is fetched."""

from airflow_provider_talkable import __version__

project = "airflow-provider-talkable"
author = "The airflow-provider-talkable authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {__version__.partition('+')[0]}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"

# The signatures name them; they are Python's own, or inner workings that have no place on a page.
nitpick_ignore_regex = [
    ("py:class", r"(airflow|collections|datetime|decimal)\..*"),
    (
        "py:class",
        r"airflow_provider_talkable\.(protocol\.(answers|rewards|wire)|sandbox\.(talkable|faults))\..*",
    ),
    ("py:class", "TalkableClient|Ledger"),
    ("py:exc", "AirflowFailException"),
]
