"""Which of two ways to answer the caller prefers."""


def prefers_json(accept: str | None) -> bool:
    """Whether `Accept` asks for JSON rather than for a stream of events. Whoever takes anything gets the stream."""
    if not accept:
        return False
    weights: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights[name] = next((_weight(value[2:]) for value in parameters if value.startswith("q=")), 1.0)
    json = weights.get("application/json", 0.0)
    stream = weights.get("text/event-stream", weights.get("text/*", weights.get("*/*", 0.0)))
    return json > stream or (json > 0 and "text/event-stream" not in weights)


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
