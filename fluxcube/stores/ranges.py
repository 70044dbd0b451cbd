"""A Zarr store of objects that can read the last bytes of an object from every service."""

from __future__ import annotations

from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

#: Protocols whose package of fsspec sends a negative position to the service, which refuses it: adlfs 2026.8.
_WITHOUT_SUFFIX = ("az", "abfs", "abfss")


class RangedStore(FsspecStore):
    """Objects below a URL; the index at the end of a shard is read by its position where the service needs that."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the bytes of an object, or of a part of it; None if the store has no such object."""
        if isinstance(byte_range, SuffixByteRequest) and self._needs_position():
            try:
                size = int((await self.fs._info(f"{self.path}/{key}"))["size"])
            except self.allowed_exceptions:
                return None
            byte_range = RangeByteRequest(max(0, size - byte_range.suffix), size)
        return await super().get(key, prototype, byte_range)

    def _needs_position(self) -> bool:
        names = self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        return not set(_WITHOUT_SUFFIX).isdisjoint(names)
