"""The modules that ship with the server, under the ids Amplifier users know.

They speak only to the kernel: nothing here imports the rest of the server, so that each could be
handed to another Amplifier host as it is. A module is found by `load_mount` alone; its file, and the
vendor's SDK that file may import, is loaded the first time somebody asks for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

ModuleKind = Literal["orchestrator", "context", "provider", "tool", "hook"]
Mount = Callable[..., Awaitable[Callable[[], Any] | None]]
"""`await mount(coordinator, options)`; what it returns, if anything, closes what the module opened."""


@dataclass(frozen=True, slots=True)
class BuiltinModule:
    id: str
    kind: ModuleKind
    target: str  # the Python module that defines `mount`
    description: str
    extra: str | None = None  # the optional dependency it needs, as in `pip install amplifier-app-api[extra]`


class MissingExtra(ImportError):
    """A built-in module needs a package that is not installed; the text names the extra that brings it."""

    def __init__(self, module: BuiltinModule, package: str) -> None:
        super().__init__(
            f"Module {module.id} needs the package {package!r}: install amplifier-app-api[{module.extra}]", name=package
        )
        self.module_id = module.id
        self.extra = module.extra


def _table(*modules: BuiltinModule) -> Mapping[str, BuiltinModule]:
    return MappingProxyType({module.id: module for module in modules})


BUILTIN_MODULES: Mapping[str, BuiltinModule] = _table(
    BuiltinModule(
        "loop-basic",
        "orchestrator",
        f"{__name__}.orchestrators.basic",
        "Calls the model and its tools until the model is done; asks for each answer as a whole",
    ),
    BuiltinModule(
        "loop-streaming",
        "orchestrator",
        f"{__name__}.orchestrators.streaming",
        "Calls the model and its tools until the model is done; answers arrive token by token",
    ),
    BuiltinModule(
        "context-simple",
        "context",
        f"{__name__}.contexts.simple",
        "Keeps the conversation and fits each request into the model's window",
    ),
    BuiltinModule(
        "context-persistent",
        "context",
        f"{__name__}.contexts.persistent",
        "context-simple that also puts memory files in front of each request",
    ),
    BuiltinModule(
        "provider-scripted",
        "provider",
        f"{__name__}.providers.scripted",
        "Plays answers written in the config or the message: no key, no network",
    ),
    BuiltinModule(
        "provider-anthropic",
        "provider",
        f"{__name__}.providers.anthropic",
        "Claude models through Anthropic's SDK",
        extra="anthropic",
    ),
    BuiltinModule(
        "provider-openai",
        "provider",
        f"{__name__}.providers.openai",
        "OpenAI's models through the Responses API, and servers compatible with Chat Completions",
        extra="openai",
    ),
    BuiltinModule(
        "provider-azure-openai",
        "provider",
        f"{__name__}.providers.azure_openai",
        "OpenAI's models in an Azure resource",
        extra="azure-openai",
    ),
    BuiltinModule(
        "provider-vllm",
        "provider",
        f"{__name__}.providers.vllm",
        "Models on a vLLM server of one's own",
        extra="vllm",
    ),
    BuiltinModule(
        "provider-ollama",
        "provider",
        f"{__name__}.providers.ollama",
        "Models on one's own machine through Ollama's SDK",
        extra="ollama",
    ),
    BuiltinModule(
        "provider-gemini",
        "provider",
        f"{__name__}.providers.gemini",
        "Gemini models through Google's SDK",
        extra="gemini",
    ),
    BuiltinModule(
        "tool-filesystem",
        "tool",
        f"{__name__}.tools.filesystem",
        "Reads, writes, edits, finds and lists files below the session's directory",
    ),
    BuiltinModule(
        "tool-bash",
        "tool",
        f"{__name__}.tools.bash",
        "Runs commands in a sandbox with limits, and jobs in the background",
    ),
    BuiltinModule(
        "tool-search",
        "tool",
        f"{__name__}.tools.search",
        "Searches the names and contents of files below the session's directory",
    ),
    BuiltinModule(
        "tool-web",
        "tool",
        f"{__name__}.tools.web",
        "Fetches pages of the public web as text, and searches it through a service of one's choice",
    ),
    BuiltinModule(
        "tool-todo",
        "tool",
        f"{__name__}.tools.todo",
        "Keeps the model's own list of what is to be done",
    ),
    BuiltinModule(
        "tool-task",
        "tool",
        f"{__name__}.tools.task",
        "Gives a task to an agent, which works on it in a session of its own",
    ),
    BuiltinModule(
        "tool-delegate",
        "tool",
        f"{__name__}.tools.delegate",
        "Gives a task to an agent, with as much of the conversation as it needs",
    ),
    BuiltinModule(
        "tool-skills",
        "tool",
        f"{__name__}.tools.skills",
        "Finds skills in folders and gives the model the text of one when it is needed",
    ),
    BuiltinModule(
        "tool-mcp",
        "tool",
        f"{__name__}.tools.mcp",
        "The tools, resources and prompts of MCP servers, through the official SDK",
        extra="mcp",
    ),
    BuiltinModule(
        "hooks-approval",
        "hook",
        f"{__name__}.hooks.approval",
        "Lets tool calls run, forbids them or asks a person, by rules",
    ),
    BuiltinModule(
        "hooks-cost",
        "hook",
        f"{__name__}.hooks.cost",
        "Keeps sessions and turns within budgets of dollars and tokens",
    ),
    BuiltinModule(
        "hooks-logging",
        "hook",
        f"{__name__}.hooks.session_log",
        "Writes what happens in a session as JSON lines",
    ),
    BuiltinModule(
        "hooks-redaction",
        "hook",
        f"{__name__}.hooks.redaction",
        "Masks keys, passwords and personal data in what is kept and shown",
    ),
    BuiltinModule(
        "hooks-session-naming",
        "hook",
        f"{__name__}.hooks.session_naming",
        "Gives sessions a title from what is asked in them",
    ),
    BuiltinModule(
        "hooks-status-context",
        "hook",
        f"{__name__}.hooks.status_context",
        "Tells the model its directory, the state of the repository and the time",
    ),
    BuiltinModule(
        "hooks-todo-reminder",
        "hook",
        f"{__name__}.hooks.todo_reminder",
        "Reminds the model of the list it keeps with tool-todo",
    ),
)


def load_mount(module_id: str) -> Mount:
    """The `mount` function of a built-in module; `KeyError` when there is no such module.

    The first call for a module imports it. With a vendor's SDK behind it that takes up to a second,
    so call this from a thread where other work must go on. Raises `MissingExtra` when the SDK is not installed.
    """
    module = BUILTIN_MODULES[module_id]
    try:
        return importlib.import_module(module.target).mount
    except ModuleNotFoundError as error:
        if module.extra is None or error.name is None or error.name.startswith(__name__.partition(".")[0]):
            raise
        raise MissingExtra(module, error.name) from error
