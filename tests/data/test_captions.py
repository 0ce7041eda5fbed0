import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from pareto_amb.config import DataConfig
from pareto_amb.config_file import parse
from pareto_amb.data import ImageSet, captions, files, load_images, take_training_set
from pareto_amb.data.captioned_digits import N_NAMES, writer
from pareto_amb.data.prepare import prepare
from pareto_amb.errors import UserError
from pareto_amb.printable import printable

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = {name: picture(seed) for seed, name in enumerate(("a.png", "b.PNG", "sub/c.png"))}
TEXTS = {"a.png": "a red fox", "b.PNG": "a blue fox", "sub/c.png": "no fox"}

Contents = dict[str, bytes]


def metadata(texts: dict[str, object]) -> Contents:
    rows = [{"file_name": name, "text": text} for name, text in texts.items()]
    return {"metadata.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows).encode()}


def dataset_json(texts: dict[str, object]) -> Contents:
    return {"dataset.json": json.dumps({"labels": None, "captions": list(texts.items())}).encode()}


def sidecars(texts: dict[str, object]) -> Contents:
    return {str(Path(name).with_suffix(".txt")): str(text).encode() for name, text in texts.items()}


FORMS = (metadata, dataset_json, sidecars)
form_of_captions = pytest.mark.parametrize("form", FORMS)


def in_folder(root: Path, contents: Contents) -> Path:
    for name, content in contents.items():
        (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "set" / name).write_bytes(content)
    return root / "set"


def in_zip(root: Path, contents: Contents) -> Path:
    with zipfile.ZipFile(root / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return root / "set.zip"


def in_tar(root: Path, contents: Contents) -> Path:
    with tarfile.open(root / "set.tar", "w") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return root / "set.tar"


@pytest.fixture(params=[in_folder, in_zip, in_tar])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Contents], Path]:
    """Makes a folder, a zip or a tar of IMAGES and of what it is handed."""
    return lambda contents: request.param(tmp_path, IMAGES | contents)


def load(path: Path, **options) -> ImageSet:
    options = {"captions": True} | options
    return load_images(DataConfig(source="images", path=str(path), resolution=4, **options))


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        load(path, **options)
    assert printable(caught.value) == str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


# --- where captions come from -------------------------------------------------------------------


@form_of_captions
def test_each_form_gives_every_image_its_caption(write: Callable[[Contents], Path], form):
    loaded = load(write(form(dict(reversed(TEXTS.items())))))
    assert loaded.captions == ("a red fox", "a blue fox", "no fox")
    assert not loaded.notes


def test_file_names_are_relative_to_the_folder_of_their_metadata(write: Callable[[Contents], Path]):
    inner = b'{"file_name": "c.png", "text": "no fox"}'
    outer = metadata({"a.png": "a red fox", "./b.PNG": "a blue fox"})
    assert load(write(outer | {"sub/metadata.jsonl": inner})).captions == tuple(TEXTS.values())


def test_the_first_form_that_holds_a_caption_gives_them_all(write: Callable[[Contents], Path]):
    later = sidecars(dict.fromkeys(TEXTS, "from a text file")) | dataset_json(TEXTS)
    without = b'{"file_name": "a.png", "label": 3}\n{"file_name": "b.PNG", "text": null}\n'
    assert load(write(later | {"metadata.jsonl": without})).captions == tuple(TEXTS.values())
    first = metadata(dict.fromkeys(TEXTS, "from the metadata"))
    assert load(write(later | first)).captions == ("from the metadata",) * 3


def test_white_space_becomes_single_and_a_byte_order_mark_is_no_text(write: Callable[[Contents], Path]):
    texts = {"a.png": "\ufeff  a red\r\n\tfox \n", "b.PNG": "a\u2028blue\u00a0fox", "sub/c.png": "no  fox"}
    assert load(write(sidecars(texts))).captions == tuple(TEXTS.values())


def test_labels_stand_beside_captions(write: Callable[[Contents], Path]):
    both = {"labels": [[name, 4] for name in TEXTS], "captions": list(TEXTS.items())}
    loaded = load(write({"dataset.json": json.dumps(both).encode()}))
    assert loaded.captions == tuple(TEXTS.values())
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [4, 4, 4]


def test_captions_are_not_even_looked_at_where_they_are_not_wanted(write: Callable[[Contents], Path]):
    plain = load(write({}), captions=False)
    hostile = {"metadata.jsonl": b"\xff", "a.txt": b"\x00" * (files.MAX_SIDECAR_BYTES + 1)}
    loaded = load(write(hostile), captions=False)
    assert loaded.captions is None
    assert loaded.fingerprint == plain.fingerprint


def test_the_fingerprint_is_of_the_captions_too(tmp_path: Path):
    changed = metadata(TEXTS | {"a.png": "a red ox"})
    sets = (metadata(TEXTS), sidecars(TEXTS), changed, {})
    found = [
        load(in_folder(tmp_path / str(number), IMAGES | contents), captions=bool(contents)).fingerprint
        for number, contents in enumerate(sets)
    ]
    assert found[0] == found[1]
    assert len(set(found)) == 3


