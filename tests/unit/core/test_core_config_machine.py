"""Any sequence of calls leaves a Config as a plain model of it says."""

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from amplifier_app_api.core.config_manager import ConfigManager
from amplifier_app_api.core.if_match import ConfigChanged
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.storage import Database

T = TypeVar("T")

TEXTS = st.sampled_from([f"bundle:\n  name: {name}\n" for name in ("a", "b", "c")])
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5).filter(
    str.strip
)
TAGS = st.dictionaries(NAMES, NAMES, max_size=3)


@dataclass
class Expected:
    """What the Config should be: its texts in order, and the rest."""

    name: str
    tags: dict[str, str]
    texts: list[str]
    version: int = 1
    stale: set[str] = field(default_factory=set[str])

    @property
    def etag(self) -> str:
        return f'"{len(self.texts)}.{self.version}"'

    def becomes(self, *, name: str | None = None, text: str | None = None, tags: dict[str, str] | None = None) -> None:
        before = (self.name, self.tags, self.texts[-1])
        after = (name or self.name, self.tags if tags is None else tags, text or self.texts[-1])
        if after == before:
            return
        self.stale.add(self.etag)
        self.name, self.tags = after[:2]
        self.version += 1
        if after[2] != before[2]:
            self.texts.append(after[2])


class ConfigMachine(RuleBasedStateMachine):
    configs = Bundle("configs")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.db = Database(Path(self.folder.name) / "app.db")
        self.run(self.db.connect())
        self.manager = ConfigManager(self.db)
        self.expected: dict[str, Expected] = {}

    def teardown(self) -> None:
        self.run(self.db.disconnect())
        self.runner.close()
        self.folder.cleanup()

    def run(self, awaitable: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await awaitable

        return self.runner.run(awaited())

    @rule(target=configs, name=NAMES, text=TEXTS, tags=TAGS)
    def create(self, name: str, text: str, tags: dict[str, str]) -> str:
        config = self.run(self.manager.create_config(name, text, tags=tags))
        self.expected[config.config_id] = Expected(name, tags, [text])
        return config.config_id

    @rule(config_id=configs, name=st.none() | NAMES, text=st.none() | TEXTS, tags=st.none() | TAGS)
    def update(self, config_id: str, name: str | None, text: str | None, tags: dict[str, str] | None) -> None:
        assert self.run(self.manager.update_config(config_id, name, text, tags=tags)) is not None
        self.expected[config_id].becomes(name=name, text=text, tags=tags)

    @rule(config_id=configs, tags=st.dictionaries(NAMES, st.none() | NAMES, max_size=3))
    def patch_tags(self, config_id: str, tags: dict[str, str | None]) -> None:
        assert self.run(self.manager.patch_config(config_id, {"tags": tags})) is not None
        merged = {**self.expected[config_id].tags, **tags}
        self.expected[config_id].becomes(tags={key: value for key, value in merged.items() if value is not None})

    @rule(config_id=configs, back=st.integers(1, 5))
    def revert(self, config_id: str, back: int) -> None:
        texts = self.expected[config_id].texts
        revision = max(1, len(texts) - back)
        assert self.run(self.manager.revert_config(config_id, revision)) is not None
        self.expected[config_id].becomes(text=texts[revision - 1])

    @rule(config_id=configs, data=st.data())
    def be_late(self, config_id: str, data: st.DataObject) -> None:
        stale = sorted(self.expected[config_id].stale)
        if not stale:
            return
        try:
            self.run(self.manager.update_config(config_id, name="late", if_match=data.draw(st.sampled_from(stale))))
        except ConfigChanged as refusal:
            assert refusal.facts == {"etag": self.expected[config_id].etag}
        else:
            raise AssertionError("a stale change was made")

    @rule(config_id=consumes(configs))
    def delete(self, config_id: str) -> None:
        etag = self.expected.pop(config_id).etag
        assert self.run(self.manager.delete_config(config_id, if_match=etag)) is True
        assert self.run(self.manager.get_config(config_id)) is None

    @invariant()
    def everything_is_as_expected(self) -> None:
        items, total = self.run(self.manager.list_configs(200))
        assert total == len(items) == len(self.expected)
        assert [item.updated_at for item in items] == sorted((item.updated_at for item in items), reverse=True)
        for item in items:
            expected = self.expected[item.config_id]
            assert (item.name, item.tags, item.etag) == (expected.name, expected.tags, expected.etag)
            revisions = self.run(self.manager.list_revisions(item.config_id, PageRequest(200)))
            assert revisions is not None
            assert [it.yaml_content for it in reversed(revisions.items)] == expected.texts


TestConfigs = ConfigMachine.TestCase
TestConfigs.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
