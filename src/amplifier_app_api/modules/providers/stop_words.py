"""Stop sequences for an API that has none: the text ends before the first of them.

What may be the beginning of one is held back until the next piece tells.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopWords:
    def __init__(self, words: Sequence[str]) -> None:
        self._words: list[str] = [word for word in words if word]
        self._held: str = ""
        self.hit = False

    def passing(self, text: str) -> str:
        """What of the text so far may be shown, after what was shown before."""
        if self.hit:
            return ""
        if not self._words:
            return text
        text = self._held + text
        found = [at for word in self._words if (at := text.find(word)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)]
        kept = self._beginning(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """What was held back and turned out to be text."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """The length of the longest end of `text` that begins a stop sequence."""
        longest = min(len(text), max(len(word) for word in self._words) - 1)
        for length in range(longest, 0, -1):
            end = text[len(text) - length :]
            if any(word.startswith(end) for word in self._words):
                return length
        return 0
