from pathlib import Path

from amplifier_app_api.bundles.builtin import BUILTIN_FOLDER
from amplifier_app_api.bundles.bundle import Bundle
from amplifier_app_api.bundles.folders import AllowedFolders
from amplifier_app_api.bundles.prompt import SystemPrompt


def prompt(folder: Path, instruction: str | None = None, **context: Path) -> SystemPrompt:
    bundle = Bundle(name="b", instruction=instruction, context=context, namespaces={"b": folder})
    return SystemPrompt.of(bundle, AllowedFolders.of(folder), 1 << 20)


async def text_of(built: SystemPrompt, working_dir: Path | None = None) -> str | None:
    return (await built.build(working_dir)).text


async def test_files_follow_the_instruction_each_in_its_block(tmp_path: Path) -> None:
    one, two = tmp_path / "one.md", tmp_path / "two.md"
    one.write_text("ONE\n", "utf-8")
    two.write_bytes(b"TWO\r\nTWO")

    assert await text_of(prompt(tmp_path, "Be kind.", a=one, b=two)) == (
        f'Be kind.\n\n---\n\n<context_file paths="a → {one}">\nONE\n\n</context_file>\n\n'
        f'<context_file paths="b → {two}">\nTWO\nTWO\n</context_file>'
    )


async def test_equal_content_stands_once_with_all_its_names(tmp_path: Path) -> None:
    one, two = tmp_path / "one.md", tmp_path / "two.md"
    one.write_text("same", "utf-8")
    two.write_text("same", "utf-8")

    built = await text_of(prompt(tmp_path, a=one, b=two))

    assert built == f'\n\n---\n\n<context_file paths="a → {one}, b → {two}">\nsame\n</context_file>'


async def test_an_edited_file_counts_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    built = prompt(tmp_path, "I", a=file)

    assert await text_of(built) == "I"
    file.write_text("new", "utf-8")
    assert "new" in (await text_of(built) or "")


async def test_without_an_instruction_and_files_there_is_no_prompt(tmp_path: Path) -> None:
    assert await text_of(prompt(tmp_path)) is None
    assert await text_of(prompt(tmp_path, a=tmp_path / "missing.md")) is None
    assert await text_of(prompt(tmp_path, "Only words")) == "Only words"


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

    assert await text_of(built) == "I"
    assert list(built.missing()) == ["link", "latin", "large", "directory", "outside"]


async def test_mentions_follow_the_context_files_and_are_followed_themselves(tmp_path: Path) -> None:
    bundle, work = tmp_path / "bundle", tmp_path / "work"
    bundle.mkdir()
    work.mkdir()
    (bundle / "rules.md").write_text("rules, see @b:more.md", "utf-8")
    (bundle / "more.md").write_text("more", "utf-8")
    (bundle / "guide.md").write_text("not followed: @b:never.md", "utf-8")
    (bundle / "never.md").write_text("never", "utf-8")
    (work / "plan.md").write_text("plan", "utf-8")
    built = prompt(bundle, "Keep @b:rules.md and @plan, ask @b:gone.md", guide=bundle / "guide.md")

    result = await built.build(work)

    assert result.text == (
        "Keep @b:rules.md and @plan, ask @b:gone.md\n\n---\n\n"
        f'<context_file paths="guide → {bundle}/guide.md">\nnot followed: @b:never.md\n</context_file>\n\n'
        f'<context_file paths="@b:rules.md → {bundle}/rules.md">\nrules, see @b:more.md\n</context_file>\n\n'
        f'<context_file paths="{bundle}/more.md">\nmore\n</context_file>\n\n'
        f'<context_file paths="@plan → {work}/plan.md">\nplan\n</context_file>'
    )
    assert [(failed.mention, failed.failure) for failed in result.failed] == [("@b:gone.md", "not_found")]
    assert list(built.lost()) == ["@b:gone.md"]


async def test_what_a_session_tells_of_its_prompt_is_only_what_is_new(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("A", "utf-8")
    (tmp_path / "b.md").write_text("B", "utf-8")
    built = prompt(tmp_path, "@b:a.md and @b:b.md")
    seen: set[str] = set()

    first = (await built.build()).event(seen, turn=1)
    again = (await built.build()).event(seen, turn=2)
    (tmp_path / "b.md").write_text("changed", "utf-8")
    changed = (await built.build()).event(seen, turn=3)

    assert first is not None and changed is not None
    assert [found["mention"] for found in first["resolutions"]] == ["@b:a.md", "@b:b.md"]
    assert again is None
    assert [found["mention"] for found in changed["resolutions"]] == ["@b:b.md"]
    assert (changed["deduplicated_count"], changed["turn"]) == (1, 3)


async def test_a_prompt_without_context_and_mentions_reads_nothing(tmp_path: Path) -> None:
    built = prompt(tmp_path / "there-is-no-such-folder", "Mail me@example and use `@b:code.md`.")

    assert built.mentions == ("@example",)
    assert prompt(tmp_path, "Use `@b:code.md`.").mentions == ()
    assert await text_of(prompt(tmp_path, "Plain.")) == "Plain."


SHARED = "foundation:context/shared/common-system-base.md"


async def test_files_that_ship_with_the_server_are_read_once(tmp_path: Path) -> None:
    foundation = BUILTIN_FOLDER / "foundation"
    bundle = Bundle(name="b", instruction=f"@{SHARED}", namespaces={"foundation": foundation})
    built = SystemPrompt.of(bundle, AllowedFolders.of(foundation), 1 << 20)

    first = await built.build(tmp_path)

    assert first.text is not None and "<context_file" in first.text
    assert await built.build(tmp_path / "other") is first


async def test_what_a_working_directory_may_bring_is_looked_for_every_time(tmp_path: Path) -> None:
    foundation = BUILTIN_FOLDER / "foundation"
    bundle = Bundle(name="b", instruction=f"@{SHARED} and @notes.md", namespaces={"foundation": foundation})
    built = SystemPrompt.of(bundle, AllowedFolders.of(foundation), 1 << 20)

    assert "REMEMBER" not in (await text_of(built, tmp_path) or "")
    (tmp_path / "notes.md").write_text("REMEMBER")
    assert "REMEMBER" in (await text_of(built, tmp_path) or "")
