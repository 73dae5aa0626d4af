from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from amplifier_core.events import SESSION_RESUME, SESSION_START
from amplifier_core.llm_errors import ConfigurationError
from amplifier_core.models import HookResult, ToolResult
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.tools import skills_files


class Shelf:
    """A session's folder with skills, and its tool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coordinator = MockCoordinator()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.coordinator.register_capability("session.working_dir", str(folder))

    async def mount(self, **options: Any) -> None:
        self.close = await load_mount("tool-skills")(self.coordinator, options)
        for event in (await self.coordinator.collect_contributions("observability.events"))[0]:
            self.coordinator.hooks.register(event, self._hear, name=f"test:{event}")

    def write(self, path: str, text: str) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def skill(self, path: str, name: str, description: str = "does it", body: str = "Do it.") -> Path:
        return self.write(f"{path}/SKILL.md", f"---\nname: {name}\ndescription: {description}\n---\n\n{body}\n")

    @property
    def tool(self) -> Any:
        return self.coordinator.get("tools", "load_skill")

    async def call(self, **arguments: Any) -> ToolResult:
        return await self.tool.execute(arguments)

    async def say(self, **arguments: Any) -> Any:
        result = await self.call(**arguments)
        assert result.success, result.output
        return result.output

    async def refusal(self, **arguments: Any) -> str:
        result = await self.call(**arguments)
        assert not result.success
        return str(result.output)

    async def _hear(self, event: str, data: dict[str, Any]) -> HookResult:
        added = ("timestamp", "session_id", "parent_id")
        self.events.append((event, {key: data[key] for key in data if key not in added}))
        return HookResult(action="continue")


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    folder = tmp_path / "session"
    folder.mkdir()
    made = Shelf(folder)
    yield made
    await made.close()


async def test_skills_are_listed_searched_and_loaded(shelf: Shelf) -> None:
    shelf.skill(".amplifier/skills/tests", "writing-tests", "How tests are written", "# Tests\n\nFirst.")
    shelf.skill(".amplifier/skills/deep/down", "docs", "How pages are written")
    await shelf.mount()

    tests = {"name": "writing-tests", "description": "How tests are written"}
    assert await shelf.say(list=True) == {
        "skills": [{"name": "docs", "description": "How pages are written"}, tests],
    }
    assert await shelf.say(search="TESTS") == {"skills": [tests]}
    assert await shelf.say(info="writing-tests") == {**tests, "source": ".amplifier/skills"}
    assert await shelf.say(skill_name="writing-tests") == {
        "skill_name": "writing-tests",
        "content": "# Tests\n\nFirst.",
        "skill_directory": ".amplifier/skills/tests",
        "files": [],
    }


@pytest.mark.parametrize("beginning", [SESSION_START, SESSION_RESUME])
async def test_the_description_names_the_skills_from_the_beginning(shelf: Shelf, beginning: str) -> None:
    shelf.skill("skills/a", "one", "x" * 500)
    await shelf.mount(skills_dirs=["skills"])
    await shelf.coordinator.hooks.emit(beginning, {})

    assert shelf.tool.description.endswith("\n\nSkills:\n- one: " + "x" * 293 + " […]")
    facts = {"skill_count": 1, "skill_names": ["one"], "sources": ["skills"], "problems": []}
    assert shelf.events == [("skills:discovered", facts)]


async def test_a_description_of_very_many_skills_ends_somewhere(shelf: Shelf) -> None:
    for number in range(100):
        shelf.skill(f"skills/{number}", f"skill-{number:03}", "x" * 1_000)
    await shelf.mount(skills_dirs="skills")
    await shelf.say(list=True)

    assert shelf.tool.description.endswith("[61 more: list shows them]")


async def test_loading_is_told(shelf: Shelf) -> None:
    shelf.write("skills/a/SKILL.md", "---\nname: a\ndescription: b\nversion: 1.2\nlicense: MIT\n---\nText")
    await shelf.mount(skills_dir="skills")

    await shelf.say(skill_name="a")

    facts = {"skill_name": "a", "source": "skills", "content_length": 4, "version": "1.2"}
    assert shelf.events[-1] == ("skill:loaded", facts)


async def test_a_skill_has_further_files(shelf: Shelf) -> None:
    shelf.skill("skills/a", "one")
    shelf.write("skills/a/more/steps.md", "step by step")
    shelf.write("skills/b.md", "not of this skill")
    await shelf.mount(skills_dirs=["skills"])

    assert (await shelf.say(skill_name="one"))["files"] == ["more/steps.md"]
    assert await shelf.say(skill_name="one", file="more/steps.md") == {
        "skill_name": "one",
        "file": "more/steps.md",
        "content": "step by step",
    }
    assert await shelf.refusal(skill_name="one", file="../b.md") == "../b.md is not below the skill's folder"


@pytest.mark.parametrize("path", ["../../../secret", "/etc/passwd", "link"])
async def test_no_file_of_a_skill_leads_out(shelf: Shelf, path: str) -> None:
    (shelf.folder.parent / "secret").write_text("secret")
    shelf.skill("skills/a", "one")
    (shelf.folder / "skills/a/link").symlink_to(shelf.folder.parent / "secret")
    await shelf.mount(skills_dirs=["skills"])

    refusal = await shelf.refusal(skill_name="one", file=path)

    assert "lies outside the folders" in refusal or "does not exist" in refusal


async def test_a_skill_that_is_new_is_found_by_its_name(shelf: Shelf) -> None:
    await shelf.mount()
    assert await shelf.refusal(skill_name="late") == "There is no skill 'late'. Skills: none"

    shelf.skill(".amplifier/skills/late", "late")

    assert (await shelf.say(skill_name="late"))["content"] == "Do it."


async def test_of_two_skills_with_one_name_the_first_counts(shelf: Shelf) -> None:
    shelf.skill("first/a", "one", body="first")
    shelf.skill("second/a", "one", body="second")
    await shelf.mount(skills_dirs=["first", "second"])

    assert (await shelf.say(skill_name="one"))["content"] == "first"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no front matter", "it has no front matter"),
        ("---\nname: a\n", "its front matter does not end"),
        ("---\nname: a\n---\n", "it has no name or no description"),
        ("---\n[1]\n---\n", "its front matter is no mapping"),
        ("---\na: b: c\n---\n", "its front matter is not YAML"),
        ("---\na: &a [1]\nb: [*a, *a]\n---\n", "its front matter has aliases or is nested too deep"),
        ("---\na: " + "[" * 50 + "]" * 50 + "\n---\n", "its front matter has aliases or is nested too deep"),
        ("---\nname: " + "x" * 20_000 + "\n---\n", "its front matter has more than 16,384 characters"),
        ("---\nname: " + "x" * 65 + "\ndescription: y\n---\n", "its name has more than 64 characters"),
        ("\0", "skills/a/SKILL.md is a binary file"),
    ],
)
async def test_what_is_no_skill_is_a_problem_and_no_more(shelf: Shelf, text: str, problem: str) -> None:
    shelf.write("skills/a/SKILL.md", text)
    shelf.skill("skills/b", "good")
    await shelf.mount(skills_dirs=["skills"])

    assert await shelf.say(list=True) == {
        "skills": [{"name": "good", "description": "does it"}],
        "problems": [f"skills/a/SKILL.md: {problem}"],
    }


async def test_without_a_name_a_skill_is_called_like_its_folder(shelf: Shelf) -> None:
    shelf.write("skills/pages/SKILL.md", "---\ndescription: b\n---\nText")
    await shelf.mount(skills_dirs=["skills"])

    assert (await shelf.say(skill_name="pages"))["content"] == "Text"


async def test_skills_of_a_bundle_are_named_by_mention(shelf: Shelf, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    other = Shelf(bundle)
    other.skill("skills/a", "brought")
    other.write("skills/a/more.md", "more")

    class Resolver:
        def resolve(self, mention: str) -> Path | None:
            return bundle / "skills" if mention == "@ns:skills" else None

    await shelf.mount(skills_dirs=["@ns:skills", "@ns:nowhere"])
    shelf.coordinator.register_capability("mention_resolver", Resolver())

    assert await shelf.say(skill_name="brought") == {
        "skill_name": "brought",
        "content": "Do it.",
        "skill_directory": "@ns:skills/a",
        "files": ["more.md"],
    }
    assert (await shelf.say(skill_name="brought", file="more.md"))["content"] == "more"


async def test_long_skills_are_cut(shelf: Shelf) -> None:
    shelf.skill("skills/a", "one", body="x" * 5_000)
    await shelf.mount(skills_dirs=["skills"], max_content_size=1_000)

    content = (await shelf.say(skill_name="one"))["content"]

    assert content == "x" * 1_000 + "\n[4,000 characters left out]"


async def test_no_more_skills_are_known_than_can_be_told(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skills_files, "MAX_SKILLS", 3)
    for number in range(5):
        shelf.skill(f"skills/{number}", f"skill-{number}")
    await shelf.mount(skills_dirs=["skills"])

    told = await shelf.say(list=True)

    assert [skill["name"] for skill in told["skills"]] == ["skill-0", "skill-1", "skill-2"]
    assert told["problems"] == ["only the first 3 skills are known"]


@pytest.mark.parametrize("outside", ["/etc", "../beside"])
async def test_folders_outside_those_of_the_host_are_refused(shelf: Shelf, outside: str) -> None:
    shelf.coordinator.register_capability("host.file_limits", {"readable": [], "writable": []})
    shelf.skill(".amplifier/skills/a", "own")
    await shelf.mount()

    assert (await shelf.say(skill_name="own"))["content"] == "Do it."
    with pytest.raises(ConfigurationError, match=f"option 'skills_dirs' names {outside}, outside the folders"):
        await shelf.mount(skills_dirs=[outside])


async def test_a_link_makes_no_folder_the_sessions_own(shelf: Shelf, tmp_path: Path) -> None:
    Shelf(tmp_path / "beside").skill("skills/a", "foreign")
    (shelf.folder / "skills").symlink_to(tmp_path / "beside/skills")
    await shelf.mount(skills_dirs=["skills"])

    assert await shelf.say(list=True) == {"skills": []}


async def test_asking_for_nothing_is_refused(shelf: Shelf) -> None:
    await shelf.mount()

    assert await shelf.refusal() == "Say which skill (skill_name), or list or search them"
