"""Documents, sources and mentions that nobody would write, against everything that reads them.

    python tests/property/fuzz.py --minutes 60 [--seed 7]

Whatever comes in, a reader answers or refuses with one of our errors; nothing it names outside its folders is read;
inputs stay as they are. A round is known by its number and the seed: both are in the message of what it finds, and
`--seed 7 --round 4711` repeats it.
"""

import argparse
import asyncio
import copy
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from amplifier_app_api.bundles.agents import agent_of
from amplifier_app_api.bundles.bundle import Bundle
from amplifier_app_api.bundles.compose import compose
from amplifier_app_api.bundles.delegation import child_plan
from amplifier_app_api.bundles.document import (
    Document,
    DocumentLimits,
    dump_yaml,
    parse_document,
    parse_markdown,
    split_front_matter,
)
from amplifier_app_api.bundles.fetched import Fetched, Unresolved
from amplifier_app_api.bundles.includes import load_source
from amplifier_app_api.bundles.locating import Sources
from amplifier_app_api.bundles.mentions import mentions_in
from amplifier_app_api.bundles.prepare import PreparedBundle, prepare
from amplifier_app_api.bundles.sources.remote import read_remote
from amplifier_app_api.bundles.uris import SourceUri
from amplifier_app_api.bundles.validation import check_storable_document
from amplifier_app_api.bundles.values import same
from amplifier_app_api.bundles.variables import VariableScope, expand
from amplifier_app_api.errors import AppError

VECTORS = Path(__file__).parents[1] / "contract" / "vectors"
CANARY = "canary-a81f"
LIMITS = DocumentLimits(max_bytes=1 << 16)

TOKENS = (
    *("---\n", "...\n", "- ", ": ", "? ", "&a ", "*a", "<<: *a\n", "!!int ", "!!python/name:os.system ", "|\n", ">-\n"),
    *("{", "}", "[", "]", ",", "\t", "\r\n", "\n", "\n  ", "#", "'", '"', "\\", "\ufeff", "\u2028", "\x85", "é", "日"),
    *("null", "~", "true", "on", "0x1F", "1_000", "12:30:45", "2024-05-06", "2024-99-99", ".nan", "-.inf", "1e999"),
    *(
        "bundle:",
        "includes:",
        "session:",
        "tools:",
        "providers:",
        "hooks:",
        "agents:",
        "context:",
        "spawn:",
        "include:",
    ),
    *("module:", "source:", "config:", "name:", "meta:", "id:", "namespace_root:", "b", "top", "b:parts/x", "./x.yaml"),
    *(
        "${A}",
        "${A:-b}",
        "${A:?why}",
        "$${",
        "${",
        "@b:c.md",
        "@../secret.md",
        "@~root/x",
        "@/etc/passwd",
        "@a@b.c",
    ),
    *("../", "..", "/", "//", "file://", "git+https://h/r@main", "#subdirectory=", "zip+file://", "https://", "C:\\x"),
    *("`", "```\n", "%2e%2e", "%00", "\x00", "\ud800", "0" * 40, "[" * 70, "a" * 300),
)


REFERENCES = (
    *(
        "b",
        "r",
        "x",
        "nobody",
        "b:parts/x",
        "b:parts/x.yaml",
        "b:a",
        "b:c.md",
        "b:..",
        "b:../../secret.md",
        "b:link.md",
    ),
    *(
        "b:up/secret.md",
        "<root>/x.yaml",
        "<root>/link.md",
        "file://<root>/b#subdirectory=parts/x.yaml",
        "file://<root>/b",
    ),
    *("<root>/b/../../secret.md", "git+https://h/r@main#subdirectory=parts/x.yaml", "git+https://h/r#subdirectory=up"),
    *(
        "zip+https://h/r.zip",
        "https://h/b.md",
        "foundation",
        "foundation:bundle",
        "c.md",
        "link.md",
        "/etc/passwd",
        "~/x",
    ),
)
SOURCES = ("<root>/b", "git+https://h/r@main", "${A}", "${NONE}", "file://<root>/b/up", "name", "https://h/x.py")
CONFIGS: tuple[Any, ...] = (
    None,
    {},
    {"a": "${A}"},
    {"a": ["${A:-x}", {"b": "$${A}"}]},
    {"a": "${NONE:?why}"},
    {"l": [1]},
)


class Broken(AssertionError):
    """Something a reader must never do."""


