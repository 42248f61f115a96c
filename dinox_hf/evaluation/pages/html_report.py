"""report.html: the text of report.md as one file that opens without a network, figures inside.

Only the Markdown that our reports are made of is known: headings, paragraphs, lists, tables, figures, **bold**,
*italics*, `code` and [links](https://…).
"""

import base64
import html
import re
from pathlib import Path

_FIGURE = re.compile(r"!\[(?P<caption>[^\]]*)\]\((?P<path>[^)]+)\)")
_NUMBER = re.compile(r"[+−-]?\d[\d.,]*( ?(%|mm|px))?|[+-]?\d[\d.]*( to |–)[+-]?\d[\d.]*|–")
_MIME = {".svg": "image/svg+xml", ".png": "image/png"}
_CSS = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #5c6570; --page: #ffffff; --line: #d9dee4; --band: #f5f7f9;
  --link: #0060a0; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --soft: #a3adb8; --page: #14181d; --line: #39424c;
  --band: #1c2229; --link: #7fc1f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 2.6rem; padding-top: .5rem;
  border-top: 1px solid var(--line); font-size: 1.3rem; } h3 { margin-top: 1.8rem; font-size: 1.05rem; }
p, li { max-width: 48rem; } a { color: var(--link); }
nav { margin: 1.2rem 0; padding: .7rem 1rem; border: 1px solid var(--line); border-radius: 6px; }
nav a { margin-right: 1.1rem; white-space: nowrap; }
.scroll { margin: 1rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { border-bottom-width: 2px; white-space: normal; vertical-align: bottom; }
td.number { text-align: right; } tbody tr:nth-child(even) { background: var(--band); }
figure { margin: 1.4rem 0; } figure img { display: block; width: 100%; max-width: 54rem; height: auto; padding: .6rem;
  border: 1px solid var(--line); border-radius: 6px; background: #fff; }
figcaption { max-width: 48rem; margin-top: .5rem; color: var(--soft); font-size: .9rem; }
code { padding: .05em .3em; border-radius: 4px; background: var(--band); font-size: .9em; }
@media print { nav { display: none; } table { font-size: 7.5pt; } figure, table { break-inside: avoid; } }
"""


def html_page(markdown: str, folder: Path) -> str:
    """The page of a report.

    Args:
        markdown: of report.md.
        folder: where report.md lies; its figures are taken into the page, as SVG where there is one.

    Raises:
        ValueError: if a figure of the text is not there, or lies outside the folder.
    """
    blocks = [block.strip("\n") for block in re.split(r"\n{2,}", markdown.strip())]
    title = next((block.removeprefix("# ") for block in blocks if block.startswith("# ")), "Report")
    body, contents, caption = [], [], None
    for block in blocks:
        if block == f"*{caption}*":  # stands beneath its figure already
            continue
        caption = None
        if heading := re.fullmatch(r"(#{1,4}) (.+)", block):
            level, text = len(heading[1]), heading[2]
            anchor = f"part-{len(body)}"
            body.append(f'<h{level} id="{anchor}">{_inline(text)}</h{level}>')
            if level == 2:
                contents.append(f'<a href="#{anchor}">{_inline(text)}</a>')
        elif shown := _FIGURE.fullmatch(block):
            caption = shown["caption"]
            body.append(_figure(caption, folder, shown["path"]))
        elif block.startswith("|"):
            body.append(_table(block.splitlines()))
        elif block.startswith("- "):
            body.append(_list(block.splitlines()))
        else:
            body.append(f"<p>{_inline(block)}</p>")
    after_title = 1 if body and body[0].startswith("<h1") else 0
    body.insert(after_title, f"<nav>{' '.join(contents)}</nav>")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _inline(text: str) -> str:
    """One run of text: escaped first, so that nothing in it can be markup but ours."""
    parts = re.split(r"(`[^`]+`)", html.escape(text))
    for position, part in enumerate(parts):
        if part.startswith("`") and len(part) > 1:
            parts[position] = f"<code>{part[1:-1]}</code>"
            continue
        part = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", part)
        part = re.sub(r"(?<![\w*])\*(?!\s)([^*]+?)(?<!\s)\*(?![\w*])", r"<em>\1</em>", part)
        parts[position] = re.sub(r"\[([^\]]+)\]\((https?://[^)\s]+|#[\w-]+)\)", r'<a href="\2">\1</a>', part)
    return "".join(parts)


def _list(lines: list[str]) -> str:
    items: list[str] = []
    for line in lines:
        if line.startswith("- "):
            items.append(line.removeprefix("- "))
        else:
            items[-1] += " " + line.strip()
    return "<ul>\n" + "\n".join(f"<li>{_inline(item)}</li>" for item in items) + "\n</ul>"


def _table(lines: list[str]) -> str:
    header, _, *rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in header)
    body = "\n".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _cell(text: str) -> str:
    kind = ' class="number"' if _NUMBER.fullmatch(text) else ""
    return f"<td{kind}>{_inline(text)}</td>"


def _figure(caption: str, folder: Path, name: str) -> str:
    path = folder / name
    vector = path.with_suffix(".svg")
    path = vector if vector.is_file() else path
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file() or path.suffix not in _MIME:
        raise ValueError(
            f"Expected the figure {name} of the report as PNG or SVG in {folder}; found none there. "
            f"Run the evaluation again."
        )
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:{_MIME[path.suffix]};base64,{data}"
    return (
        f'<figure><img alt="{html.escape(caption)}" src="{source}">\n'
        f"<figcaption>{_inline(caption)}</figcaption></figure>"
    )
