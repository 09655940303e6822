"""Decoding against Pillow used one step at a time, crops against their definition, damage against its message."""

import math
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from localsgd.errors import DataError
from localsgd.lab.data.image_folder_decoding import (
    Decoder,
    DecodingRequest,
    Undecodable,
    centre_box,
    random_crop,
    read_image,
)
from tests.small_images import make_image_folder, picture


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = make_image_folder(tmp_path_factory.mktemp("images"))
    return {path.stem: str(path) for path in sorted(folder.glob("train/*/*"))}


def request(*paths, seed=None):
    return DecodingRequest(paths=tuple(map(str, paths)), seed=seed)


def decoder(image_size=16, short_side=20):
    return Decoder(image_size=image_size, short_side=short_side)


def whole_then_middle(image, *, image_size, short_side):
    """The definition: resize the whole image, then cut out its middle."""
    shorter = min(image.size)
    sides = tuple(short_side if side == shorter else int(short_side * side / shorter) for side in image.size)
    left, top = (round((side - image_size) / 2) for side in sides)
    whole = image.resize(sides, Image.Resampling.BILINEAR)
    return np.asarray(whole.crop((left, top, left + image_size, top + image_size)))


def uniform(num, *, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.rand(num, 23, generator=source, dtype=torch.float64).tolist()


@pytest.mark.parametrize(
    ("name", "size"), [("grey", (31, 40)), ("cmyk", (26, 35)), ("palette", (28, 27)), ("tiny", (1, 3))]
)
def test_odd_files_become_colour_images_of_their_size(paths, name, size):
    image = read_image(paths[name])
    assert (image.mode, image.size) == ("RGB", size)


@pytest.mark.parametrize(("name", "seed", "tolerance"), [("cmyk", 2, 12), ("palette", 3, 60), ("n01_2", 20, 12)])
def test_colours_come_out_as_they_were_painted(paths, name, seed, tolerance):
    found = np.asarray(read_image(paths[name])).astype(int)
    painted = np.asarray(picture(found.shape[1], found.shape[0], seed=seed)).astype(int)
    assert np.abs(found - painted).mean() < tolerance / 4
    assert np.abs(found - painted).max() < 2 * tolerance


def test_grey_images_have_three_equal_channels(paths):
    found = np.asarray(read_image(paths["grey"]))
    assert (found == found[..., :1]).all()
    assert found.std() > 5


def test_a_rotation_noted_by_the_camera_is_ignored(tmp_path):
    notes = Image.Exif()
    notes[274] = 6  # turned by 90 degrees
    picture(30, 20).save(tmp_path / "turned.JPEG", exif=notes)
    assert read_image(tmp_path / "turned.JPEG").size == (30, 20)


def test_notes_that_cannot_be_read_do_not_matter(tmp_path):
    # Warnings are errors here, and Pillow warns of these.
    picture(30, 20).save(tmp_path / "noted.JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x09\x01\x0e")
    assert read_image(tmp_path / "noted.JPEG").size == (30, 20)


@pytest.mark.parametrize(("image_size", "short_side"), [(16, 20), (16, 16), (33, 64), (7, 100)])
def test_evaluation_shows_the_middle_of_the_resized_image(paths, image_size, short_side):
    found = decoder(image_size, short_side).decode(request(*paths.values()))
    assert (found.dtype, tuple(found.shape)) == (torch.uint8, (len(paths), image_size, image_size, 3))
    for pixels, path in zip(found, paths.values(), strict=True):
        expected = whole_then_middle(read_image(path), image_size=image_size, short_side=short_side)
        # Pillow keeps the edges of the part in single precision: a value may be rounded the other way.
        assert np.abs(pixels.numpy().astype(int) - expected).max() <= 1


def test_a_very_long_image_is_evaluated_without_resizing_all_of_it(tmp_path):
    picture(60_000, 1).save(tmp_path / "long.png")
    found = decoder(224, 256).decode(request(tmp_path / "long.png"))
    # As a whole it would be 256 x 15,360,000 pixels.
    assert tuple(found.shape) == (1, 224, 224, 3)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (37, 23), (3, 2), (1, 1), (90, 31)])
