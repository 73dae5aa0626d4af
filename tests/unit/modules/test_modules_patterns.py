import pytest

from amplifier_app_api.modules.tools.patterns import Pattern
from amplifier_app_api.modules.tools.refusals import Refused


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.py", "a.py", True),
        ("*.py", "src/deep/a.py", True),
        ("*.py", "a.pyi", False),
        ("src/*.py", "src/a.py", True),
        ("src/*.py", "src/deep/a.py", False),
        ("src/**/*.py", "src/a.py", True),
        ("src/**/*.py", "src/one/two/a.py", True),
        ("src/**/*.py", "lib/src/a.py", False),
        ("**/src/*.py", "lib/src/a.py", True),
        ("**", "anything/at/all", True),
        ("src/**", "src/one/two", True),
        ("./src/*", "src/a", True),
        ("*.{py,md}", "docs/a.md", True),
        ("src/**/**/a.py", "src/a.py", True),
        ("src/**/**/a.py", "src/one/two/a.py", True),
        ("{src,lib}/**/[ab].py", "lib/x/b.py", True),
        ("{src,lib}/**/[ab].py", "lib/x/c.py", False),
        ("a{b,c{d,e}}", "ace", True),
        ("a{b", "a{b", True),
        ("?.py", "ab.py", False),
        ("*.PY", "a.py", False),
        (".*", ".env", True),
    ],
)
def test_a_pattern_means_these_paths(pattern: str, path: str, matches: bool) -> None:
    assert Pattern(pattern).matches(path) is matches


def test_a_pattern_that_would_take_for_ever_does_not() -> None:
    stars = Pattern("**/" * 100 + "*a" * 100 + "b")

    assert not stars.matches("/".join(["a" * 200] * 100))


@pytest.mark.parametrize("pattern", ["{a,b}" * 7, "x" * 1001])
def test_a_pattern_has_a_bound(pattern: str) -> None:
    with pytest.raises(Refused):
        Pattern(pattern)
