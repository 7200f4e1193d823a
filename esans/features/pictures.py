"""Pictures from bytes or URIs: what cannot be read or decoded has a kind and a reason, and never becomes a vector."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from esans.roots import refusal

if TYPE_CHECKING:
    from PIL.Image import Image

OK, CORRUPT, UNREADABLE, TOO_LARGE = "ok", "corrupt", "unreadable", "too_large"
PROBLEMS = (CORRUPT, UNREADABLE, TOO_LARGE)
_DETAIL_LENGTH = 200


class Refused(Exception):
    """A picture that has no vector: `kind` is one of PROBLEMS, the text says why."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason[:_DETAIL_LENGTH])
        self.kind = kind


@dataclass(frozen=True)
class Limits:
    """What one picture may cost a worker."""

    max_bytes: int
    max_pixels: int
    roots: tuple[str, ...] = ()
    """Where a URI may point; anywhere when empty."""


def read(uri: str, limits: Limits) -> bytes:
    """The bytes at a URI or local path. Raises Refused: unreadable, or too large."""
    import fsspec

    if limits.roots and (problem := refusal(uri, limits.roots)) is not None:
        raise Refused(UNREADABLE, f"the URI {problem}")
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        with filesystem.open(path, "rb") as stream:
            found: bytes = stream.read(limits.max_bytes + 1)
    # Any store may raise anything; one bad URI must not stop a build of millions.
    except Exception as error:
        raise Refused(UNREADABLE, f"{type(error).__name__}: {error}") from None
    if len(found) > limits.max_bytes:
        raise Refused(TOO_LARGE, f"more than {limits.max_bytes:,} bytes")
    return found


def decode(content: bytes, limits: Limits) -> Image:
    """The first frame in RGB. Raises Refused: corrupt, cut short, empty, or of more pixels than allowed (a decompression bomb)."""
    from PIL import Image

    if not content:
        raise Refused(CORRUPT, "no bytes")
    if len(content) > limits.max_bytes:
        raise Refused(TOO_LARGE, f"{len(content):,} bytes, and {limits.max_bytes:,} are allowed")
    _bound_pillow(limits.max_pixels)
    try:
        with Image.open(io.BytesIO(content)) as image:
            # The header alone has been read so far.
            pixels = image.width * image.height
            if pixels > limits.max_pixels:
                raise Refused(TOO_LARGE, f"{pixels:,} pixels, and {limits.max_pixels:,} are allowed")
            return image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise Refused(TOO_LARGE, str(error)) from None
    except Refused:
        raise
    # Decoders raise whatever a broken file leads them to: OSError, SyntaxError, struct.error, zlib.error ...
    except Exception as error:
        raise Refused(CORRUPT, f"{type(error).__name__}: {error}") from None


@lru_cache(maxsize=1)
def _bound_pillow(max_pixels: int) -> None:
    # Formats that hold pictures inside pictures ask Pillow's own bound. What it warns of is refused here.
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def attempt(work: Callable[[Any], Any], contents: Iterable[Any], threads: int) -> Iterator[tuple[Any, str, str | None]]:
    """(result or None, OK or the kind of problem, its reason) of each, in order, on a small thread pool."""

    def one(content: Any) -> tuple[Any, str, str | None]:
        try:
            return work(content), OK, None
        except Refused as refused:
            return None, refused.kind, str(refused)

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(one, contents)