def test_boxes_lie_inside_of_the_image(size):
    for draws in uniform(300):
        left, top, right, bottom = random_crop(*size, draws=draws)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
    for image_size, short_side in ((224, 256), (16, 16), (1, 3)):
        left, top, right, bottom = centre_box(*size, image_size=image_size, short_side=short_side)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_crops_have_the_areas_aspects_and_places_that_they_should():
    width, height, num = 4000, 3000, 4000
    crops = [random_crop(width, height, draws=draws) for draws in uniform(num)]
    sides = [(right - left, bottom - top) for left, top, right, bottom in crops]
    areas = torch.tensor([wide * tall / (width * height) for wide, tall in sides])
    aspects = torch.tensor([math.log(wide / tall) for wide, tall in sides])
    assert areas.min() >= 0.0799
    assert aspects.abs().max() <= math.log(4 / 3) + 1e-3
    # Areas up to three quarters of a square always fit into 4 : 3: there the areas are uniform, tries that failed or not.
    small = areas[areas < 0.5]
    edges = torch.linspace(0.08, 0.5, 8)
    counts = torch.histogram(small, edges).hist
    # Chi-squared with 6 degrees of freedom: above 22.5 once in a thousand times, and the seed is fixed.
    assert float(((counts - len(small) / 7) ** 2 / (len(small) / 7)).sum()) < 22.5
    # Of the crops smaller than that, the aspects are uniform in the logarithm: mean 0, variance (2 log 4/3)^2 / 12.
    some = aspects[areas < 0.5]
    spread = 2 * math.log(4 / 3) / math.sqrt(12)
    assert abs(float(some.mean())) < 4 * spread / math.sqrt(len(some))
    assert float(some.std()) == pytest.approx(spread, rel=0.05)
    lefts = [crop[0] / (width - wide) for crop, (wide, _) in zip(crops, sides, strict=True) if wide < width]
    tops = [crop[1] / (height - tall) for crop, (_, tall) in zip(crops, sides, strict=True) if tall < height]
    for places in (lefts, tops):
        assert min(places) < 0.01
        assert max(places) > 0.99
        assert sum(places) / len(places) == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(places)))


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1000, 30), (480, 0, 520, 30)),  # 40 : 30 in the middle
        ((30, 1000), (0, 480, 30, 520)),  # 30 : 40
        ((3, 100), (0, 48, 3, 52)),
    ],
)
def test_an_image_too_long_for_any_crop_shows_its_middle(size, box):
    assert all(random_crop(*size, draws=draws) == box for draws in uniform(50))


def test_a_training_image_is_the_crop_resized_and_mirrored_half_of_the_time(paths):
    path = paths["n01_2"]
    found = decoder().decode(request(*[path] * 60, seed=5))
    draws = uniform(60, seed=5)
    image = read_image(path)
    for pixels, own in zip(found, draws, strict=True):
        crop = image.crop(random_crop(*image.size, draws=own)).resize((16, 16), Image.Resampling.BILINEAR)
        if own[-1] < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert np.array_equal(pixels.numpy(), np.asarray(crop))
    assert 20 <= sum(own[-1] < 0.5 for own in draws) <= 40


def test_what_is_random_depends_on_seed_and_place_alone(paths):
    one, two, three = paths["n01_2"], paths["tiny"], paths["n02_4"]
    first = decoder().decode(request(one, two, three, seed=1))
    again = decoder().decode(request(three, three, three, seed=1))
    other = decoder().decode(request(one, two, three, seed=2))
    assert torch.equal(first[2], again[2])
    assert not torch.equal(again[0], again[1])
    assert not torch.equal(first[2], other[2])


def test_torch_keeps_its_own_random_numbers(paths):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    decoder().decode(request(*paths.values(), seed=1))
    assert torch.equal(torch.rand(3), expected)


def cut(data):
    return data[: len(data) // 2]


def without_content(data):
    return b""


def text(data):
    return b"<html>404 not found</html>"


def scrambled(data):
    return data[:20] + bytes(reversed(data[20:]))


def too_large(data):
    header = data[12:16] + (60_000).to_bytes(4, "big") * 2 + data[24:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (cut, "JPEG", r"cannot be decoded \("),
        (cut, "PNG", r"cannot be decoded \("),
        (without_content, "JPEG", "is neither a JPEG nor a PNG image"),
        (text, "JPEG", "is neither a JPEG nor a PNG image"),
        (scrambled, "JPEG", "(cannot be decoded|is neither)"),
        (too_large, "PNG", r"cannot be decoded \(Image size \(3600000000 pixels\) exceeds limit"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason_and_a_remedy(tmp_path, damage, kind, message, seed):
    path = tmp_path / "damaged.JPEG"
    picture(60, 50).save(path, format=kind)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"damaged.JPEG {message}.*; put a sound copy in its place, or remove it"):
        decoder().decode(request(path, seed=seed))


def test_a_format_that_is_not_expected_is_refused(tmp_path):
    picture(20, 20).save(tmp_path / "bitmap.JPEG", format="BMP")
    with pytest.raises(DataError, match=r"bitmap\.JPEG is neither a JPEG nor a PNG image"):
        read_image(tmp_path / "bitmap.JPEG")


def test_a_file_that_vanished_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.JPEG is missing, and was there"):
        read_image(tmp_path / "gone.JPEG")


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        read_image(tmp_path)


def test_as_an_item_a_failure_is_told_and_not_raised(tmp_path, paths):
    answer = decoder()[request(paths["grey"], tmp_path / "gone.JPEG")]
    assert isinstance(answer, Undecodable)
    assert "gone.JPEG is missing" in answer.message


def test_as_an_item_a_batch_lies_in_shared_memory_before_anything_sends_it(paths):
    wanted = request(paths["grey"], paths["grey"])
    answer = decoder()[wanted]
    assert answer.is_shared()
    assert torch.equal(answer, decoder().decode(wanted))


def test_as_an_item_a_batch_without_room_in_shared_memory_is_told_of(paths, monkeypatch):
    def refuse(_):
        raise RuntimeError("No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    answer = decoder()[request(paths["grey"])]
    assert isinstance(answer, Undecodable)
    assert "no room in shared memory (No space left on device (28)); give more of it" in answer.message
