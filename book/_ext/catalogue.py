"""The papers that a group can take, from their cards: what each claims, what its keys mean, where to start."""

from collections.abc import Iterable
from pathlib import Path

from claims import heading
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from practicum import PracticumError
from practicum.cards import Card, Practical, load_cards
from practicum.semester.catalogue import has_solution
from practicum.verdicts import expected

LOGGER = logging.getLogger(__name__)


def plain(text: str) -> nodes.Text:
    """Take a card's text as it is, without markup."""
    return nodes.Text(" ".join(text.split()))


def paragraph(label: str, text: str) -> nodes.paragraph:
    """Build a paragraph that begins with its name in bold."""
    return nodes.paragraph("", "", nodes.strong("", f"{label}. "), plain(text))


def bullets(items: Iterable[nodes.paragraph]) -> nodes.bullet_list:
    """Build a list."""
    return nodes.bullet_list("", *(nodes.list_item("", item) for item in items))


def definitions(pairs: Iterable[tuple[str, str]]) -> nodes.definition_list:
    """Build a list of keys, each with its meaning."""
    found = nodes.definition_list("")
    for key, meaning in pairs:
        told = nodes.definition("", nodes.paragraph("", "", plain(meaning)))
        found += nodes.definition_list_item("", nodes.term("", "", nodes.literal("", key)), told)
    return found


class CatalogueDirective(SphinxDirective):
    """All papers with a practical part, by theme; each folds out."""

    def run(self) -> list[nodes.Node]:
        """Build a section a theme, or warn."""
        root = Path(self.env.srcdir)
        try:
            cards = {name: card for name, card in load_cards(root).items() if card.practical}
        except PracticumError as error:
            LOGGER.warning("%s", error, location=self.get_location())
            return []
        themes: dict[str, list[Card]] = {}
        for card in cards.values():
            themes.setdefault(card.theme, []).append(card)
        return [self.theme(theme, found, root) for theme, found in sorted(themes.items())]

    def theme(self, theme: str, cards: list[Card], root: Path) -> nodes.section:
        """Build the section of a theme."""
        section = nodes.section("", nodes.title("", heading(theme)), ids=[nodes.make_id(f"papers-{theme}")], names=[])
        for card in cards:
            if card.practical:
                section += self.card(card, card.practical, root)
        return section

    def card(self, card: Card, practical: Practical, root: Path) -> list[nodes.Node]:
        """Build a paper's lines and what folds out below them."""
        places = f"{practical.capacity} group{'' if practical.capacity == 1 else 's'}"
        facts = (
            f". Size: {practical.size}. One seed may take {card.budget.seconds:g} s and {card.budget.memory_mb:g} MB. "
            f"For {places}{'; a solution is public' if has_solution(card, root) else ''}."
        )
        lead = nodes.paragraph("", "")
        for node in self.parse_text_to_nodes(f"{{cite:t}}`{card.bib}`"):
            lead += node.children
        lead += nodes.Text(facts)
        claims = []
        for claim in card.claims:
            role = f"{claim.role} of {claim.of}" if claim.of else claim.role
            told = nodes.paragraph("", "", nodes.strong("", claim.id), nodes.Text(f", {role}"))
            told += nodes.Text(f" ({claim.where}{'; at the scale of the paper' if claim.scale == 'paper' else ''}): ")
            told += plain(claim.text)
            told += nodes.inline("", f" {claim.kind}, {expected(claim)}", classes=["claim-small"])
            claims.append(told)
        folded = nodes.admonition(
            "", nodes.title("", "Claims, setting and keys"), bullets(claims), paragraph("Setting", card.setting),
            paragraph("The authors’ code", card.author_code), paragraph("Where to start", practical.start),
            paragraph("Keys", "What the program writes for one seed:"), definitions(practical.keys.items()),
            paragraph("Extensions", "Some that could be tried:"),
            bullets(nodes.paragraph("", "", plain(idea)) for idea in practical.extensions), classes=["dropdown"],
        )  # fmt: skip
        name = nodes.rubric("", card.title, ids=[nodes.make_id(f"paper-{card.id}")])
        return [name, lead, folded]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive."""
    app.add_directive("catalogue", CatalogueDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
