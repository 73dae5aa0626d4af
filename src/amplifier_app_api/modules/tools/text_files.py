"""Text in files: what counts as text, parts of it, and exact replacements."""

from __future__ import annotations

from amplifier_app_api.modules.tools.sandbox import FileRefused


def decode(content: bytes, shown: str) -> str:
    """UTF-8 text with its line ends as they are; `FileRefused` for anything else."""
    if b"\0" in content:
        raise FileRefused(f"{shown} is a binary file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileRefused(f"{shown} is not UTF-8 text") from error


def excerpt(text: str, *, offset: int, limit: int | None, most_bytes: int) -> str:
    """Lines from number `offset` (the first is 1), `limit` of them at most; a note says what was left out."""
    lines = text.splitlines(keepends=True)
    chosen = lines[offset - 1 :] if limit is None else lines[offset - 1 : offset - 1 + limit]
    shown: list[str] = []
    size = 0
    for line in chosen:
        size += len(line.encode())
        if size > most_bytes:
            break
        shown.append(line)
    end = offset - 1 + len(shown)
    if not shown and chosen:
        return f"[Line {offset} of {len(lines)} is too long to show]"
    if not shown and lines:
        return f"[The file has {len(lines)} lines]"
    note = f"\n[Lines {offset} to {end} of {len(lines)}; read on with offset {end + 1}]" if end < len(lines) else ""
    return "".join(shown) + note


def replace(text: str, old: str, new: str, *, every: bool, shown: str) -> tuple[str, int]:
    """`text` with `old` replaced, and how often; `old` must be there, and once unless `every`."""
    if old == new:
        raise FileRefused("old_string and new_string are the same")
    if not old:
        raise FileRefused("old_string is empty; write_file makes new files")
    count = text.count(old)
    if not count and "\r\n" in text and "\r\n" not in old:
        # Models write bare line feeds; the file keeps its own line ends.
        old, new = old.replace("\n", "\r\n"), new.replace("\n", "\r\n")
        count = text.count(old)
    if not count:
        raise FileRefused(f"old_string does not occur in {shown}")
    if count > 1 and not every:
        raise FileRefused(f"old_string occurs {count} times in {shown}; give more of its surroundings or replace_all")
    return text.replace(old, new), count
