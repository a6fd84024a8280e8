"""What errors of others say as a part of our lines."""

import pytest

from fastdmt_loaders.errors import first_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\nand more"), "one"),
        (ValueError("\n  one  \n"), "one"),
        (ValueError(), "ValueError"),
        (KeyError("a"), "'a'"),
        (FileNotFoundError(2, "No such file or directory", "x"), "No such file or directory"),
        (ValueError("cannot identify image file <_io.BytesIO object at 0x7f1e4ff0db20>"), "cannot identify image file"),
        (ValueError("x" * 1000), "x" * 300),
    ],
)
def test_an_error_of_others_is_a_part_of_a_line(error, said):
    assert first_line(error) == said