class Fuzzer:
    """Rounds on a folder of its own, which holds bundles to include and one file that must not be read."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.roots = folder / "roots"
        self.corpus = list(_corpus())
        self._outside = folder / "secret.md"
        self._write_files()

    def round(self, number: int) -> str:
        """Run one round and say which; `Broken` or whatever a reader let escape, with how to repeat it."""
        chance = random.Random(f"{self.seed}/{number}")
        check = chance.choice(CHECKS)
        try:
            check(self, chance)
        except AppError:
            pass
        except Exception as error:
            raise Broken(f"--seed {self.seed} --round {number} ({check.__name__}): {error!r}") from error
        return check.__name__

    def text(self, chance: random.Random) -> str:
        """A document that was one once."""
        text = chance.choice(self.corpus)
        for _ in range(chance.randrange(1, 8)):
            at, to = sorted(chance.randrange(len(text) + 1) for _ in range(2))
            match chance.randrange(5):
                case 0:
                    text = text[:at] + text[to:]
                case 1:
                    text = text[:to] + text[at:]
                case 2:
                    other = chance.choice(self.corpus)
                    text = text[:at] + other[chance.randrange(len(other) + 1) :]
                case _:
                    text = text[:at] + chance.choice(TOKENS) + text[at:]
        return text.replace("<root>", str(self.roots))[: 1 << 16]

    def bundle_text(self, chance: random.Random) -> str:
        """A document every section of which has its shape, with names and values that fit together or do not."""

        def some(make: Callable[[], Any]) -> list[Any]:
            return [make() for _ in range(chance.randrange(3))]

        def module() -> dict[str, Any]:
            entry: dict[str, Any] = {"module": chance.choice(("t", "u", "p"))}
            for key, values in {"source": SOURCES, "id": ("one", "two"), "config": CONFIGS}.items():
                if chance.random() < 0.4:
                    entry[key] = chance.choice(values)
            return entry

        def agent() -> dict[str, Any]:
            return {"tools": some(module), "agents": chance.choice(("all", "none", ["b:a"])), "instruction": "@b:c.md"}

        sections: dict[str, Any] = {
            "bundle": {"name": chance.choice(("top", "b", "x"))},
            "includes": some(lambda: chance.choice(REFERENCES)),
            "session": {"orchestrator": chance.choice(("loop", module())), "context": chance.choice(("c", module()))},
            "providers": some(module),
            "tools": some(module),
            "hooks": some(module),
            "agents": {"include": some(lambda: chance.choice(REFERENCES)), chance.choice(("own", "b:a")): agent()},
            "context": {"include": some(lambda: chance.choice(REFERENCES)), "named": chance.choice(REFERENCES)},
            "spawn": {"tools": some(module), "exclude_tools": some(lambda: "t")},
        }
        kept = {name: sections[name] for name in sections if name == "bundle" or chance.random() < 0.7}
        body = " ".join(f"@{chance.choice(REFERENCES)}" for _ in range(3))
        return f"---\n{dump_yaml(kept)}---\n{body}\n".replace("<root>", str(self.roots))

    def sources(self) -> Sources:
        return Sources(
            names={"b": str(self.roots / "b/bundle.md"), "r": "git+https://h/r@main"},
            roots=(self.roots,),
            environment={"A": "value"},
            limits=LIMITS,
            fetch=self._fetch,
        )

    def _fetch(self, uri: str, pin: str | None) -> Fetched:
        read_remote(uri)
        parsed = SourceUri.parse(uri)
        path = self.roots / "b" / parsed.subpath
        if "\x00" in parsed.subpath or not path.resolve().is_relative_to(self.roots / "b") or not path.exists():
            raise Unresolved("bundle_not_found", "It is not there.")
        return Fetched(uri=uri, resolved=uri, path=path, source_root=self.roots / "b")

    def _write_files(self) -> None:
        self._outside.write_text(CANARY, "utf-8")
        for name, text in {
            "b/bundle.md": "---\nbundle: {name: b}\nagents: {include: ['b:a']}\n"
            "context: {include: [c.md]}\n---\n@b:c.md\n",
            "b/parts/x.yaml": "bundle: {name: x}\nincludes: ['b:bundle.md']\ntools: [{module: t, source: ./m}]\n",
            "b/c.md": "Notes, see @b:more.md",
            "b/agents/a.md": "---\nmeta: {name: a}\n---\nAct.",
            "x.yaml": "bundle: {name: x}\nincludes: [./b]\n",
        }.items():
            path = self.roots / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        (self.roots / "link.md").symlink_to(self._outside)
        (self.roots / "b/link.md").symlink_to(self._outside)
        (self.roots / "b/up").symlink_to(self._outside.parent)


def documents(fuzzer: Fuzzer, chance: random.Random) -> None:
    text = fuzzer.text(chance)
    parts = split_front_matter(text)
    if parts and parts.opening + parts.header + parts.rest != text:
        raise Broken(f"front matter lost something of {text!r}")
    document = parse_document(text, LIMITS)
    if "".join(document.yaml_part) != text:
        raise Broken(f"the parts of {text!r} are not the text")
    check_storable_document(document)
    if not same(parse_document(dump_yaml(document.data), LIMITS).data, document.data):
        raise Broken(f"{document.data!r} does not survive being written and read")


def _either(fuzzer: Fuzzer, chance: random.Random) -> str:
    return fuzzer.text(chance) if chance.random() < 0.3 else fuzzer.bundle_text(chance)


def preparations(fuzzer: Fuzzer, chance: random.Random) -> None:
    document = parse_document(_either(fuzzer, chance), LIMITS)
    before = copy.deepcopy(document.data)
    asyncio.run(_prepared(fuzzer, document))
    if not same(before, document.data):
        raise Broken(f"preparing changed {before!r}")


async def _prepared(fuzzer: Fuzzer, document: Document) -> None:
    prepared = await prepare(document, sources=fuzzer.sources())
    shown = await _everything(prepared, fuzzer)
    if CANARY in shown:
        raise Broken(f"a file outside the roots was read for {document.text!r}")
    before = copy.deepcopy(prepared.mount_plan)
    for agent in prepared.bundle.agents.values():
        child_plan(prepared.mount_plan, agent)
    with suppress(AppError):
        expand(prepared.plan(), VariableScope({"A": "given"})).clear()
    if not same(before, prepared.mount_plan):
        raise Broken(f"something changed the plan of {document.text!r}")


async def _everything(prepared: PreparedBundle, fuzzer: Fuzzer) -> str:
    prompt = await prepared.prompt_with_mentions(str(fuzzer.roots / "b"))
    expansion = await prepared.expand_mentions(prepared.bundle.instruction or "", str(fuzzer.roots))
    return f"{prepared.mount_plan}{prompt.text}{expansion.text}"


def sources(fuzzer: Fuzzer, chance: random.Random) -> None:
    text = "".join(chance.choice((*TOKENS, "x", "h", ":", "@", "+", "?", " ")) for _ in range(chance.randrange(1, 9)))
    if SourceUri.parse(text).text != text:
        raise Broken(f"{text!r} is not its own text")
    try:
        remote = read_remote(text)
        if read_remote(remote.pinned()).pinned() != remote.pinned():
            raise Broken(f"{text!r} has two spellings")
    except Unresolved:
        pass
    loaded = load_source(text, fuzzer.sources(), folder=fuzzer.roots / "b")
    if not loaded.problems and CANARY in f"{loaded.bundle}":
        raise Broken(f"a file outside the roots was read for {text!r}")


def agents(fuzzer: Fuzzer, chance: random.Random) -> None:
    definition = agent_of(parse_markdown(fuzzer.text(chance), LIMITS), "a")
    child_plan({"tools": [{"module": "t"}], "agents": {"x": {}}}, definition)
    list(Bundle(agents={"a": definition}).modules())


def mentions(fuzzer: Fuzzer, chance: random.Random) -> None:
    text = fuzzer.text(chance)
    found = mentions_in(text)
    if len(set(found)) != len(found) or not all(mention in text for mention in found):
        raise Broken(f"mentions of {text!r}: {found}")


def compositions(fuzzer: Fuzzer, chance: random.Random) -> None:
    bundles: list[Bundle] = []
    while len(bundles) < 2:
        document = parse_document(_either(fuzzer, chance), LIMITS)
        bundles.append(Bundle.from_data(document.data, folder=fuzzer.roots))
    before = copy.deepcopy(bundles)
    once = compose(*bundles)
    if repr(before) != repr(bundles):
        raise Broken(f"composing changed {before!r}")
    if not same(_sections(compose(once, once)), _sections(compose(once, once, once))):
        raise Broken(f"composing {once!r} again and again does not end")


def _sections(bundle: Bundle) -> dict[str, Any]:
    lists = {name: list(getattr(bundle, name)) for name in ("providers", "tools", "hooks")}
    return {**lists, "session": bundle.session, "spawn": bundle.spawn, "agents": bundle.agents}


CHECKS: tuple[Callable[[Fuzzer, random.Random], None], ...] = (
    documents,
    preparations,
    sources,
    agents,
    mentions,
    compositions,
)


def _corpus() -> Iterator[str]:
    """Every document of the vectors that is a text, and one that uses everything."""
    for path in sorted(VECTORS.glob("*/in/**/*")):
        if path.suffix in {".md", ".yaml", ".yml"} and path.is_file():
            text = path.read_bytes().decode("utf-8", "ignore")
            if "bundle" in text or "meta" in text:
                yield text
    yield (
        "---\nbundle: {name: top, version: 1.0.0}\nincludes: [b, 'b:parts/x', <root>/x.yaml, 'r:parts/x']\n"
        "session: {orchestrator: {module: loop, config: {a: '${A:-1}'}}, context: ctx}\n"
        "providers: [{module: p, id: one}, {module: p, id: two}]\ntools: [{module: t, source: 'git+https://h/r@main'}]\n"
        "agents: {include: ['b:a'], own: {tools: [t], instruction: go}}\ncontext: {include: ['b:c.md']}\n"
        "spawn: {exclude_tools: [t]}\n---\nRead @b:c.md, @link.md, @b:up/secret.md and @x.yaml.\n"
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Feed nonsense to the readers of bundles.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--round", type=int, default=None, help="only this one")
    options = parser.parse_args(arguments)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    slowest, number, found = (0.0, 0, ""), options.round or 0, 0
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder).resolve(), seed)
        end = time.monotonic() + options.minutes * 60
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                what = fuzzer.round(number)
            except Broken as broken:
                found += 1
                what = "broken"
                print(broken, flush=True)
            slowest = max(slowest, (time.monotonic() - began, number, what))
            number += 1
            if options.round is not None:
                break
    print(f"seed {seed}: {number} rounds, {found} broken; the slowest took {slowest[0]:.3f} s: {slowest[1:]}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