# --- images without one -------------------------------------------------------------------------


@form_of_captions
@pytest.mark.parametrize("lacking", ["", " \n "])
def test_images_without_a_caption_are_named_or_left_out(write: Callable[[Contents], Path], form, lacking):
    path = write(form({"a.png": "a red fox", "b.PNG": lacking}))
    message = refusal(path)
    assert "2 of 3 images have no caption: 'b.PNG', 'sub/c.png'; add" in message
    assert "data.skip_uncaptioned=true" in message
    loaded = load(path, skip_uncaptioned=True)
    assert loaded.captions == ("a red fox",)
    assert loaded.notes == ("images without a caption are left out: 2 of 3",)
    assert torch.equal(loaded.images, load(path, captions=False).images[:1])


def test_of_many_images_without_a_caption_five_are_named(tmp_path: Path):
    many = {f"{k}.png": IMAGES["a.png"] for k in range(9)}
    message = refusal(in_folder(tmp_path, many | metadata({"0.png": "the only one"})))
    assert (
        "8 of 9 images have no caption: '1.png', '2.png', '3.png', '4.png', '5.png' and 3 more; " in message
    )
    assert "add their lines to metadata.jsonl" in message


@pytest.mark.parametrize(
    "contents", [{}, {"metadata.csv": b"file_name,text\na.png,a fox\n"}, {"a.txt": b"\n"}]
)
def test_a_set_without_captions_is_told_the_three_forms(
    write: Callable[[Contents], Path], contents: Contents
):
    for skip in (False, True):
        message = refusal(write(contents), skip_uncaptioned=skip)
        assert all(form in message for form in ("metadata.jsonl", "dataset.json", ".txt"))


# --- hostile files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "line 2, is not JSON"),
        (b"[" * 100_000, "line 2, is not JSON"),
        (b"[]", "line 2, [] is not"),
        (b'{"text": "a fox"}', "line 2, {'text': 'a fox'} is not"),
        (b'{"file_name": 3, "text": "a fox"}', "is not"),
        (b'{"file_name": "b.PNG", "text": ["a fox"]}', "is not"),
        (b'{"file_name": "d.png", "text": "a fox"}', "names 'd.png', which is not there"),
        (b'{"file_name": "../a.png", "text": "a fox"}', "names '../a.png', which is not there"),
        (b'{"file_name": "/etc/passwd", "text": "a fox"}', "names '/etc/passwd', which is not there"),
        (b'{"file_name": "./a.png", "text": "a fox"}', "names 'a.png' twice"),
        (b'{"file_name": "b.PNG", "text": "a\\u0000fox"}', r"the caption of 'b.PNG' holds the control"),
        (b'{"file_name": "b.PNG", "text": "a\\ud800fox"}', r"holds the control character \ud800"),
        (b'{"file_name": "b.PNG", "text": "a\\u001b[2Jfox"}', r"holds the control character \x1b"),
        (b'{"file_name": "b.PNG", "text": "a\\u202efox"}', r"holds the control character \u202e"),
        (b'{"file_name": "b.PNG", "text": "%s"}' % (b"x" * 10_001), "has 10,001 characters"),
        (b'{"file_name": "b.PNG", "text": "\xe4"}', "is not UTF-8"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(write: Callable[[Contents], Path], line: bytes, said: str):
    first = b'{"file_name": "a.png", "text": "a red fox"}\n'
    message = refusal(write({"metadata.jsonl": first + line}), skip_uncaptioned=True)
    assert "metadata.jsonl" in message
    assert said in message


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({"a.png": "a fox"}, '"captions" must be a list'),
        ("a fox", '"captions" must be a list'),
        ([["a.png"]], "['a.png'] is not [name, text]"),
        ([["a.png", 3]], "is not [name, text]"),
        ([["a.png", "a fox", 1]], "is not [name, text]"),
        ([["d.png", "a fox"]], "names 'd.png', which is not there"),
        ([["a.png", "a fox"], ["a.png", ""]], "names 'a.png' twice"),
        ([["a.png", "a\u0007fox"]], r"holds the control character \x07"),
        ([["a.png", "x" * 10_001]], "has 10,001 characters"),
    ],
)
def test_captions_of_a_dataset_json_that_cannot_be_used_are_refused(
    write: Callable[[Contents], Path], pairs: object, said: str
):
    message = refusal(
        write({"dataset.json": json.dumps({"captions": pairs}).encode()}), skip_uncaptioned=True
    )
    assert "dataset.json" in message
    assert said in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a fox".encode("utf-16"), "is not UTF-8"),
        (b"a\x00fox", r"holds the control character \x00"),
        (b"x" * 10_001, "has 10,001 characters"),
        (b"x" * (files.MAX_SIDECAR_BYTES + 1), "has 65,537 bytes, more than 65,536"),
    ],
)
def test_a_text_file_that_cannot_be_used_is_refused(
    write: Callable[[Contents], Path], content: bytes, said: str
):
    message = refusal(write({"a.txt": content}), skip_uncaptioned=True)
    assert "a.txt" in message
    assert said in message


