from pathlib import Path

from amplifier_app_api.bundles.folders import AllowedFolders
from amplifier_app_api.bundles.prompt import SystemPrompt


def prompt(folder: Path, instruction: str | None = None, **context: Path) -> SystemPrompt:
    return SystemPrompt(instruction, context, AllowedFolders.of(folder))


async def test_files_follow_the_instruction_each_in_its_block(tmp_path: Path) -> None:
    one, two = tmp_path / "one.md", tmp_path / "two.md"
    one.write_text("ONE\n", "utf-8")
    two.write_bytes(b"TWO\r\nTWO")

    assert await prompt(tmp_path, "Be kind.", a=one, b=two).build() == (
        f'Be kind.\n\n---\n\n<context_file paths="a → {one}">\nONE\n\n</context_file>\n\n'
        f'<context_file paths="b → {two}">\nTWO\nTWO\n</context_file>'
    )


async def test_equal_content_stands_once_with_all_its_names(tmp_path: Path) -> None:
    one, two = tmp_path / "one.md", tmp_path / "two.md"
    one.write_text("same", "utf-8")
    two.write_text("same", "utf-8")

    built = await prompt(tmp_path, a=one, b=two).build()

    assert built == f'\n\n---\n\n<context_file paths="a → {one}, b → {two}">\nsame\n</context_file>'


async def test_an_edited_file_counts_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    built = prompt(tmp_path, "I", a=file)

    assert await built.build() == "I"
    file.write_text("new", "utf-8")
    assert "new" in (await built.build() or "")


async def test_without_an_instruction_and_files_there_is_no_prompt(tmp_path: Path) -> None:
    assert await prompt(tmp_path).build() is None
    assert await prompt(tmp_path, a=tmp_path / "missing.md").build() is None
    assert await prompt(tmp_path, "Only words").build() == "Only words"


async def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (tmp_path / "secret.md").write_text("s3cret", "utf-8")
    (allowed / "link.md").symlink_to(tmp_path / "secret.md")
    (allowed / "latin.md").write_bytes(b"caf\xe9")
    (allowed / "large.md").write_text("x" * ((1 << 20) + 1), "utf-8")
    built = prompt(
        allowed,
        "I",
        link=allowed / "link.md",
        latin=allowed / "latin.md",
        large=allowed / "large.md",
        directory=allowed,
        outside=tmp_path / "secret.md",
    )

    assert await built.build() == "I"
    assert list(built.missing()) == ["link", "latin", "large", "directory", "outside"]
