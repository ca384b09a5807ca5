"""Renders Vega-Lite cell outputs as figures that the vendored library draws."""

import html
import json
from collections.abc import Sequence
from typing import Any

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer, load_mime_renders
from sphinx.application import Sphinx

MIME = "application/vnd.vegalite.v5+json"


class VegaLite:
    """A myst-nb mime renderer: the spec inline, and the drawing script on pages that have a chart."""

    mime_priority_overrides: Sequence[tuple[str, str, int]] = [("html", MIME, 1)]

    @staticmethod
    def handle_mime(renderer: NbElementRenderer, data: MimeData, inline: bool) -> list[nodes.Element] | None:
        """The figure of a Vega-Lite output; None leaves any other output to myst-nb."""
        if inline or data.mime_type != MIME:
            return None
        spec: Any = data.content
        # "<" may not stand in a script element, where "</script>" would end it
        text = json.dumps(spec, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
        renderer.add_js_file("explorers", "explorers.js", {"defer": "defer"})
        figure = (
            '<figure class="explorer"><div class="explorer-chart"></div>'
            f"<noscript><p>{html.escape(spec.get('description', 'An interactive figure.'))}</p></noscript>"
            f'<script type="application/json">{text}</script></figure>'
        )
        return [nodes.raw(text=figure, format="html")]


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Take away jupyter-book's thebe: it names a CDN, is declared twice, and no kernel stands behind it."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{getattr(script, 'filename', '')}{getattr(script, 'attributes', {})}".lower()
    ]
    if "body" in context:
        head, _, _ = context["body"].partition('<script type="text/x-thebe-config">')
        context["body"] = head


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer; myst-nb keeps one cached list, so that this needs no installed entry point."""
    renderers = load_mime_renders()
    if VegaLite not in renderers:
        renderers.append(VegaLite)
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
