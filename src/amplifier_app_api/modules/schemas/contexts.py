"""The options of the context managers. Shares are of the budget: the provider's window without what it may write."""

from __future__ import annotations

from amplifier_app_api.modules.schemas.fields import Options, Schema, integer, number, text, texts


def _fitting(*, protected_recent: float) -> dict[str, Schema]:
    return {
        "max_tokens": integer("Budget in tokens, where it is less than the provider's window gives.", minimum=1),
        "compact_threshold": number("Share of the budget above which room is made.", 0.92, minimum=0.01, maximum=1),
        "target_usage": number("Share of the budget that making room aims at.", 0.5, minimum=0.01, maximum=1),
        "protected_recent": number(
            "Share of the budget at the end of the conversation that is touched last.",
            protected_recent,
            minimum=0,
            maximum=1,
        ),
        "protected_tool_results": integer("How many of the latest tool results keep their text.", 5, minimum=0),
        "truncate_chars": integer("Characters that are kept of a tool result that is shortened.", 250, minimum=0),
        "compaction": text(
            "What becomes of exchanges that no longer fit: left out, or told in a summary that the provider writes.",
            "drop",
            choices=["drop", "summarize"],
        ),
        "summary_tokens": integer("The most tokens a summary may have.", 1024, minimum=64),
    }


CONTEXTS: dict[str, Options] = {
    "context-simple": _fitting(protected_recent=0.3),
    "context-persistent": {
        "memory_files": texts(
            "Files below the session's folder that stand in front of every request.", examples=[["notes/memory.md"]]
        ),
        **_fitting(protected_recent=0.1),
        "transcript_path": {
            **text("Not used, and told so: the server stores the conversation itself."),
            "deprecated": True,
        },
    },
}
