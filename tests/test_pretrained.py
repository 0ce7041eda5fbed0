"""Models of others: what is missing is said, and nothing is made up in its place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pareto_amb.diffusion.text.pipeline import load_pipeline
from pareto_amb.errors import UserError
from pareto_amb.pretrained import library


def test_a_pipeline_without_words_is_refused(write_pipeline: Callable[..., Path]) -> None:
    folder = write_pipeline()
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"^[^\n]*tokenizer: holds no tokenizer[^\n]*$"):
        load_pipeline(str(folder))


def test_a_missing_library_names_what_needs_it_and_the_extra() -> None:
    with pytest.raises(UserError, match=r"^the CLIP score needs no_such_library, .*pareto-amb\[text\]"):
        library("no_such_library", "the CLIP score")
