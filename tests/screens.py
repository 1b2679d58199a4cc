"""What a program may write to, in memory."""

import io


class Screen(io.StringIO):
    """A terminal, or a pipe if `is_terminal` is False, in some encoding."""

    def __init__(self, *, is_terminal: bool = True, encoding: str = "utf-8") -> None:
        super().__init__()
        self._is_terminal = is_terminal
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._is_terminal
