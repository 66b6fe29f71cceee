"""Reasons to refuse a weight file; `read_weights` prepends the file name."""

DAMAGED = "the file is damaged or cut short: fetch it again"
RESAVE = "if you trust it, load it in PyTorch and torch.save(model.state_dict(), FILE)"


class Refusal(Exception):
    """A reason to refuse a file.

    Attributes:
      offset: byte of the file with the problem, if known.
      remedy: advice to the user.
    """

    def __init__(self, reason: str, offset: int | None = None, remedy: str = DAMAGED):
        super().__init__(reason)
        self.offset = offset
        self.remedy = remedy


def shown(value: object) -> str:
    """Returns a value from a file as one short printable line."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number beyond 64 bits"
    if not isinstance(value, str | int | bytes | float | None):
        return type(value).__name__
    text = ascii(value[:61] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 64 else f"{text[:60]}..."
