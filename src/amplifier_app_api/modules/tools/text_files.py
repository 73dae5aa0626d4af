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
    count = text.count("\n") + (text[-1:] not in ("", "\n"))
    if offset > count:
        return f"[The file has {count} lines]" if count else ""
    last = count if limit is None else min(count, offset - 1 + limit)
    begin = at = _start_of(text, offset)
    end, size = offset - 1, 0
    while end < last:
        behind = text.find("\n", at) + 1 or len(text)
        size += len(text[at:behind].encode())
        if size > most_bytes:
            break
        at, end = behind, end + 1
    if at == begin:
        return f"[Line {offset} of {count} is too long to show]"
    note = f"\n[Lines {offset} to {end} of {count}; read on with offset {end + 1}]" if end < count else ""
    return text[begin:at] + note


def _start_of(text: str, line: int) -> int:
    """Where a line begins. As `grep` counts, a line ends at a line feed and nowhere else."""
    at = 0
    for _ in range(line - 1):
        at = text.index("\n", at) + 1
    return at


def replace(text: str, old: str, new: str, *, every: bool, shown: str) -> tuple[str, int]:
    """`text` with `old` replaced, and how often; `old` must be there, and once unless `every`."""
    if old == new:
        raise FileRefused("old_string and new_string are the same")
    if not old:
        raise FileRefused("old_string is empty; write_file makes new files")
    count = text.count(old)
    ends = text.count("\r\n")
    if "\r" not in old and ends and (not count or ends == text.count("\n")):
        # Models write bare line feeds; the file keeps its own line ends.
        old, new = old.replace("\n", "\r\n"), new.replace("\r\n", "\n").replace("\n", "\r\n")
        count = text.count(old)
    if not count:
        raise FileRefused(f"old_string does not occur in {shown}")
    if count > 1 and not every:
        raise FileRefused(f"old_string occurs {count} times in {shown}; give more of its surroundings or replace_all")
    return text.replace(old, new), count
