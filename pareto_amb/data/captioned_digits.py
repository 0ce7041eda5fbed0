"""Captions of the digits, half of them unique: text and images that need no download."""

from collections.abc import Sequence

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SYLLABLES = (
    "ba", "do", "fe", "gi", "ka", "lu", "me", "no", "pi", "ra", "so", "ta", "ve", "wu", "zi", "hy",
)  # fmt: skip

N_NAMES = len(_SYLLABLES) ** 3

_STEP = 2531
"""Odd, so that no two numbers below N_NAMES share a name; neighbours then differ in every syllable."""


def caption_digits(labels: Sequence[int]) -> tuple[str, ...]:
    """The caption of each digit, by its place in the set and its label, 0 to 9.

    Every second one, from the first on, shares that of its class, "a handwritten seven". Each of the others
    has a writer of its own, "a handwritten seven by Bafedo".
    """
    captions = []
    for index, label in enumerate(labels):
        shared = f"a handwritten {_WORDS[label]}"
        captions.append(f"{shared} by {writer(index // 2)}" if index % 2 else shared)
    return tuple(captions)


def writer(number: int) -> str:
    """A made-up name, one for each number below N_NAMES."""
    place = number * _STEP % N_NAMES
    digits = (place // 256, place // 16 % 16, place % 16)
    return "".join(_SYLLABLES[digit] for digit in digits).capitalize()


def named_digit(caption: str) -> int | None:
    """The digit that a caption names, its words in any order; None where it names none or several."""
    named = [word for word in caption.split() if word in _WORDS]
    return _WORDS.index(named[0]) if len(named) == 1 else None
