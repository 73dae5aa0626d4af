"""The options of the providers. Durations are in seconds."""

from __future__ import annotations

from amplifier_app_api.modules.schemas.fields import (
    Options,
    Schema,
    address,
    flag,
    integer,
    mapping,
    number,
    other_name,
    secret,
    text,
    texts,
)

PRIORITY = number("Place among the session's providers: the one with the lowest number is asked.", 100)

_RETRIES: Options = {
    "max_retries": integer("How often a failed call is tried again, where that can help.", 5, minimum=0),
    "min_retry_delay": number("Wait before the first retry; it doubles with each.", 1, minimum=0),
    "max_retry_delay": number("The longest wait; an API that wants more patience gets no retry.", 60, minimum=0),
    "retry_jitter": flag("Wait up to a quarter less, at random; up to a tenth more where the API says how long.", True),
}


def _model(default: str) -> dict[str, Schema]:
    model = text("The model to ask.", default)
    return {"default_model": model, "model": other_name("default_model", model)}


def _key(variable: str) -> Schema:
    return secret(
        f"The API key. Absent, it is the server's {variable}, if the operator gives that away.", variable=variable
    )


def _limits(*, timeout: float = 600) -> dict[str, Schema]:
    return {
        "max_tokens": integer("The most tokens of an answer; 0 for what the model can.", 0, minimum=0),
        "context_window": integer("The model's window in tokens; 0 for the one that is known.", 0, minimum=0),
        "temperature": number("How freely the model chooses its words; absent, the model's own way.", minimum=0),
        "priority": PRIORITY,
        "timeout": number("How long a call may be silent.", timeout, minimum=0.001),
        "max_concurrent_requests": integer(
            "Calls at a time with these credentials, over all sessions of the process; 0 for no limit.", 0, minimum=0
        ),
        **_RETRIES,
        "use_streaming": flag("Ask for answers piece by piece; off, each arrives as a whole.", True),
    }


_THINKING: Options = {
    "extended_thinking": flag("Let the model think before it answers, and show it.", False),
    "thinking_budget_tokens": integer(
        "Tokens for thinking; more than 0 also switches `extended_thinking` on.", 0, minimum=0
    ),
}

_EFFORT = text("How hard the model thinks; absent, the model's own way.", examples=["low", "medium", "high"])

_REASONING_EFFORT = text(
    "How hard the model thinks; absent, the model's own way.", examples=["none", "low", "medium", "high"]
)

_EXTRA_BODY = mapping("Further fields of each request, for what only this server knows.", examples=[{"top_k": 20}])

_OPENAI_CALLS: Options = {
    "base_model": text("What the model is, where its name is that of a deployment: windows and prices go by it."),
    **_limits(),
    "max_output_tokens": other_name("max_tokens", integer("", minimum=0)),
    "reasoning_effort": _REASONING_EFFORT,
    "reasoning": other_name("reasoning_effort", _REASONING_EFFORT),
    "reasoning_summary": text(
        "What of the model's thinking is shown.", "auto", examples=["auto", "concise", "detailed", "off"]
    ),
    "parallel_tool_calls": flag("Let the model ask for several tools at once.", True),
    "prompt_cache_key": text("What requests that share a beginning are cached under; absent, the session."),
    "prompt_cache_retention": text("How long the API keeps what it has cached.", examples=["24h"]),
    "safety_identifier": text("Who is asking, as the API may see it: no name of a person."),
    "service_tier": text("The API's class of service.", examples=["auto", "flex", "priority"]),
    "truncation": text("What the API does with a request that is too long.", examples=["auto", "disabled"]),
    "enable_long_context": flag("Use the whole window of models that cost more above a part of it.", False),
    "filtered": flag("List only models that answer in text; counts with OpenAI itself.", True),
    "extra_body": _EXTRA_BODY,
}


def _api(default: str | None, more: str = "") -> Schema:
    return text(
        f"Which of OpenAI's two APIs is spoken{more}.",
        default,
        choices=["responses", "chat", "chat_completions", "chat-completions"],
    )


_AZURE_ENDPOINT = address("The resource's address.", examples=["https://our.openai.azure.com"])
_DEPLOYMENT = text("The deployment to ask, where neither `default_model` nor `model` names one.")

