"""What of a request or an answer is kept to be read, in one bound for all of them together."""

from types import TracebackType

MOST_LOOKED = 16 * 1024 * 1024
"""Bytes of one request or answer; a longer one passes unread."""


class Room:
    """Memory that all looks share."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        """Take so many bytes; False where there are not as many."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give(self, size: int) -> None:
        """Give them back."""
        self._left += size


class Look:
    """The beginning of one body, and all of it where it is not too long."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._parts: list[bytes] = []
        self._size = 0
        self.is_whole = True
        """Whether nothing was left out so far."""

    def __enter__(self) -> "Look":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget()

    def add(self, data: bytes) -> bool:
        """Keep what came next. False, now and later, where there is no room for it."""
        if self.is_whole and self._size + len(data) <= MOST_LOOKED and self._room.take(len(data)):
            self._parts.append(data)
            self._size += len(data)
        else:
            self.is_whole = False
        return self.is_whole

    @property
    def body(self) -> bytes:
        """All that is kept."""
        self._parts = [b"".join(self._parts)]
        return self._parts[0]

    def hold(self, size: int) -> bool:
        """Count so many bytes that were made of it, too; False where there is no room for them."""
        has_room = self._room.take(size)
        self._size += size * has_room
        return has_room

    def forget(self) -> None:
        """Keep nothing more."""
        self._room.give(self._size)
        self._parts, self._size, self.is_whole = [], 0, False
