"""How docs/ becomes a site: `make docs`, which stops at the first kind of warning (a dead link, a page in no navigation)."""

from tools.pages import fill

project = "ESANS"
extensions = ["myst_parser"]
myst_heading_anchors = 4
# Quotation marks are part of what people copy.
smartquotes = False
html_theme = "furo"
html_title = "ESANS"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False


def setup(app):
    """Generated parts are put into the text of their pages when it is read; nothing is written into docs/."""
    app.connect("source-read", lambda app, page, text: text.__setitem__(0, fill(text[0])))
