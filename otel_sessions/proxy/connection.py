"""A client's connection, on which nothing that comes early hides that the client is gone.

uvicorn stops reading when a second request comes before the first is answered, and so does not hear of a hang-up; a
stream can last for a day. Here it reads on, and what has come early waits for its turn.
"""

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_MOST_EARLY = 65536
"""Bytes of requests that may wait for their turn."""


class Connection(H11Protocol):
    """uvicorn's, but always reading while an answer is under way."""

    _early = b""

    def data_received(self, data: bytes) -> None:
        if not self._is_answering():
            super().data_received(data)
        elif len(self._early) + len(data) <= _MOST_EARLY:
            self._early += data
        else:
            self.transport.abort()  # nobody has so much to ask before there is an answer

    def handle_events(self) -> None:
        super().handle_events()
        if self._is_answering():
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._early and not self.transport.is_closing():
            early, self._early = self._early, b""
            self.data_received(early)

    def _is_answering(self) -> bool:
        """Return whether a request is here as a whole, and its answer is not."""
        return self.conn.their_state is h11.DONE and not self.cycle.response_complete
