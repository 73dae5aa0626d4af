"""The options of the tools. Times are in seconds, sizes in bytes."""

from __future__ import annotations

from amplifier_app_api.modules.schemas.fields import (
    Options,
    Schema,
    address,
    flag,
    integer,
    mapping,
    number,
    secret,
    section,
    text,
    texts,
)

_READ = texts(
    "Further folders that may be read, within what the server allows; absolute, or relative to the session's."
)
_WRITE = texts(
    "Further folders that may be written and read, within what the server allows; absolute, or relative to the "
    "session's."
)

_NOT_SEARCHED = (
    ".git", ".hg", ".svn", "node_modules", ".venv", "venv", "__pycache__", ".mypy_cache", ".pytest_cache",
    ".ruff_cache", ".tox", ".nox", ".gradle", ".next", ".nuxt", "target", "dist", "build", "coverage",
)  # fmt: skip


def _inherited(own: str) -> dict[str, Schema]:
    return {
        "inherit_tools": texts("The only modules of tools that an agent has of its parent's.", None),
        "exclude_tools": texts("Modules of tools that it has not; counts without `inherit_tools`.", [own]),
        "inherit_hooks": texts("The only modules of hooks that an agent has of its parent's.", None),
        "exclude_hooks": texts("Modules of hooks that it has not; counts without `inherit_hooks`.", None),
    }


_MCP_SERVER = section(
    "A server: a program (`command`), or an address (`url`).",
    {
        "enabled": flag("Use it.", True),
        "command": text("The program, which is started for each session.", examples=["npx"]),
        "args": {**texts("What it is given on its command line."), "items": {"type": ["string", "number"]}},
        "env": mapping("Variables that it gets beside the few every program has.", values={"type": "string"}),
        "network": flag("Let it use the network, if the server allows it."),
        "url": address("The address of a server that speaks streamable HTTP.", examples=["https://mcp.example.com"]),
        "headers": mapping(
            "What is sent with each request, such as a token.",
            values={"type": "string", "format": "password", "writeOnly": True},
            examples=[{"Authorization": "Bearer ${MCP_TOKEN}"}],
        ),
        "timeout": number("How long it has for one call.", minimum=0.1),
        "connect_timeout": number("How long connecting may take.", minimum=0.1),
        "allowed_tools": texts("The only tools of it that are mounted; none are all."),
        "trust_annotations": flag("Believe what it says of its tools: that one only reads, or may be repeated.", False),
    },
)

