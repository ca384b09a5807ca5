"""Puts what we measured into the pages: roles for a sentence, directives for tables.

All of it comes through `practicum`, so that a page, a test and a grade give one verdict. What cannot be found
or judged is a warning, which fails the build.
"""

from collections import Counter
from functools import lru_cache
from math import floor, isfinite, log10
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.typing import ExtensionMetadata

from practicum import PracticumError, choices
from practicum.cards import Card, load_cards
from practicum.results import is_stale, load_results, load_worked
from practicum.verdicts import Judgement, judge_card, measured

LOGGER = logging.getLogger(__name__)
COLUMNS = (("Claim", 43), ("Paper or theory", 18), ("Ours", 19), ("Verdict", 20))
SIGNS = {"reproduced": "✓", "partly": "◐", "not reproduced": "✗", "not run": "○"}
STATISTIC = {"order": "smallest step", "ratio": "ratio", "slope": "log-log slope", "argmax": "peak's place"}
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plus_minus(mean: float, sd: float) -> str:
    """Write "8.1 ± 0.6": the spread to one digit (two after a leading 1), the mean to the same place."""
    size = max(abs(mean), sd if isfinite(sd) else 0.0)
    power = floor(log10(size)) if size else 0
    if not -4 <= power <= 5:
        return f"({plus_minus(mean / 10.0**power, sd / 10.0**power)})·10{str(power).translate(SUPERSCRIPTS)}"
    if not isfinite(sd) or sd == 0:
        number = (f"{mean:.3g}" if power < 3 else f"{mean:.0f}").replace("-", "−")
        return number if not isfinite(sd) else f"{number} ± 0"
    place = floor(log10(sd))
    place -= f"{sd:.1e}".startswith("1")
    decimals = min(max(-place, 0), 12)
    return f"{round(mean, -place):.{decimals}f} ± {round(sd, -place):.{decimals}f}".replace("-", "−")


def heading(theme: str) -> str:
    """Write a theme's name as a heading: "SGD noise"."""
    words = theme.replace("-", " ").capitalize()
    return words.replace("Sgd", "SGD")


@lru_cache
def judgements(root: Path, paper: str) -> dict[str, Judgement]:
    """Judge a paper's claims, by their ids; once a build."""
    card = load_cards(root, [paper])[paper]
    return {told.claim: told for told in judge_card(card, root)}


def seeds(n: int) -> str:
    """Write how many seeds."""
    return f"{n} seed{'' if n == 1 else 's'}"


def ours(told: Judgement) -> str:
    """Write our number and its spread, in the paper's unit."""
    if told.mean is None or told.sd is None:
        return ""
    return f"{plus_minus(told.mean, told.sd)}{f' {told.unit}' if told.unit else ''}"


def css(status: str) -> list[str]:
    """Name a badge's style."""
    return ["verdict", f"verdict-{status.replace(' ', '-')}"]


def badge(told: Judgement, more: str = "") -> list[nodes.Node]:
    """Give the verdict as a badge, with its mark if the results are older than the program."""
    text = f"{SIGNS[told.status]} {told.status}{more}"
    found: list[nodes.Node] = [nodes.inline("", text, classes=css(told.status))]
    if told.stale:
        why = "The program has changed since these runs."
        stale = nodes.abbreviation("", "stale", explanation=why, classes=css("stale"))
        found += [nodes.Text(" "), stale]
    return found


def row_id(told: Judgement) -> str:
    """Name the table row of a claim."""
    return nodes.make_id(f"claim-{told.paper}-{told.claim}")


class ClaimRole(SphinxRole):
    """`paper:claim` as a badge with our number, which leads to the claim's row."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Judge the claim, or warn."""
        paper, _, claim = self.text.partition(":")
        try:
            found = judgements(Path(self.env.srcdir), paper)
            if claim not in found:
                raise PracticumError(f"{paper}: no claim {claim!r} ({choices(claim, found)})")
        except PracticumError as error:
            return _lost(self, str(error))
        told = found[claim]
        more = f" · {ours(told)} ({seeds(told.n)})" if told.verdict else ""
        link = nodes.reference("", "", *badge(told, more), refid=row_id(told), reftitle=told.text)
        link["internal"], link["classes"] = True, ["claim"]
        return [link], []


class MeasuredRole(SphinxRole):
    """`paper:key` as mean ± sd over seeds; `paper:key:%` in percent, `paper:key:.2f` the mean alone."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Read the number, or warn."""
        paper, key, form = [*self.text.split(":"), "", ""][:3]
        root = Path(self.env.srcdir)
        try:
            load_cards(root, [paper])  # an unknown paper is told as such
            results = load_results(root, paper)
            if results is None:
                raise PracticumError(f"{paper}: there are no results (`make reproduce PAPER={paper}`)")
            mean, sd, n = measured(results, key)
            if form == "%":
                text = f"{plus_minus(100 * mean, 100 * sd)} %"
            else:
                text = format(mean, form) if form else plus_minus(mean, sd)
        except (PracticumError, ValueError) as error:
            return _lost(self, str(error))
        stale = is_stale(results, root)
        why = f"{key}: mean ± standard deviation over {seeds(n)}" + (", stale" if stale else "")
        classes = ["measured", *(css("stale") if stale else [])]
        text += " (stale)" if stale else ""
        return [nodes.abbreviation(self.rawtext, text, explanation=why, classes=classes)], []


