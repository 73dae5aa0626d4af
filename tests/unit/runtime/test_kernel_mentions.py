"""Mentions as modules see them."""

from pathlib import Path

from amplifier_app_api.bundles.folders import AllowedFolders
from amplifier_app_api.bundles.mentions import MentionScope
from amplifier_app_api.runtime.kernel.mentions import ContentDeduplicator, MentionResolver


def test_a_module_resolves_what_the_prompt_may_read_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("n", "utf-8")
    scope = MentionScope(folders=AllowedFolders.of(tmp_path), namespaces={"b": tmp_path}, working_dir=tmp_path)
    resolver = MentionResolver(scope)

    assert resolver.resolve("@b:notes.md") == tmp_path / "notes.md"
    assert resolver.resolve("@notes") == tmp_path / "notes.md"
    assert resolver.resolve("@/etc/hostname") is None
    assert resolver.resolve("@b:../x") is None


def test_one_content_is_gathered_once_with_every_path_it_has() -> None:
    gathered = ContentDeduplicator()

    assert gathered.add_file(Path("/a"), "text")
    assert not gathered.add_file(Path("/b"), "text")
    assert gathered.add_file(Path("/c"), "other")

    assert [(file.content, file.paths) for file in gathered.get_unique_files()] == [
        ("text", [Path("/a"), Path("/b")]),
        ("other", [Path("/c")]),
    ]
    assert gathered.is_seen("text") and not gathered.is_seen("new")
    assert gathered.get_known_hashes() == {file.content_hash for file in gathered.get_unique_files()}
