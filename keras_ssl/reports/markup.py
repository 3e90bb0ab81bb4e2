"""Pieces of a page: escaped text, tables, and figures as SVG that takes the colours of the page."""

import io
import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from keras_ssl.reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de;
  --stripe: #f6f8fa; --link: #0550ae; --alarm: #9a1c00; --alarm-ground: #fff4f0; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --ink: #e6e8ea; --soft: #a5adb5;
  --rule: #3a4148; --stripe: #1d2125; --link: #79b8ff; --alarm: #ffab91; --alarm-ground: #33190f; } }
@media print { :root { color-scheme: light; --ground: #ffffff; --ink: #000000; --soft: #333333;
  --rule: #999999; --stripe: #ffffff; --alarm: #000000; --alarm-ground: #ffffff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { line-height: 1.2; margin: 0 0 1rem; }
h2 { margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--rule); }
p, li { max-width: 45rem; overflow-wrap: anywhere; }
.lead { font-size: 1.1rem; }
.warning, .note { border: 1px solid var(--rule); border-left: .4rem solid var(--soft); padding: .6rem 1rem;
  margin: 1rem 0; background: var(--stripe); }
.warning { border-color: var(--alarm); background: var(--alarm-ground); }
.warning p, .note p { margin: 0; }
.warning strong { color: var(--alarm); }
.wide { overflow-x: auto; }
.wide:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
caption { text-align: left; color: var(--soft); padding: .3rem 0; }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 3rem); }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
thead th { vertical-align: bottom; }
thead th[colspan] { text-align: center; }
tbody tr:nth-child(even) { background: var(--stripe); }
tbody th { text-align: left; font-weight: 600; }
.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
.words thead th { text-align: left; }
figure { margin: 1rem 0; }
figcaption { color: var(--soft); font-size: .95rem; max-width: 45rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
@media print { main { max-width: none; padding: 0; } .wide { overflow: visible; }
  svg { min-width: 0 !important; } table { font-size: 7pt; } th, td { padding: .1rem .25rem; }
  figure, tr, .warning { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def html_table(table: Table, caption: str, words: bool = False) -> str:
    """Write a table with its caption; the first column names the rows.

    Args:
        table: cells as text from anywhere, which is escaped.
        caption: what the table shows.
        words: whether cells hold words, which may wrap, rather than numbers.
    """
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>\n"
        for first, *rest in table.rows
    )
    kind = ' class="words"' if words else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">\n<table{kind}>'
        f"<caption><span>{escape(caption)}</span></caption>\n<thead>{_heading(table)}</thead>\n"
        f"<tbody>\n{rows}</tbody></table>\n</div>\n"
    )


def _heading(table: Table) -> str:
    names = "".join(
        f'<th scope="col">{escape(name)}</th>'
        for group, name in table.columns
        if group or not _grouped(table)
    )
    if not _grouped(table):
        return f"<tr>{names}</tr>"
    above: list[list[Any]] = []
    for group, name in table.columns:
        if group and above and above[-1][0] == group:
            above[-1][1] += 1
        else:
            above.append([group, 1, name])
    groups = "".join(
        f'<th scope="colgroup" colspan="{count}">{escape(group)}</th>'
        if group
        else f'<th scope="col" rowspan="2">{escape(name)}</th>'
        for group, count, name in above
    )
    return f"<tr>{groups}</tr><tr>{names}</tr>"


def _grouped(table: Table) -> bool:
    return any(group for group, _ in table.columns)


def html_pairs(pairs: Mapping[str, Any], caption: str, names: tuple[str, str]) -> str:
    """Write names and values as a table of two columns."""
    rows = tuple((str(name), _words(value)) for name, value in pairs.items())
    return html_table(Table((("", names[0]), ("", names[1])), rows), caption, words=True)


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_words(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple, set)):
        return ", ".join(_words(part) for part in value)
    return "" if value is None else str(value)


def html_figure(figure: "Figure", prefix: str, says: str, caption: str) -> str:
    """Write a figure with its caption.

    Args:
        figure: any Matplotlib figure. What is black in it, such as its text and axes, takes the colour of
            the page's text; grounds become transparent.
        prefix: put before every id in it, so that figures of one page do not mix; letters and digits.
        says: what the figure shows, in words, for those who do not see it.
        caption: shown below.
    """
    return (
        f'<figure>\n<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"{inline_svg(figure, prefix, says)}</div>\n<figcaption>{escape(caption)}</figcaption>\n</figure>\n"
    )


def inline_svg(figure: "Figure", prefix: str, says: str) -> str:
    """Draw a figure as `<svg>`; arguments as `html_figure`. The same figure gives the same text."""
    from matplotlib import rc_context

    file = io.BytesIO()
    # Text as text: small, searchable, and the salt keeps ids the same from run to run.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # Its style element would apply to the whole page; what it says stands on the root below.
            if child.tag in {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}:
                parent.remove(child)
    _rename_ids(root, prefix)
    _take_colours_of_page(root)
    width = float(root.attrib["viewBox"].split()[2])
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {
        "role": "img",
        "aria-label": says,
        "fill": "currentColor",
        # Points to pixels at most; below four fifths of a pixel for a point, text could not be read.
        "style": f"max-width: {width * 4 / 3:.0f}px; min-width: {width * 0.8:.0f}px; "
        "stroke-linejoin: round; stroke-linecap: butt",
    }
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _rename_ids(root: ElementTree.Element, prefix: str) -> None:
    """Put `prefix` before ids that something refers to, and drop the others."""
    used = set()
    for element in root.iter():
        if _LINK in element.attrib:
            link = element.attrib.pop(_LINK)
            element.attrib["href"] = f"#{prefix}-{link[1:]}" if link.startswith("#") else link
            used.add(link.removeprefix("#"))
        for name, value in element.attrib.items():
            used.update(re.findall(r"url\(#([^)]+)\)", value))
            element.attrib[name] = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", value)
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.attrib["id"] = f"{prefix}-{own}"


def _take_colours_of_page(root: ElementTree.Element) -> None:
    for element in root.iter():
        for name in ("style", "stroke", "fill"):
            if name in element.attrib:
                element.attrib[name] = re.sub(r"#000000\b", "currentColor", element.attrib[name])