TOOLS: dict[str, Options] = {
    "tool-filesystem": {
        "allowed_read_paths": _READ,
        "allowed_write_paths": _WRITE,
        "denied_write_paths": texts("Folders and files below the writable ones that may not be written."),
        "max_file_bytes": integer("The largest file that is read or written.", 10_000_000, minimum=1),
        "max_output_bytes": integer("The most that one read shows.", 256_000, minimum=1),
    },
    "tool-bash": {
        "unsandboxed": text(
            "What happens where the server has no sandbox for commands; the server may be stricter.",
            "refuse",
            choices=["refuse", "ask", "allow"],
        ),
        "network": flag("Let commands in the sandbox use the network, if the server allows it.", False),
        "timeout": number("How long a command may run unless the model asks for more.", 30, minimum=1),
        "max_timeout": number("The most that the model may ask for.", 600, minimum=1),
        "background_timeout": number("How long a job in the background may run.", 3600, minimum=1),
        "approval_timeout": number("How long a person has to allow a command without a sandbox.", 3600, minimum=1),
        "max_output_bytes": integer("What the model is shown of a command's output.", 50_000, minimum=100),
        "max_total_output_bytes": integer("The output at which a command is ended.", 64 * 2**20, minimum=100),
        "max_concurrent": integer("Commands of one session at a time.", 8, minimum=1),
        "max_jobs": integer("Jobs in the background of one session.", 8, minimum=1),
        "max_processes": integer("Processes of one command.", 256, minimum=8),
        "max_memory_bytes": integer("Memory of each process, and of a command in all.", 4 * 2**30, minimum=2**20),
        "max_file_bytes": integer("The largest file that a command may write.", 2**30, minimum=1),
        "max_cpu_seconds": integer("Processor time of each process.", 3600, minimum=1),
        "environment": mapping(
            "Variables that commands get beside the few every command has.",
            values={"type": "string"},
            examples=[{"CI": "true"}],
        ),
        "allowed_read_paths": _READ,
        "allowed_write_paths": _WRITE,
    },
    "tool-search": {
        "allowed_paths": texts("Further folders that may be searched, as `allowed_read_paths`."),
        "allowed_read_paths": _READ,
        "max_results": integer("What one call tells at most.", 500, minimum=1),
        "max_file_size": integer("The largest file whose contents are searched.", 10 * 2**20, minimum=1),
        "max_output_bytes": integer("What the model is shown of one search.", 100_000, minimum=100),
        "timeout": number("How long one search may take.", 30, minimum=0.1),
        "exclusions": texts(
            "Names of folders that are searched only when the model asks for them.",
            _NOT_SEARCHED,
        ),
    },
    "tool-web": {
        "timeout": number("How long one page may take.", 20, minimum=0.1),
        "default_limit": integer("Characters of a page that are shown at once.", 50_000, minimum=100),
        "max_bytes": integer("The most that is read of a page.", 4 * 2**20, minimum=1),
        "allowed_domains": texts(
            "The only domains that pages are fetched from, with those below them; none are all.",
            examples=[["docs.python.org"]],
        ),
        "blocked_domains": texts("Domains that no page is fetched from, with those below them."),
        "extract_text": flag("Show the text of an HTML page and not its source.", True),
        "search_engine": text(
            "The service that `web_search` asks; with none there is no search.",
            "none",
            choices=["none", "searxng", "brave", "tavily"],
        ),
        "base_url": address("The service's address, where it is not the public one; searxng needs it."),
        "api_key": secret("The service's key; brave and tavily need one."),
        "max_results": integer("Results of a search; more than 20 are 20.", 5, minimum=1),
    },
    "tool-todo": {},
    "tool-task": {
        **_inherited("tool-task"),
        "timeout": number("How long an agent may work; absent, as long as its turn may.", minimum=0.1),
    },
    "tool-delegate": {
        "features": section(
            "What may be delegated, and with what.",
            {
                "self_delegation": section(
                    "A copy of the session itself as the agent `self`.",
                    {
                        "enabled": flag("Offer it.", True),
                        "max_depth": integer("How many such copies may stand one below the other.", 3, minimum=0),
                    },
                ),
                "session_resume": section(
                    "Going on with an agent that answered before.", {"enabled": flag("Offer it.", True)}
                ),
                "context_inheritance": section(
                    "Telling an agent of the conversation.",
                    {
                        "enabled": flag("Offer it.", True),
                        "max_turns": integer("The most turns that `recent` tells of.", 10, minimum=1),
                    },
                ),
                "provider_selection": section(
                    "Naming the models that an agent should use.", {"enabled": flag("Offer it.", True)}
                ),
            },
        ),
        "settings": section(
            "How agents work.",
            {
                **_inherited("tool-delegate"),
                "timeout": number("How long an agent may work; absent, as long as its turn may.", minimum=0.1),
            },
        ),
    },
    "tool-skills": {
        "skills_dirs": texts(
            "Folders with skills: of the session, of the server as far as it allows, and of bundles by mention.",
            [".amplifier/skills"],
            examples=[["skills", "@our-tools:skills"]],
        ),
        "skills_dir": texts("Further folders, as `skills_dirs`."),
        "max_file_bytes": integer("The largest file of a skill that is read.", 1_000_000, minimum=1_000),
        "max_content_size": integer("Characters that the model is shown of one.", 100_000, minimum=1_000),
    },
    "tool-mcp": {
        "servers": mapping("The servers, by names of one's own; at most 32.", values=_MCP_SERVER),
        "timeout": number("How long a server has for one call, unless its entry says otherwise.", 60, minimum=0.1),
        "connect_timeout": number("How long connecting may take, unless an entry says otherwise.", 30, minimum=0.1),
        "startup_timeout": number(
            "How long opening a session waits for its servers; slower ones join while it runs.",
            5,
            minimum=0,
            maximum=60,
        ),
        "network": flag("Let servers that are programs use the network, unless an entry says otherwise.", False),
        "max_content_size": integer("Characters that the model is shown of one answer.", 50_000, minimum=100),
        "max_message_bytes": integer("The longest message that is taken from a server.", 4 * 2**20, minimum=1_000),
        "max_tools": integer("Tools of all servers together.", 100, minimum=1),
        "unsandboxed": text(
            "What happens to programs where the server has no sandbox; the server may be stricter.",
            "refuse",
            choices=["refuse", "allow"],
        ),
        "max_memory_bytes": integer("Memory of each process, and of a program in all.", 4 * 2**30, minimum=2**20),
        "max_processes": integer("Processes of one program.", 256, minimum=8),
        "allowed_read_paths": _READ,
        "allowed_write_paths": _WRITE,
    },
}
