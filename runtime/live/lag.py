"""How late pictures are: what they waited in buffers before they were read."""

from __future__ import annotations

MOST_LAG_S = 30.0  # behind the first picture; more is a jump of the stream's clock
DRIFT = 5e-4  # a camera's clock against this one's


class Lag:
    """How late a picture is, from its time on the stream's clock: the quickest so far counts as not late at all."""

    def __init__(self) -> None:
        self._offset: float | None = None
        self._at = 0.0

    def of(self, stream_s: float | None, now: float) -> float:
        """stream_s: of the picture, None where the stream has no clock. now: of time.perf_counter."""
        if stream_s is None:
            return 0.0
        offset = now - stream_s
        if self._offset is None or abs(offset - self._offset) > MOST_LAG_S:
            self._offset = offset
        else:
            self._offset = min(self._offset + DRIFT * (now - self._at), offset)
        self._at = now
        return offset - self._offset


class Backlog:
    """For streams without a clock: how much of the stream waits, unread, in this machine's buffer of the connection."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._period_s = self._size = 0.0

    def of(self, size: int, waiting: int, now: float) -> float:
        """Seconds. size: bytes of the picture. waiting: bytes behind it. now: of time.perf_counter.

        Sizes and times between pictures are averaged. Times only where nothing waits: else pictures come as fast as they are read.
        """
        if waiting < size and self._at is not None:
            share = 0.1 if self._period_s else 1.0
            self._period_s += share * (now - self._at - self._period_s)
        self._size += (0.1 if self._size else 1.0) * (size - self._size)
        self._at = now
        return waiting / self._size * self._period_s if waiting >= size else 0.0