def _lost(role: SphinxRole, why: str) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Warn with the page and line, and leave what was written."""
    LOGGER.warning("%s: %s", role.text, why, location=role.get_location())
    return [nodes.literal("", role.text)], []


class ClaimsDirective(SphinxDirective):
    """The table of one paper's claims, and its setting."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Build the table, or warn."""
        try:
            card = load_cards(Path(self.env.srcdir), [self.arguments[0]])[self.arguments[0]]
            return self.paper(card)
        except PracticumError as error:
            LOGGER.warning("%s", error, location=self.get_location())
            return []

    def paper(self, card: Card) -> list[nodes.Node]:
        """Build the table of a card and the text below it."""
        found = judgements(Path(self.env.srcdir), card.id)
        columns = [nodes.colspec(colwidth=width) for _, width in COLUMNS]
        head = nodes.row("", *(nodes.entry("", nodes.paragraph("", name)) for name, _ in COLUMNS))
        body = nodes.tbody("", *(self.row(told) for told in found.values()))
        group = nodes.tgroup("", *columns, nodes.thead("", head), body, cols=len(COLUMNS))
        text = f"*Setting.* {card.setting.strip()}\n\n*The authors' code.* {card.author_code.strip()}"
        below = nodes.container("", *self.parse_text_to_nodes(text), classes=["claims-setting"])
        return [nodes.table("", group, classes=["claims", "colwidths-given"]), below]

    def row(self, told: Judgement) -> nodes.row:
        """Build the row of a claim; the stylesheet makes a card of it on a phone."""
        whose = f"{told.role} of {told.of}" if told.of else told.role
        where = [nodes.strong("", whose), nodes.Text(" · "), *self.line(told.where).children]
        if told.source == "unchecked":
            unchecked = nodes.inline("", "unchecked against the paper", classes=["claim-unchecked"])
            where += [nodes.Text(" · "), unchecked]
        claim = [self.line(told.text), nodes.paragraph("", "", *where, classes=["claim-small"])]
        if told.note:
            claim.append(self.line(told.note, "claim-small"))
        number = "–"
        if told.paper_value is not None:
            number = f"{told.paper_value:g} {told.unit}".strip()
        elif told.reference is not None and told.expected.startswith("= "):  # the theory's, from the same runs
            number = f"{told.reference:.4g}"
        expected = told.expected.replace(">=", "≥").replace("<=", "≤")
        if told.expected.startswith("= ") and told.reference is not None and told.paper_value is None:
            expected = told.expected.removeprefix("= ").replace("_", " ")  # the name of the theory's key
        paper = [nodes.paragraph("", number), nodes.paragraph("", expected, classes=["claim-small"])]
        how = [STATISTIC.get(told.kind, "")]
        if told.seconds is not None:
            how += [seeds(told.n), f"{told.seconds:.3g} s each"]
        small = nodes.paragraph("", ", ".join(filter(None, how)), classes=["claim-small"])
        mine = [nodes.paragraph("", ours(told) or "–"), small]
        verdict = [nodes.paragraph("", "", *badge(told))]
        if told.scale != "laptop":
            verdict.append(self.line(f"{told.scale} scale", "claim-small"))
        cells = (claim, paper, mine, verdict)
        return nodes.row("", *(nodes.entry("", *cell) for cell in cells), ids=[row_id(told)])

    def line(self, text: str, *classes: str) -> nodes.paragraph:
        """Build a paragraph of a card's text, which may hold inline MyST (formulas)."""
        parsed, messages = self.parse_inline(text, lineno=self.lineno)
        return nodes.paragraph("", "", *parsed, *messages, classes=list(classes))


class ScoreboardDirective(ClaimsDirective):
    """All papers by theme, below the counts of each verdict."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        """Build the counts and a section a theme, or warn."""
        root = Path(self.env.srcdir)
        try:
            cards = load_worked(root)
            all_told = [told for paper in cards for told in judgements(root, paper).values()]
            counts = Counter(told.status for told in all_told)
            lead = nodes.paragraph("", "", classes=["verdict-counts"])
            for status, sign in SIGNS.items():
                count = nodes.inline("", f"{sign} {counts[status]} {status}", classes=css(status))
                lead += [count, nodes.Text(" ")]
            if stale := sum(told.stale for told in all_told):
                lead += nodes.inline("", f"{stale} stale", classes=css("stale"))
            themes = dict.fromkeys(card.theme for card in cards.values())
            return [lead, *(self.theme(theme, cards) for theme in themes)]
        except PracticumError as error:
            LOGGER.warning("%s", error, location=self.get_location())
            return []

    def theme(self, theme: str, cards: dict[str, Card]) -> nodes.section:
        """Build the section of a theme."""
        section = nodes.section("", nodes.title("", heading(theme)), ids=[nodes.make_id(f"theme-{theme}")], names=[])
        for card in cards.values():
            if card.theme == theme:
                section += nodes.rubric("", card.title)
                section += self.parse_text_to_nodes(f"{{cite:t}}`{card.bib}`")
                section += self.paper(card)
        return section


def link_claims(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Lead each badge to its row: on the page itself if there is one, or else on the scoreboard."""
    rows = {name for row in doctree.findall(nodes.row) for name in row["ids"]}
    board = app.config.claims_scoreboard
    for link in list(doctree.findall(nodes.reference)):
        if "claim" not in link["classes"] or link.get("refid") in rows:
            continue
        if board in app.env.found_docs:
            link["refuri"] = f"{app.builder.get_relative_uri(page, board)}#{link.attributes.pop('refid')}"
        else:
            link.replace_self(nodes.inline("", "", *link.children, classes=["claim"]))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the roles, the directives and where the badges lead."""
    app.add_config_value("claims_scoreboard", "book/scoreboard", "env")
    app.add_role("claim", ClaimRole())
    app.add_role("measured", MeasuredRole())
    app.add_directive("claims", ClaimsDirective)
    app.add_directive("scoreboard", ScoreboardDirective)
    app.connect("builder-inited", lambda app: judgements.cache_clear())
    app.connect("doctree-resolved", link_claims)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
