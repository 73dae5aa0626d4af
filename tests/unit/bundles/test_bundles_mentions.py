import os
from pathlib import Path

import pytest

from amplifier_app_api.bundles import mentions
from amplifier_app_api.bundles.folders import AllowedFolders
from amplifier_app_api.bundles.mentions import MentionScope, expand_mentions, mentions_in


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    return folder


@pytest.fixture
def scope(work: Path, bundle: Path) -> MentionScope:
    return MentionScope(folders=AllowedFolders.of(bundle), namespaces={"b": bundle}, working_dir=work)


def test_code_mentions_nothing() -> None:
    text = "@a `@b` @c\n```\n@d\n```\n@e and @a again, me@example.com"

    assert mentions_in(text) == ("@a", "@c", "@e", "@example.com")


@pytest.mark.parametrize(
    "mention",
    ["@../secret.md", "@sub/../../secret.md", "@~/secret.md", "@b:../secret.md", "@link.md", "@b:link.md", "@linked/x"],
)
def test_nothing_outside_can_be_mentioned(
    mention: str, tmp_path: Path, work: Path, bundle: Path, scope: MentionScope
) -> None:
    (tmp_path / "secret.md").write_text("SECRET", "utf-8")
    (tmp_path / "x").write_text("SECRET", "utf-8")
    (work / "sub").mkdir()
    (work / "link.md").symlink_to(tmp_path / "secret.md")
    (bundle / "link.md").symlink_to(tmp_path / "secret.md")
    (work / "linked").symlink_to(tmp_path)

    expansion = expand_mentions(f"see {mention}", scope)

    assert expansion.text == f"see {mention}"
    assert [found.failure for found in expansion.mentioned] == ["not_found"]


def test_an_absolute_path_names_nothing_even_inside(work: Path, scope: MentionScope) -> None:
    (work / "a.md").write_text("A", "utf-8")

    assert scope.resolve(f"@{work}/a.md") is None
    assert scope.resolve("@a") == work / "a.md"
    assert scope.resolve("a.md") is None


def test_a_namespace_that_its_bundle_moved_out_of_its_own_source_is_not_read(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "secret.md").write_text("SECRET", "utf-8")
    scope = MentionScope(folders=AllowedFolders.of(bundle), namespaces={"b": tmp_path})

    assert expand_mentions("@b:secret.md", scope).text == "@b:secret.md"


def test_files_that_mention_each_other_stand_once(work: Path, scope: MentionScope) -> None:
    (work / "a.md").write_text("A @b.md", "utf-8")
    (work / "b.md").write_text("B @a.md", "utf-8")

    expansion = expand_mentions("@a.md and @b.md", scope)

    assert [(list(block.names.values()), block.content) for block in expansion.blocks] == [
        ([["@a.md"]], "A @b.md"),
        ([["@b.md"]], "B @a.md"),
    ]


def test_mentions_are_followed_three_levels_deep(work: Path, scope: MentionScope) -> None:
    for level in range(6):
        (work / f"l{level}.md").write_text(f"level {level} @l{level + 1}.md", "utf-8")

    assert [block.content[:7] for block in expand_mentions("@l0.md", scope).blocks] == [
        "level 0",
        "level 1",
        "level 2",
        "level 3",
    ]


def test_a_folder_is_a_listing_that_is_not_searched_for_mentions(work: Path, scope: MentionScope) -> None:
    (work / "d" / "sub").mkdir(parents=True)
    (work / "d" / "@a.md").write_text("x", "utf-8")
    (work / "a.md").write_text("never", "utf-8")
    (work / "empty").mkdir()

    blocks = expand_mentions("@d @empty", scope).blocks

    assert [block.content for block in blocks] == [
        f"Directory: {work}/d\n\n  DIR  sub\n  FILE @a.md",
        f"Directory: {work}/empty\n\n  (empty directory)",
    ]


def test_what_is_no_text_or_no_file_is_left_out(work: Path, scope: MentionScope) -> None:
    (work / "bin.md").write_bytes(b"\xff\xfe")
    os.mkfifo(work / "pipe")

    expansion = expand_mentions("@bin.md @pipe", scope)

    assert expansion.text == "@bin.md @pipe"
    assert [found.failure for found in expansion.mentioned] == ["unreadable", "unreadable"]


def test_a_listing_and_the_number_of_files_have_a_bound(
    work: Path, scope: MentionScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mentions, "MAX_LISTED", 2)
    monkeypatch.setattr(mentions, "MAX_FILES", 2)
    for name in "abc":
        (work / f"{name}.md").write_text(name, "utf-8")

    listing = expand_mentions("@./", scope).blocks[0].content
    expansion = expand_mentions("@a @b @c", scope)

    assert listing.endswith("\n  (and more)")
    assert listing.count("FILE") == 2
    assert [found.failure for found in expansion.mentioned] == [None, None, "too_much"]


def test_a_named_context_file_can_be_mentioned(bundle: Path, work: Path) -> None:
    (bundle / "g.md").write_text("G", "utf-8")
    scope = MentionScope(
        folders=AllowedFolders.of(bundle),
        namespaces={"b": bundle},
        context={"b:guide": bundle / "g.md", "b:gone": bundle / "gone.md"},
        working_dir=work,
    )

    expansion = expand_mentions("@b:guide @b:gone", scope)

    assert expansion.text == f'<context_file paths="@b:guide → {bundle}/g.md">\nG\n</context_file>\n\n@b:guide @b:gone'
    assert [found.failure for found in expansion.mentioned] == [None, "not_found"]


def test_without_a_working_directory_only_bundles_are_reached(bundle: Path) -> None:
    (bundle / "a.md").write_text("A", "utf-8")
    scope = MentionScope(folders=AllowedFolders.of(bundle), namespaces={"b": bundle})

    assert [found.failure for found in expand_mentions("@a.md @b:a.md", scope).mentioned] == ["not_found", None]
