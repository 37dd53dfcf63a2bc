"""What is known of a task from elsewhere: a number that results stand beside."""

from dataclasses import dataclass

from fallline.tasks.target import LOSS


@dataclass(frozen=True)
class Reference:
    """A result of another method on the same data, or the best that is possible.

    Args:
        value: the number.
        method: how it was reached, with its source, such as ``"Newton's method"``.
        name: what the number is of: a metric of the task, or ``"validation loss"``.

    Example:
        >>> Reference(2.28, "order-3 n-grams", "bits per character").text
        'bits per character 2.28: order-3 n-grams'
    """

    value: float
    method: str
    name: str = LOSS

    @property
    def text(self) -> str:
        """The reference in words."""
        return f"{self.name} {self.value:.6g}: {self.method}"
