"""Why a weight file is not read; `read_weights` puts the file's name before it."""

DAMAGED = "the file is damaged or cut short: fetch it again"
RESAVE = (
    "in PyTorch, where you trust the file, load it and "
    "torch.save(model.state_dict(), FILE)"
)


class Refusal(Exception):
    """A reason to stop reading.

    Attributes:
      offset: byte of the file where it showed, if that helps to find it.
      remedy: what the user can do.
    """

    def __init__(self, reason: str, offset: int | None = None, remedy: str = DAMAGED):
        super().__init__(reason)
        self.offset = offset
        self.remedy = remedy


def shown(value: object) -> str:
    """Returns text of a file for a message: one short printable line."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number beyond 64 bits"
    if not isinstance(value, str | int | bytes | float | None):
        return type(value).__name__
    text = ascii(value[:61] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 64 else f"{text[:60]}..."
