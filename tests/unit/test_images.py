"""The contract of images: what a file becomes for an input of each layout, size and datatype, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slipway_client import InvalidInput, TensorSpec, TritonError, read_example, read_image

ANY_COLOUR = TensorSpec("image", "UINT8", (-1, -1, -1, 3))
ANY_GREY = TensorSpec("image", "UINT8", (-1, 1, -1, -1))

# Red, with one dark pixel at its upper left: 5 rows of 7.
PICTURE = np.zeros((5, 7, 3), np.uint8)
PICTURE[..., 0] = 255
PICTURE[0, 0] = (10, 20, 30)


def spec(datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec("image", datatype, shape)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (spec("FP32", -1, 3, 5, 7), PICTURE.transpose(2, 0, 1)[None] / np.float32(255)),
        (spec("FP16", -1, 5, 7, 3), (PICTURE[None] / np.float32(255)).astype(np.float16)),
        (spec("FP64", -1, 5, 7, 3), (PICTURE[None] / np.float32(255)).astype(np.float64)),
        (spec("BF16", -1, 5, 7, 3), PICTURE[None] / np.float32(255)),
        (spec("UINT8", -1, 5, 7, 3), PICTURE[None]),
        (spec("UINT8", 1, 3, 5, 7), PICTURE.transpose(2, 0, 1)[None]),
        (spec("UINT8", 3, 5, 7), PICTURE.transpose(2, 0, 1)),
        (spec("UINT8", 5, 7, 3), PICTURE),
        (spec("UINT8", -1, -1, -1, 3), PICTURE[None]),
        (spec("UINT8", -1, 3, -1, 7), PICTURE.transpose(2, 0, 1)[None]),
        (spec("UINT8", -1, 5, 7, 4), np.dstack([PICTURE, np.full((5, 7), 255, np.uint8)])[None]),
        (spec("UINT8", -1, 4, 4, 3), None),  # 4 is a height here: another size
        (spec("UINT8", -1, 1, 5, 7), np.asarray(Image.fromarray(PICTURE).convert("L"))[None, None]),
        (spec("UINT8", -1, 5, 7, 1), np.asarray(Image.fromarray(PICTURE).convert("L"))[None, ..., None]),
    ],
    ids=str,
)
def test_an_image_comes_in_the_layout_and_datatype_of_the_input(
    picture: Path, tensor: TensorSpec, expected: np.typing.NDArray[np.generic] | None
) -> None:
    if expected is None:
        with pytest.raises(InvalidInput, match=r"expected 4 x 4 pixels \(width x height\) for UINT8"):
            read_image(picture, tensor)
        return
    found = read_image(picture, tensor)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert tensor.fits(found.shape)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (spec("FP32", -1, 3, 7, 5), r"expected 5 x 7 pixels \(width x height\) .*, got 7 x 5: nothing is resized here"),
        (spec("FP32", -1, 3, -1, 5), r"expected 5 x any pixels \(width x height\) .*, got 7 x 5"),
        (spec("INT32", -1, 3, 5, 7), r"in a \.npy file, got an image: it would be UINT8 or floating point, and not"),
        (spec("FP32", -1, 3, 5, 3), r"in a \.npy file, got an image, which is \[n, channels, height, width\] or"),
        (spec("FP32", 8, 3, 5, 7), r"in a \.npy file, got an image, which is"),
        (spec("FP32", -1, 5, 7), r"in a \.npy file, got an image, which is"),
        (spec("FP32", -1, 5, 3), r"in a \.npy file, got an image, which is"),  # rows of an example, or of a picture
    ],
    ids=str,
)
def test_what_an_image_cannot_be_is_refused_with_what_is_expected(
    picture: Path, tensor: TensorSpec, message: str
) -> None:
    with pytest.raises(InvalidInput, match=rf"picture\.png: .*{message}"):
        read_example(picture, tensor)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_comes_as_it_is_displayed_whatever_its_exif_orientation(tmp_path: Path, orientation: int) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(PICTURE)
    stored = stored.transpose(turns[orientation]) if orientation in turns else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png", spec("UINT8", -1, 5, 7, 3))[0], PICTURE)


def test_damaged_exif_data_leave_the_picture_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "odd.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image(tmp_path / "odd.png", ANY_COLOUR)[0], PICTURE)


def test_white_is_behind_transparent_pixels_and_their_hidden_colours_do_not_show(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 8, 7, 1, 2, 3])
    palette.putpixel((1, 0), 1)
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 128))
    half.putpixel((0, 0), (9, 9, 9, 0))
    keyed = Image.new("RGB", (2, 1), (1, 2, 3))
    keyed.putpixel((0, 0), (5, 6, 7))
    grey = Image.new("LA", (2, 1), (40, 255))
    grey.putpixel((0, 0), (40, 0))
    palette.save(tmp_path / "palette.png", transparency=0)
    palette.save(tmp_path / "palette.gif", transparency=0)
    keyed.save(tmp_path / "keyed.png", transparency=(5, 6, 7))
    half.save(tmp_path / "half.png")
    grey.save(tmp_path / "grey.png")
    seen = {
        "palette.png": [255, 255, 255, 1, 2, 3],
        "palette.gif": [255, 255, 255, 1, 2, 3],
        "keyed.png": [255, 255, 255, 1, 2, 3],
        "half.png": [255, 255, 255, 255, 127, 127],
        "grey.png": [255, 255, 255, 40, 40, 40],
    }
    assert {name: read_image(tmp_path / name, ANY_COLOUR).ravel().tolist() for name in seen} == seen
    assert read_image(tmp_path / "grey.png", ANY_GREY).ravel().tolist() == [255, 40]
    four = read_image(tmp_path / "half.png", spec("UINT8", -1, 4, -1, -1))  # a model that takes alpha gets it
    assert four.ravel().tolist() == [9, 255, 9, 0, 9, 0, 0, 128]


def test_other_modes_become_the_colours_that_they_show(tmp_path: Path) -> None:
    bits = Image.new("1", (2, 1), 1)
    bits.putpixel((0, 0), 0)
    bits.save(tmp_path / "bits.png")
    assert read_image(tmp_path / "bits.png", ANY_GREY).ravel().tolist() == [0, 255]
    Image.new("CMYK", (1, 1), (0, 255, 255, 0)).save(tmp_path / "ink.tif")
    assert read_image(tmp_path / "ink.tif", ANY_COLOUR).ravel().tolist() == [255, 0, 0]
    first, second = (Image.new("RGB", (1, 1), colour) for colour in ("red", "lime"))
    for name in ("moves.gif", "moves.png", "pages.tif"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        assert read_image(tmp_path / name, ANY_COLOUR).ravel().tolist() == [255, 0, 0], name


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_images_whose_brightness_would_be_read_wrongly_are_refused(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.full((2, 5), 7, dtype)).save(tmp_path / "deep.tif")
    with pytest.raises(InvalidInput, match=r"deep\.tif: expected an image of 8 bits a channel, got one of mode [IF]"):
        read_image(tmp_path / "deep.tif", ANY_GREY)


@pytest.mark.parametrize("name", ["text.png", "text.npy", "absent.png", "absent.npy", "cut.png", "folder.png"])
def test_a_file_that_is_no_image_and_no_array_is_refused(tmp_path: Path, picture: Path, name: str) -> None:
    if name.startswith("text"):
        (tmp_path / name).write_text("not an image")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:60])
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InvalidInput, match=name):
        read_image(tmp_path / name, spec("FP32", -1, 1, 2, 5))


def test_arrays_are_taken_as_they_are_with_or_without_their_first_dimension_and_one_channel(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.full((2, 5), 7, np.float32))
    for tensor in (spec("FP32", -1, 1, 2, 5), spec("FP32", -1, 2, 5, 1), spec("FP32", -1, 1, -1, -1)):
        found = read_image(tmp_path / "flat.npy", tensor)
        assert tensor.fits(found.shape)
        assert (found == 7).all()
    assert read_image(tmp_path / "flat.npy", spec("FP32", 1, 2, 5)).shape == (1, 2, 5)
    with pytest.raises(InvalidInput, match=r"FP32 \[3, 2, 5\]\) in a \.npy file, got shape \[2, 5\]"):
        read_image(tmp_path / "flat.npy", spec("FP32", -1, 3, 2, 5))
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(InvalidInput, match="an archive of several"):
        read_image(tmp_path / "archive.npy", spec("FP32", -1, 1, 2, 5))


def test_without_pillow_an_image_says_what_to_install(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(TritonError, match=r"images need Pillow, .*: `pip install slipway-client\[images\]`"):
        read_image(picture, ANY_COLOUR)
