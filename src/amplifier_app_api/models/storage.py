"""What a session takes, and what may go."""

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from amplifier_app_api.models.fields import NOT_A_SWITCH


class RowUsage(BaseModel):
    """Rows of one kind, and the bytes of text in them."""

    rows: int
    bytes: int


class FileUsage(BaseModel):
    """Files below a folder; `complete` is false where there were too many to count."""

    files: int
    bytes: int
    complete: bool = True


class StorageResponse(BaseModel):
    """What a session takes: rows by kind, the files in its own folder, and the number of its oldest event."""

    session_id: str
    rows: dict[str, RowUsage]
    files: FileUsage
    total_bytes: int
    oldest_seq: int
    last_seq: int


class PruneRequest(BaseModel):
    """Body of `POST /sessions/{session_id}/prune`: events up to a number, or older than so many seconds."""

    up_to: Annotated[int, Field(ge=1, le=2**53), NOT_A_SWITCH] | None = None
    older_than: Annotated[float, Field(ge=0, le=10**9), NOT_A_SWITCH] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.up_to is None) == (self.older_than is None):
            raise ValueError("needs `up_to` or `older_than`, and not both")
        return self


class PruneResponse(BaseModel):
    """How many events went, and the number of the oldest one that is left."""

    session_id: str
    pruned_events: int
    oldest_seq: int
