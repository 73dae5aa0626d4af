"""The options of the hooks. Times are in seconds, sizes in bytes."""

from __future__ import annotations

from amplifier_app_api.modules.schemas.fields import (
    Options,
    Schema,
    entries,
    flag,
    integer,
    mapping,
    number,
    section,
    text,
    texts,
)

_ACTIONS = ("allow", "ask", "deny")


def _priority(default: int) -> Schema:
    return integer("Place among the session's hooks: the one with the lowest number runs first.", default)


_ROLE = text("In whose name the model is told.", "user", choices=["user", "system"])

_RULE: Options = {
    "tool": texts("The tools it is about, as patterns.", None, examples=[["bash"], ["mcp_*"]]),
    "tools": texts("The same under another name.", None),
    "command": texts("Only calls with such a command.", None, examples=[["git status ..."]]),
    "path": texts("Only calls about such paths.", None, examples=[["src/**"]]),
    "arguments": mapping("Only calls with such arguments, as patterns by name.", examples=[{"url": "https://*"}]),
    "action": text("What becomes of the call.", choices=_ACTIONS),
    "reason": text("What the model is told of a denied call."),
}

HOOKS: dict[str, Options] = {
    "hooks-approval": {
        "rules": entries("The first rule that fits a call decides.", _RULE),
        "tools": mapping(
            "Rules for tools by name, after `rules`.",
            values=section("One tool.", {"require_approval": flag("Ask about each call, or let it run.")}),
            examples=[{"bash": {"require_approval": True}}],
        ),
        "read_only": text(
            "What becomes of a call that no rule fits, of a tool that says that it only reads.",
            "allow",
            choices=_ACTIONS,
        ),
        "otherwise": text(
            "What becomes of any other call that no rule fits; `allow` with `policy_driven_only`.",
            "ask",
            choices=_ACTIONS,
        ),
        "policy_driven_only": flag("Ask only where a rule says so.", False),
        "default_timeout": number("How long a person has to answer.", 3600, minimum=1),
        "default_action": text("What a question without an answer comes to.", "deny", choices=["allow", "deny"]),
        "priority": _priority(900),
    },
    "hooks-cost": {
        "session_budget_usd": number("Dollars that the session may cost, with its agents of earlier turns.", minimum=0),
        "turn_budget_usd": number("Dollars that a turn may cost.", minimum=0),
        "session_budget_tokens": number("Tokens that the session may use, without those read from a cache.", minimum=0),
        "turn_budget_tokens": number("Tokens that a turn may use, without those read from a cache.", minimum=0),
        "warn_at": number("Share of a budget from which on people are told.", 0.8, minimum=0, maximum=1),
        "unknown_cost": text(
            "What a model whose price is not known comes to where there is a budget in dollars.",
            "warn",
            choices=["warn", "deny"],
        ),
        "priority": _priority(50),
    },
    "hooks-logging": {
        "events": texts("The only events that are written; absent, every one but pieces of streams.", None),
        "additional_events": texts("Further events."),
        "auto_discover": flag("Write the events that other modules say they tell.", True),
        "max_file_bytes": integer("The size at which a new file is begun.", 16 * 2**20, minimum=4096),
        "max_files": integer("Files of one session; the oldest goes.", 4, minimum=1),
        "max_text": integer("Characters that are kept of a text.", 20_000, minimum=100),
        "strip_raw": flag("Leave out requests and answers as vendors have them.", True),
        "priority": _priority(100),
        "session_log_template": {
            **text("Not used, and told so: logs are kept where the server keeps them."),
            "deprecated": True,
        },
    },
    "hooks-redaction": {
        "rules": texts(
            "What is looked for.", ["secrets", "pii-basic"], choices=["secrets", "pii-basic"], examples=[["secrets"]]
        ),
        "custom": mapping(
            "Further patterns by a name for what they find, which stands in the mask.",
            values={"type": "string"},
            examples=[{"badge": "B-[0-9]{6}"}],
        ),
        "allow_texts": texts("Texts that are never masked."),
        "allowlist": texts("Names of members that are left alone."),
        "skip_events": texts("Events that other hooks see as they are.", ["prompt:submit", "tool:pre", "tool:post"]),
        "priority": _priority(10),
    },
    "hooks-session-naming": {
        "use_model": flag("Let a model find a better title than the beginning of the first message.", True),
        "initial_trigger_turn": integer("The turn after which it is asked first.", 2, minimum=1),
        "update_interval_turns": integer("Turns until it is asked again; 0 for never.", 5, minimum=0),
        "max_name_length": integer("Characters of a title.", 50, minimum=10),
        "max_description_length": integer("Characters of a description.", 200, minimum=10),
        "max_retries": integer("Failures that are put up with; after one more no model is asked.", 3, minimum=0),
        "timeout": number("How long the model has.", 60, minimum=1),
        "provider": text("The provider to ask; absent, the one that the session asks."),
        "model": text("The model to ask; absent, the provider's own."),
        "priority": _priority(200),
    },
    "hooks-status-context": {
        "include_git": flag("Tell the state of the repository.", True),
        "git_max_changes": integer("Changed files that are named.", 20, minimum=0),
        "git_max_commits": integer("Commits that are named.", 5, minimum=1),
        "git_timeout": number("How long git has.", 2, minimum=0.1, maximum=30),
        "include_datetime": flag("Tell the time.", True),
        "timezone": text("The time zone.", "UTC", examples=["Europe/Paris"]),
        "include_session": flag("Tell the session's id.", False),
        "inject_role": _ROLE,
        "priority": _priority(0),
    },
    "hooks-todo-reminder": {
        "recent_tool_threshold": integer("Calls of other tools after which the list is shown again.", 3, minimum=1),
        "inject_role": _ROLE,
        "priority": _priority(10),
    },
}
