"""README and CHANGELOG become pages of the site, and paths that lie outside `docs/` are named, not linked."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the two pages that lie at the top of the checkout, and the pictures that they show."""
    for name, page in (("README.md", "index.md"), ("CHANGELOG.md", "changelog.md")):
        text = (ROOT / name).read_text()
        files.append(File.generated(config, page, content=seen_from_docs(text)))
        for target in pictures_outside(text):
            files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Name files of the checkout that are no pages; the site does not hold them."""
    return LINK.sub(lambda link: link["text"] if link["target"].startswith("../") else link[0], markdown)


def seen_from_docs(text: str) -> str:
    """Links of a page at the top of the checkout, as they read from `docs/`."""

    def moved(link: re.Match) -> str:
        target, anchor = link["target"], link["anchor"] or ""
        if "://" in target or link["image"]:
            # A picture in docs/ lies beside the page there; any other one is added to the site under its own path.
            return f"{link['image']}[{link['text']}]({target.removeprefix('docs/')}{anchor})"
        if target.startswith("docs/"):
            return f"[{link['text']}]({target.removeprefix('docs/')}{anchor})"
        return link["text"]

    return LINK.sub(moved, text)


def pictures_outside(text: str) -> list[str]:
    """Pictures of a page at the top of the checkout that do not lie in `docs/`."""
    targets = [link["target"] for link in LINK.finditer(text) if link["image"]]
    return sorted({target for target in targets if "://" not in target and not target.startswith("docs/")})
