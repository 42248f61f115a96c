import base64
import re
from html.parser import HTMLParser

import pytest

from dinox_hf.evaluation.pages.html_report import html_page

TEXT = """# Evaluation of <run> & more

A *word*, **two words**, `a_b * c` and [a source](https://doi.org/10.1). 2 * 3 * 4 stays.

![What <is> shown](figures/a.png)

*What <is> shown*

## Numbers

- first item
  goes on
- second **item**

| map | AUC | interval |
| --- | --- | --- |
| cls | +0.500 | 0.400 to 0.600 |
| size only | – | none |
"""


@pytest.fixture
def page(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"raster")
    (tmp_path / "figures" / "a.svg").write_text("<svg/>")
    return html_page(TEXT, tmp_path)


class Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attrs):
        self.loads += [
            value for name, value in attrs if name in ("src", "srcset", "data") or (tag, name) == ("link", "href")
        ]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing_from_outside(page):
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.loads and all(value.startswith("data:") for value in parser.loads)
    assert "<script" not in page and "@import" not in page and "url(" not in page


def test_the_vector_file_is_taken_in_with_its_caption_once(page):
    data = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', page)[1]
    assert base64.b64decode(data) == b"<svg/>"
    assert page.count("What &lt;is&gt; shown") == 2  # caption and alternative text
    assert "<figcaption>What &lt;is&gt; shown</figcaption>" in page


def test_text_is_escaped_and_marked_up(page):
    assert '<h1 id="part-0">Evaluation of &lt;run&gt; &amp; more</h1>' in page
    assert "A <em>word</em>, <strong>two words</strong>, <code>a_b * c</code>" in page
    assert '<a href="https://doi.org/10.1">a source</a>. 2 * 3 * 4 stays.' in page
    assert "<li>first item goes on</li>\n<li>second <strong>item</strong></li>" in page


def test_every_cell_of_a_table_is_there_and_numbers_stand_right(page):
    assert "<tr><th>map</th><th>AUC</th><th>interval</th></tr>" in page
    number = '<td class="number">'
    assert f"<tr><td>cls</td>{number}+0.500</td>{number}0.400 to 0.600</td></tr>" in page
    assert f"<tr><td>size only</td>{number}–</td><td>none</td></tr>" in page


@pytest.mark.parametrize("name", ["figures/missing.png", "../secret.png"])
def test_a_figure_that_is_not_of_the_report_is_refused(name, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"x")
    folder = tmp_path / "report"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"figure .*png of the report.*found none there"):
        html_page(f"![a]({name})", folder)