PROVIDERS: dict[str, Options] = {
    "provider-scripted": {
        "replies": texts(
            "The first answers the first thing the user says, and so on; then the user's own words come back.",
            examples=[["Hello.", "Good bye."]],
        ),
        "tokens": integer("How long an answer is that no reply is written for.", minimum=0),
        "delay_ms": number("Milliseconds between tokens.", 0, minimum=0),
        "priority": PRIORITY,
        "max_retries": integer("How often a scripted failure is tried again.", 5, minimum=0),
    },
    "provider-anthropic": {
        "api_key": _key("ANTHROPIC_API_KEY"),
        "base_url": text("Another address of the API; the server's own key goes there only if the operator says so."),
        **_model("claude-sonnet-5-5"),
        **_limits(),
        "enable_prompt_caching": flag("Mark what stays the same from request to request for the API's cache.", True),
        "effort": _EFFORT,
        **_THINKING,
        "thinking_display": text(
            "Whether the API tells what the model thought.", "summarized", choices=["summarized", "omitted"]
        ),
        "beta_headers": texts("Features of the API that are asked for by name."),
    },
    "provider-openai": {
        "api_key": _key("OPENAI_API_KEY"),
        "base_url": address("The address of a compatible server.", examples=["https://llm.example.com/v1"]),
        "api": _api(None, ": by default `responses` with OpenAI itself, `chat` with another `base_url`"),
        "display_name": text("What a server at another `base_url` is called.", "OpenAI-compatible server"),
        "organization": text("The organization that is billed."),
        "project": text("The project that is billed."),
        **_model("gpt-6.1-sol"),
        **_OPENAI_CALLS,
    },
    "provider-azure-openai": {
        "azure_endpoint": _AZURE_ENDPOINT,
        "endpoint": other_name("azure_endpoint", _AZURE_ENDPOINT),
        "base_url": address("The API's whole address, in place of `azure_endpoint`."),
        "api_key": _key("AZURE_OPENAI_API_KEY"),
        "azure_ad_token": secret("A token in place of the key."),
        "api_version": text(
            "The version of the API: a date asks by the paths of old, absent or `v1` by the new ones.",
            examples=["v1", "preview", "2025-04-01-preview"],
        ),
        "api": _api("responses"),
        **_model("gpt-6.1-sol"),
        "deployment": _DEPLOYMENT,
        "azure_deployment": other_name("deployment", _DEPLOYMENT),
        "deployment_name": other_name("azure_deployment", _DEPLOYMENT),
        **_OPENAI_CALLS,
    },
    "provider-vllm": {
        "base_url": address("The server's address.", "http://localhost:8000/v1"),
        "api_key": secret("The key of a server that wants one.", variable="VLLM_API_KEY"),
        "api": _api("chat"),
        "enable_thinking": flag("Switches thinking in models whose template knows the switch."),
        **_model("openai/gpt-oss-20b"),
        **_OPENAI_CALLS,
    },
    "provider-ollama": {
        "host": text(
            "The server's address; absent, OLLAMA_HOST of the server's environment or this machine.",
            examples=["http://localhost:11434"],
        ),
        "base_url": other_name("host", text("")),
        "api_key": secret("The key of a server that wants one.", variable="OLLAMA_API_KEY"),
        **_model("llama3.2:3b"),
        **_limits(timeout=300),
        "max_tokens": integer("The most tokens of an answer.", 4096, minimum=1),
        "num_ctx": integer("Tokens of prompt and answer together; 0 leaves it to the server.", 16_384, minimum=0),
        "keep_alive": text("How long the model stays loaded: seconds, or a duration.", examples=["5m", "-1"]),
        "enable_thinking": flag("Whether the model thinks; absent, the model's own way."),
        "auto_pull": flag("Fetch a model that the server does not have.", False),
    },
    "provider-gemini": {
        "api_key": secret(
            "The API key. Absent, it is the server's GOOGLE_API_KEY or GEMINI_API_KEY, if the operator gives that "
            "away.",
            variable="GEMINI_API_KEY",
        ),
        "base_url": text("Another address of the API; the server's own key goes there only if the operator says so."),
        **_model("gemini-3.8-flash"),
        **_limits(),
        "effort": _EFFORT,
        "reasoning_effort": other_name("effort", _EFFORT),
        **_THINKING,
    },
}