def test_ten_thousand_characters_of_any_script_are_a_caption(write: Callable[[Contents], Path]):
    assert load(write(sidecars(dict.fromkeys(TEXTS, "狐" * 10_000)))).captions == ("狐" * 10_000,) * 3


@form_of_captions
def test_what_a_set_says_is_bounded_in_all(
    write: Callable[[Contents], Path], form, monkeypatch: pytest.MonkeyPatch
):
    path = write(form(TEXTS))
    for module in (files, captions):
        monkeypatch.setattr(module, "MAX_LABEL_BYTES", 20)
    assert "bytes" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["metadata.jsonl", "sub/metadata.jsonl", "a.txt"])
def test_entries_with_captions_are_checked_like_images(tmp_path: Path, name: str):
    path = in_zip(tmp_path, IMAGES | {name: b"a fox"})
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"another fox")
    assert f"'{name}' is in the zip twice" in refusal(path)
    encrypted = bytearray(whole)
    encrypted[whole.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(encrypted)
    assert f"'{name}' is encrypted" in refusal(path)
    assert load(path, captions=False).captions is None


# --- named sets ---------------------------------------------------------------------------------


def test_half_of_the_digits_share_captions_and_half_have_their_own():
    digits = load_images(DataConfig(source="digits", resolution=8, channels=1, captions=True))
    labels = load_digits().target
    assert digits.captions is not None
    shared, unique = digits.captions[::2], digits.captions[1::2]
    assert list(shared) == [f"a handwritten {WORDS[label]}" for label in labels[::2]]
    assert (len(shared), len(set(shared))) == (899, 10)
    assert (len(unique), len(set(unique))) == (898, 898)
    assert len({caption.split(" by ")[1] for caption in unique}) == 898
    for caption, label in zip(unique, labels[1::2], strict=True):
        assert caption.startswith(f"a handwritten {WORDS[label]} by ")
    assert digits.captions[:4] == (
        "a handwritten zero",
        "a handwritten one by Bababa",
        "a handwritten two",
        "a handwritten three by Razigi",
    )
    plain = load_images(DataConfig(source="digits", resolution=8, channels=1))
    assert plain.captions is None
    assert plain.fingerprint != digits.fingerprint
    assert torch.equal(plain.images, digits.images)


def test_writers_are_all_different_and_neighbours_share_no_syllable():
    names = [writer(number).lower() for number in range(N_NAMES)]
    assert len(set(names)) == N_NAMES
    for first, second in pairwise(names):
        assert all(first[at : at + 2] != second[at : at + 2] for at in (0, 2, 4))


def test_cifar10_has_no_captions_and_is_not_fetched_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PARETO_AMB_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.CIFAR10", None)
    with pytest.raises(UserError, match=r"^data\.captions is true but cifar10 has no captions; .*$"):
        load_images(DataConfig(source="cifar10", resolution=32, captions=True))


def test_cifar10_from_a_captioned_folder(tmp_path: Path):
    path = in_folder(tmp_path, IMAGES | metadata(TEXTS))
    loaded = load_images(DataConfig(source="cifar10", path=str(path), resolution=4, captions=True))
    assert loaded.captions == tuple(TEXTS.values())


def test_captions_and_classes_together_are_refused():
    with pytest.raises(UserError, match=r"^mine: captions and conditional are both true; [^\n]*$"):
        parse(DataConfig, {"captions": True, "conditional": True}, "mine")


# --- training sets and prepared zips ------------------------------------------------------------


def test_a_training_set_has_the_captions_of_its_images(tmp_path: Path):
    path = in_folder(tmp_path, IMAGES | metadata(TEXTS))
    index = torch.tensor([2, 0])
    taken = take_training_set(load(path), index, conditional=False)
    assert taken.captions == ("no fox", "a red fox")
    assert taken.ids == [2, 0]
    assert take_training_set(load(path, captions=False), index, conditional=False).captions is None


characters = st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff")
texts = st.text(st.one_of(characters, st.sampled_from(" \n\t\r"))).filter(
    lambda text: printable(" ".join(text.split())) == " ".join(text.split())
)


@settings(max_examples=40, deadline=None)
@given(st.lists(texts, min_size=3, max_size=3).filter(lambda found: any(map(str.strip, found))), st.data())
def test_captions_survive_preparing(found: list[str], data: st.DataObject):
    written, form = data.draw(st.sampled_from([in_folder, in_zip])), data.draw(st.sampled_from(FORMS))
    with tempfile.TemporaryDirectory() as root:
        path = written(Path(root), IMAGES | form(dict(zip(IMAGES, found, strict=True))))
        output = Path(root) / "prepared.zip"
        done = prepare(str(path), output, 4, 3, skip_uncaptioned=True)
        before, after = load(path, skip_uncaptioned=True), load(output)
    assert after.captions == tuple(filter(None, (" ".join(text.split()) for text in found)))
    assert after.fingerprint == before.fingerprint
    assert (done.images, done.captioned) == (len(after.images), True)
