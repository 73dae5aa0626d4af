"""A server that answers every request with the same bytes, whatever it is asked: what no model double would say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


def sse(*events: Any) -> bytes:
    """Events of a stream; those with a `type` are named by it."""
    lines: list[str] = []
    for event in events:
        name = event.get("type") if isinstance(event, dict) else None
        lines.append(f"event: {name}\n" if name else "")
        lines.append(f"data: {json.dumps(event)}\n\n")
    return "".join(lines).encode()


def ndjson(*parts: Any) -> bytes:
    return "".join(f"{json.dumps(part)}\n" for part in parts).encode()


@asynccontextmanager
async def answering(body: bytes, content_type: str) -> AsyncIterator[str]:
    """The server's address while it runs."""
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        sizes = [line.split(b":")[1] for line in asked.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(sizes[0]) if sizes else 0)
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
