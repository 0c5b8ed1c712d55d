"""Files behind http and https, read as a stream that survives a lost connection."""

from __future__ import annotations

import http.client
import io
import time
import urllib.error
import urllib.request

from headwater.core.errors import InputError, UnreachableError

TIMEOUT_SECONDS = 60.0
"""Silence after which a connection is given up."""
ATTEMPTS = 5
"""Times that a file is asked for without a byte of progress."""
FIRST_WAIT_SECONDS = 1.0
"""Pause before the second attempt; each further one is twice as long. Common Crawl answers 503 to clients in a hurry."""
_FINAL = frozenset((400, 401, 403, 404, 405, 410, 451))  # answers that asking again does not change
_HINT = "check the address and the network, or download the files and give their folder"


def is_remote(path: str) -> bool:
    """Whether a path is an address on another machine."""
    return path.startswith(("http://", "https://"))


class RemoteFile(io.RawIOBase):
    """A file behind a URL; after a lost connection it is asked for again from where it broke off.

    Attributes:
        failed: why reading was given up, for callers whose libraries turn every error into their own.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.failed: InputError | None = None
        self._url = url
        self._place = 0
        self._size: int | None = None
        self._response: http.client.HTTPResponse | None = None

    def readable(self) -> bool:
        """A stream can be read."""
        return True

    def tell(self) -> int:
        """Bytes read so far."""
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, all by default; nothing at the end.

        Raises:
            InputError: the file cannot be had, however often it is asked for.
        """
        if self.failed:
            raise self.failed
        pieces = []
        while size and (piece := self._some(size)):
            pieces.append(piece)
            size = size - len(piece) if size > 0 else size
        return b"".join(pieces)

    def _some(self, size: int) -> bytes:
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
            try:
                if self._response is None:
                    self._response = self._ask()
                data = self._response.read(min(size, 1 << 20) if size > 0 else 1 << 20)
                if not data and self._size is not None and self._place < self._size:
                    raise OSError(f"the connection broke off after {self._place} of {self._size} bytes")
                self._place += len(data)
                return data
            except urllib.error.HTTPError as error:
                problem = f"the server answers {error.code} ({error.reason})"
                if error.code in _FINAL:
                    break
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", "") or error or type(error).__name__)
            self.close_response()
        self.failed = UnreachableError(f"cannot be read ({problem})", place=self._url, hint=_HINT)
        raise self.failed

    def _ask(self) -> http.client.HTTPResponse:
        """Ask for the file from the place on where reading stands."""
        headers = {"User-Agent": "headwater", "Accept-Encoding": "identity"}
        if self._place:
            headers["Range"] = f"bytes={self._place}-"
        request = urllib.request.Request(self._url, headers=headers)
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
        length = response.headers.get("Content-Length")
        already = self._place if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if length is not None:
            self._size = already + int(length)
        skip = self._place - already  # a server that knows no ranges begins anew
        while skip and (passed := response.read(min(skip, 1 << 20))):
            skip -= len(passed)
        return response

    def close_response(self) -> None:
        """Let the connection go."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def close(self) -> None:
        """Let the file go."""
        self.close_response()
        super().close()
