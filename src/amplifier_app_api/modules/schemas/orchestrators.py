"""The options of the loops."""

from __future__ import annotations

from amplifier_app_api.modules.schemas.fields import Options, entries, flag, integer, mapping, number, text

_LOOP: Options = {
    "max_iterations": integer("Model calls a turn may make; a negative number sets no limit.", -1),
    "extended_thinking": flag("Ask the provider to think before it answers.", False),
    "reasoning_effort": text(
        "How hard the model should think; providers that know no efforts ignore it.",
        examples=["low", "medium", "high"],
    ),
}

_GOALS: Options = {
    "goal_max_continuations": integer(
        "Messages of the loop to the assistant in the pursuit of one goal.", 50, minimum=0
    ),
    "goal_stall_threshold": integer(
        "Answers without tool calls in a row before the judge is asked whether it still gets anywhere; 0: never.", 3
    ),
    "goal_busy_stall_window": integer(
        "Reasons in a row that resemble each other before it is asked, tool calls or not; 0: never.", 3
    ),
    "goal_busy_stall_min_overlap": number("How much of their words these reasons share.", 0.5, minimum=0, maximum=1),
    "goal_model_role": text("The role that `model_role_resolver` is asked for, where a module offers that.", "fast"),
    "goal_provider_preferences": entries(
        "Who judges where no role says so: the first that is mounted and has such a model; else small models of known "
        "vendors.",
        {
            "provider": text("The name of a provider."),
            "model": text("A model, or a pattern of which the newest is taken.", examples=["claude-haiku-*"]),
            "config": mapping("Arguments of its calls."),
        },
    ),
    "goal_max_transcript_messages": integer("Messages that the judge reads.", 40),
    "goal_tool_content_clip_chars": integer("Characters of one tool call or result that it reads.", 2_000),
    "goal_transcript_char_budget": integer("Characters that it reads in all, the newest first.", 20_000),
    "goal_summary_max_reasons": integer("Reasons that a summary at the end is made of.", 20),
}

ORCHESTRATORS: dict[str, Options] = {"loop-basic": _LOOP, "loop-streaming": {**_LOOP, **_GOALS}}
