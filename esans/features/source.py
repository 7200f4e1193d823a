"""What a text encoder reads of an item."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esans.columns import TEXT, TITLE
from esans.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def text_of(items: DataFrame) -> Column:
    """The text, or the title where it is blank, or ''.

    Raises:
        DataError: prepare mapped neither a text nor a title column.
    """
    from pyspark.sql import functions as F

    given = [F.col(name) for name in (TEXT, TITLE) if name in items.columns]
    if not given:
        raise DataError("items: there is no column 'text' or 'title'. Map one in the prepare section, or set features.text.encoder=none.")
    blank_as_null = [F.when(F.length(F.trim(column)) > 0, column) for column in given]
    return F.coalesce(*blank_as_null, F.lit(""))
