import pytest

from amplifier_app_api.modules.tools.web_text import MAX_PARTS, text_of

BASE = "https://example.test/folder/page"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("plain", "plain"),
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("<p>one<br>two", "one\ntwo"),
        ("  many \n  spaces ", "many spaces"),
        ("<h2>Title</h2>text", "## Title\n\ntext"),
        ("<ul><li>one<li>two<ul><li>deep</ul></ul>end", "- one\n- two\n\n  - deep\n\nend"),
        ("<ol><li>one</li><li>two</li></ol>", "1. one\n2. two"),
        ("a <b>bold</b> word", "a bold word"),
        ("<a href='other'>link</a>", "[link](https://example.test/folder/other)"),
        ('<a href="https://b.test/?a=1&amp;b=2">x</a>', "[x](https://b.test/?a=1&b=2)"),
        ("<a href='javascript:alert(1)'>x</a> <a href='#top'>y</a>", "x y"),
        ("<pre>  a\n    b\n</pre>", "```\n  a\n    b\n\n```"),
        ("<table><tr><th>a<th>b<tr><td>1<td>2</table>", "a | b\n1 | 2"),
        ("<img src=x alt='A picture'>", "[image: A picture]"),
        ("a<script>if (a < b) alert('</p>')</script>b", "ab"),
        ("a<style>p > b {}</style><noscript><p>no</p></noscript>b", "ab"),
        ("a<svg><svg></svg><text>x</text></svg>b<svg/>c", "abc"),
        ("a<!-- <p>hidden</p> -->b", "ab"),
        ("<!doctype html><?xml?>a", "a"),
        ("1 &lt; 2 &amp;amp; 3 &#65; &nbsp;", "1 < 2 &amp; 3 A"),
        ("a < b and c > d", "a < b and c > d"),
        ("<p title='a > b'>x", "x"),
        ("</p></ul></li></a>x", "x"),
        ("a <!-- never closed", "a never closed"),
        ("<p", "<p"),
        ("a<script>never closed <p>text", "a"),
        ("&#" + "9" * 5000 + ";", "&#" + "9" * 5000 + ";"),
    ],
)
def test_a_page_has_this_text(page: str, text: str) -> None:
    assert text_of(page, BASE).text == text


def test_a_page_of_very_many_parts_is_cut() -> None:
    page = text_of("<b>" * MAX_PARTS + "the end", BASE)

    assert (page.text, page.complete) == ("", False)
    assert text_of("<b>text", BASE).complete


def test_the_title_is_apart_from_the_text() -> None:
    page = text_of("<head><title>\n A &amp;\n B </title><body>text", BASE)

    assert (page.title, page.text) == ("A & B", "text")
