"""A page that shows the results of `fastkeras bench` in pictures; it needs no other file."""

import html

from fastkeras.bench import pictures, report

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 76rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem }
p { margin: .3rem 0 } p, li { color: #555; overflow-wrap: anywhere }
.wide { overflow-x: auto } .wrong { color: #b00 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 }
th, td { padding: .1rem .8rem .1rem 0; text-align: right; white-space: nowrap; font-weight: 400 }
th { border-bottom: 1px solid #ccc; color: #555 }
th:first-child, td:first-child { text-align: left }
th:first-child { font-weight: 600; color: #222 } td:first-child { min-width: 10rem }
.plots { display: flex; flex-wrap: wrap; gap: .5rem }
figure { margin: 0; flex: 0 1 23rem; min-width: 0 }
svg { width: 100%; height: auto; display: block }
figcaption { font-weight: 600 }
.names { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; padding: 0; list-style: none }
.names svg { display: inline; width: 1.6rem; height: .7rem; margin-right: .4rem }
"""


def page(found):
    """The whole page as text.

    Args:
        found: as `--json` writes it.
    """
    title, *machine = report.heading(found).splitlines()
    parts = [f"<h1>{html.escape(title)}</h1>", *map(_paragraph, machine), *_tables(found)]
    styles = pictures.styles_of(found)
    for heading, words, draw in pictures.SECTIONS:
        plots = [
            f'<figure role="img" aria-label="{html.escape(f"{heading}: {name}", quote=True)}">'
            f"<figcaption>{html.escape(name)}</figcaption>{svg}</figure>"
            for name, svg in draw(found, styles)
        ]
        if plots:
            parts += [f"<h2>{html.escape(heading)}</h2>", _paragraph(words)]
            parts += [f'<div class="plots">{"".join(plots)}</div>', _names(styles)]
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>"
        "<link rel=icon href='data:,'>"  # else browsers ask for one
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n"


def _paragraph(text):
    return f"<p>{html.escape(text)}</p>"


def _tables(found):
    for function in report.functions(found):
        head = "".join(f"<th>{cell}</th>" for cell in (html.escape(function), *report.COLUMNS[1:]))
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in report.rows_of(found, function)
        )
        yield f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
    for line in filter(None, report.notes(found)):
        kind = ' class="wrong"' if line.startswith("WRONG") else ""
        yield f"<p{kind}>{html.escape(line.strip())}</p>"


def _names(styles):
    """The legend of a section: the color and marker of each provider."""
    items = []
    for name, (color, filled) in styles.items():
        fill = color if filled else "#fff"
        items.append(
            f'<li><svg viewBox="0 0 32 14"><path d="M0 7H32" stroke="{color}" stroke-width="2"/>'
            f'<circle cx="16" cy="7" r="5" fill="{fill}" stroke="{color}" stroke-width="2"/></svg>'
            f"{html.escape(name)}</li>"
        )
    return f'<ul class="names">{"".join(items)}</ul>'
