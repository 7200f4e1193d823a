"""Pictures: what opens, what does not and why; no broken file gets past as a picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.features.pictures import CORRUPT, OK, TOO_LARGE, UNREADABLE, Limits, Refused, attempt, decode, read

Image = pytest.importorskip("PIL.Image")
LIMITS = Limits(max_bytes=1 << 20, max_pixels=50_000)


def picture(kind: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (60, 40), seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(stream, kind)
    return stream.getvalue()


def outcome(content):
    return next(attempt(lambda one: decode(one, LIMITS), [content], 2))[1:]


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P"), ("WEBP", "RGB")])
def test_every_usual_format_and_mode_opens_in_rgb(kind, mode):
    image = decode(picture(kind, mode), LIMITS)
    assert (image.mode, image.size) == ("RGB", (60, 40))


def test_no_bytes_noise_a_torn_file_and_a_bomb_each_have_their_kind():
    whole = picture()
    assert outcome(b"") == (CORRUPT, "no bytes")
    assert outcome(b"\xff\xd8 no picture")[0] == CORRUPT
    assert outcome(whole[: len(whole) // 2])[0] == CORRUPT
    assert outcome(picture(size=(300, 200))) == (TOO_LARGE, "60,000 pixels, and 50,000 are allowed")
    assert outcome(picture(size=(1000, 1000)))[0] == TOO_LARGE
    assert outcome(b"x" * (2 << 20)) == (TOO_LARGE, "2,097,152 bytes, and 1,048,576 are allowed")
    assert outcome(whole) == (OK, None)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2_000), place=st.integers(0, 2_000), byte=st.integers(0, 255))
def test_whatever_happened_to_a_file_it_opens_as_a_picture_or_is_refused_as_corrupt(cut, place, byte):
    content = bytearray(picture("PNG"))
    content[place % len(content)] = byte
    damaged = bytes(content[: max(len(content) - cut, 0)])
    image, status, reason = next(attempt(lambda one: decode(one, LIMITS), [damaged], 1))
    assert status in (CORRUPT, TOO_LARGE) if image is None else (image.mode, status, reason) == ("RGB", OK, None)


def test_a_uri_that_cannot_be_read_is_refused_with_the_reason_and_a_large_file_is_not_read_whole(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"12345")
    assert read(f"file://{tmp_path}/a.jpg", LIMITS) == read(f"{tmp_path}/a.jpg", LIMITS) == b"12345"
    for uri, reason in ((f"file://{tmp_path}/none.jpg", "FileNotFoundError"), ("nowhere://x", "Protocol not known: nowhere")):
        with pytest.raises(Refused, match=reason) as refused:
            read(uri, LIMITS)
        assert refused.value.kind == UNREADABLE
    with pytest.raises(Refused) as refused:
        read(f"file://{tmp_path}/a.jpg", Limits(4, 1))
    assert (refused.value.kind, str(refused.value)) == (TOO_LARGE, "more than 4 bytes")
