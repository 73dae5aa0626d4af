"""Git repositories in the cache: an entry is the files of one commit."""

from pathlib import Path

from .cache import Kept, SourceCache, key_of
from .git import GitClient
from .limits import Patience
from .remote import Remote


class Repositories:
    """Fetches commits, each once."""

    def __init__(self, cache: SourceCache, git: GitClient) -> None:
        self._cache = cache
        self._git = git

    def fetch(self, remote: Remote, wanted: str, patience: Patience) -> Kept:
        """The commit `wanted`, or the one that the ref names now."""
        if wanted and (kept := self._use(remote, wanted, patience)):
            return kept
        with self._cache.scratch(patience) as scratch:
            commit = wanted or self._git.commit_of(remote, scratch, patience)
            return self._use(remote, commit, patience) or self._fetch_once(remote, commit, scratch, patience)

    def _fetch_once(self, remote: Remote, commit: str, scratch: Path, patience: Patience) -> Kept:
        key = _key(remote, commit)
        with self._cache.fetching(key, patience):
            kept = self._use(remote, commit, patience)
            if kept is not None:
                return kept
            tree = scratch / "tree"
            tree.mkdir(mode=0o700)
            self._git.checkout(remote, commit, tree, scratch, patience)
            return self._cache.publish(key, commit, tree, patience)

    def _use(self, remote: Remote, commit: str, patience: Patience) -> Kept | None:
        return self._cache.use(_key(remote, commit), commit, patience)


def _key(remote: Remote, commit: str) -> str:
    return key_of("git", remote.url, commit)
