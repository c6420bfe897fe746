"""Files that clients upload, to be named by their URLs in a prediction's inputs. Knows no routes."""

import base64
import hashlib
import mimetypes
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class TooLargeError(Exception):
    """The file is larger than all that is kept may be."""


class Files:
    """Uploaded files in a folder of the caller's, the oldest dropped beyond ``max_bytes``."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._all: dict[str, dict[str, Any]] = {}

    async def add(
        self, name: str, content_type: str | None, chunks: AsyncIterator[bytes], metadata: dict[str, Any]
    ) -> dict[str, Any]:
        """The new file's entry; raises ``TooLargeError``."""
        file_id, digest, size = uuid.uuid4().hex, hashlib.sha256(), 0
        path = self._path(file_id)
        try:
            with path.open("wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise TooLargeError
                    digest.update(chunk)
                    file.write(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        kind = content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        created_at, checksum = datetime.now(UTC).isoformat(), {"sha256": digest.hexdigest()}
        entry = {"id": file_id, "name": name, "content_type": kind, "size": size, "etag": digest.hexdigest()}
        entry |= {"checksums": checksum, "metadata": metadata, "created_at": created_at, "expires_at": None}
        self._all[file_id] = entry
        while sum(one["size"] for one in self._all.values()) > self._max_bytes:
            self.delete(next(iter(self._all)))
        return entry

    def get(self, file_id: str) -> dict[str, Any] | None:
        """A file's entry, if it is kept."""
        return self._all.get(file_id)

    def all(self) -> list[dict[str, Any]]:
        """The entries of all that are kept, the newest first."""
        return [*reversed(self._all.values())]

    def delete(self, file_id: str) -> bool:
        """Whether there was one to delete."""
        self._path(file_id).unlink(missing_ok=True)
        return self._all.pop(file_id, None) is not None

    def data_url(self, file_id: str) -> str:
        """The content of a file that is kept, as cog takes it from anywhere."""
        content = base64.b64encode(self._path(file_id).read_bytes()).decode()
        return f"data:{self._all[file_id]['content_type']};base64,{content}"

    def _path(self, file_id: str) -> Path:
        return self._folder / uuid.UUID(file_id).hex  # a caller's id may be a path
