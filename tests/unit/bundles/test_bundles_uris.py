import pytest

from amplifier_app_api.bundles.uris import SourceUri


def test_the_parts_of_a_git_address() -> None:
    uri = SourceUri.parse("git+https://github.com/acme/harbor@feat/x@2?q=1#egg=a&subdirectory=b/c")

    assert (uri.scheme, uri.host, uri.path, uri.ref, uri.subpath) == (
        "git+https",
        "github.com",
        "/acme/harbor",
        "feat/x@2",
        "b/c",
    )
    assert uri.is_git and uri.is_remote


@pytest.mark.parametrize(
    ("text", "ref"), [("git+https://h/o/r", "main"), ("git+https://h/o/r@", ""), ("git+https://h/o/r@v1", "v1")]
)
def test_a_git_address_without_a_ref_means_main(text: str, ref: str) -> None:
    assert SourceUri.parse(text).ref == ref


@pytest.mark.parametrize(
    ("text", "relative"),
    [
        ("./x", True),
        ("../x", True),
        (".", True),
        ("..", True),
        ("~/x", True),
        ("a/b", True),
        ("x.yaml", True),
        ("x.md", True),
        ("file://x", True),
        ("file://./x", True),
        ("foundation", False),
        ("ns:path/x.md", False),
        ("/abs/x.md", False),
        ("file:///abs", False),
        ("git+https://h/o/r", False),
        ("https://h/x.md", False),
        ("s3://b/k", False),
        ("C:\\x", False),
        ("${ROOT}/x", False),
    ],
)
def test_what_can_only_be_found_from_a_folder_is_relative(text: str, relative: bool) -> None:
    assert SourceUri.parse(text).is_relative_path is relative
