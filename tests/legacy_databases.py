"""Databases as the predecessor left them, one builder for each shape."""

import json
import sqlite3
from pathlib import Path
from typing import Any

MADE, CHANGED = "2026-02-04 16:00:00.123456+00:00", "2026-02-05 09:30:00.000001+00:00"

NEWER = """
CREATE TABLE configs (config_id TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT, yaml_content TEXT NOT NULL,
  created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP NOT NULL, tags TEXT);
CREATE TABLE sessions (session_id TEXT PRIMARY KEY, config_id TEXT NOT NULL, status TEXT NOT NULL,
  created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP NOT NULL, message_count INTEGER DEFAULT 0, transcript TEXT,
  FOREIGN KEY (config_id) REFERENCES configs(config_id));
CREATE TABLE configuration (key TEXT PRIMARY KEY, value TEXT NOT NULL, scope TEXT DEFAULT 'global',
  updated_at TIMESTAMP NOT NULL);
CREATE INDEX idx_configs_name ON configs(name);
CREATE INDEX idx_sessions_status ON sessions(status);
"""
OLDER = """
CREATE TABLE sessions (session_id TEXT PRIMARY KEY, status TEXT NOT NULL, bundle TEXT, provider TEXT, model TEXT,
  created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP NOT NULL, message_count INTEGER DEFAULT 0, metadata TEXT,
  config TEXT, transcript TEXT);
CREATE TABLE configuration (key TEXT PRIMARY KEY, value TEXT NOT NULL, scope TEXT DEFAULT 'global',
  updated_at TIMESTAMP NOT NULL);
"""
# A later version stored JSON in place of YAML.
JSON_CONFIGS = NEWER.replace("yaml_content TEXT NOT NULL", "config_json TEXT NOT NULL, user_id TEXT")

SCRIPTED = """\
# kept
bundle:
  name: scripted
includes:
  - bundle: foundation
providers:
  - module: provider-scripted
"""

TALK = [
    {"role": "user", "content": "list the files"},
    {
        "role": "assistant",
        "content": [{"type": "text", "text": "I look."}],
        "tool_calls": [{"id": "call-1", "tool": "list_directory", "arguments": {"path": "."}}],
    },
    {"role": "tool", "tool_call_id": "call-1", "name": "list_directory", "content": "a.txt"},
    {"role": "assistant", "content": "There is one: a.txt"},
]


class Legacy:
    """A file that is being filled. `path` may be read once `close` was called."""

    def __init__(self, path: Path, schema: str = NEWER) -> None:
        self.path = path
        self._connection = sqlite3.connect(path)
        self._connection.executescript(schema)

    def config(self, config_id: str = "c1", text: Any = SCRIPTED, **values: Any) -> "Legacy":
        """Add a config of the newer shape."""
        fields = {"config_id": config_id, "name": "mine", "yaml_content": text, "tags": "{}"}
        return self.add("configs", {**fields, "created_at": MADE, "updated_at": CHANGED, **values})

    def session(self, session_id: str = "s1", transcript: Any = TALK, **values: Any) -> "Legacy":
        """Add a session of the newer shape."""
        return self._session(session_id, transcript, {"config_id": "c1", **values})

    def older_session(self, session_id: str = "s1", transcript: Any = TALK, **values: Any) -> "Legacy":
        """Add a session that says itself what it runs."""
        given = {"bundle": "foundation", "provider": "scripted", "metadata": "{}", "config": "{}", **values}
        return self._session(session_id, transcript, given)

    def _session(self, session_id: str, transcript: Any, values: dict[str, Any]) -> "Legacy":
        text = transcript if isinstance(transcript, str | bytes | None) else json.dumps(transcript)
        fields = {"session_id": session_id, "status": "active", "created_at": MADE, "updated_at": CHANGED}
        return self.add("sessions", {**fields, "transcript": text, **values})

    def setting(self, key: str, value: Any) -> "Legacy":
        """Add a row of the table of settings."""
        return self.add("configuration", {"key": key, "value": json.dumps(value), "updated_at": MADE})

    def add(self, table: str, values: dict[str, Any]) -> "Legacy":
        """Add any row."""
        columns, places = ", ".join(values), ", ".join("?" * len(values))
        self._connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", list(values.values()))
        return self

    def run(self, statement: str) -> "Legacy":
        """Change the schema."""
        self._connection.execute(statement)
        return self

    def save(self) -> Path:
        """Write what was added so far; the path."""
        self._connection.commit()
        return self.path

    def close(self) -> Path:
        """Write everything; the path."""
        self._connection.commit()
        self._connection.close()
        return self.path
