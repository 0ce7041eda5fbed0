import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_amb.data import ImageSet, Split, split
from pareto_amb.data.subsets import distinct
from pareto_amb.errors import UserError


def image_set(n_images: int, labels: list[int] | None = None) -> ImageSet:
    """Images that all differ."""
    numbers = torch.arange(n_images)
    images = torch.stack([numbers % 256, numbers // 256], dim=1).to(torch.uint8)
    return ImageSet(
        images=images.reshape(n_images, 1, 1, 2),
        labels=None if labels is None else torch.tensor(labels),
        n_classes=0 if labels is None else max(labels) + 1,
        name="numbers",
        fingerprint="",
    )


def as_lists(subset: Split) -> tuple[list[int], list[int]]:
    return subset.train.tolist(), subset.heldout.tolist()


labels_of_sets = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(labels_of_sets, st.booleans(), st.integers(0, 2**62), st.data())
def test_subsets_are_nested_and_a_partition(labels, conditional, seed, data):
    images = image_set(len(labels), labels)
    size = data.draw(st.integers(0, len(labels)))
    train, heldout = as_lists(split(images, size, seed, conditional))
    assert len(train) == size
    assert sorted(train + heldout) == list(range(len(labels)))
    assert as_lists(split(images, len(labels), seed, conditional))[0][:size] == train


@settings(max_examples=50, deadline=None)
@given(labels_of_sets, st.integers(0, 2**62), st.data())
def test_conditional_subsets_are_as_balanced_as_the_set_allows(labels, seed, data):
    size = data.draw(st.integers(1, len(labels)))
    train = split(image_set(len(labels), labels), size, seed, conditional=True).train
    taken = torch.tensor(labels)[train].bincount(minlength=5)
    there = torch.tensor(labels).bincount(minlength=5)
    not_exhausted = taken < there
    assert (taken[not_exhausted] >= taken.max() - 1).all()


@settings(max_examples=50, deadline=None)
@given(labels_of_sets, st.integers(0, 2**62), st.data())
def test_labels_play_no_part_in_the_subset_of_an_unconditional_training(labels, seed, data):
    size = data.draw(st.integers(1, len(labels)))
    labelled, plain = image_set(len(labels), labels), image_set(len(labels))
    assert as_lists(split(labelled, size, seed, False)) == as_lists(split(plain, size, seed, False))


def test_a_random_subset_has_the_classes_that_fall_to_it():
    """Of 10 classes of 100, 100 images at random: a chi-square of 9 degrees each, not the zero of balance."""
    images = image_set(1000, [index % 10 for index in range(1000)])
    spreads = []
    for seed in range(50):
        train = split(images, 100, seed, conditional=False).train
        counts = images.labels[train].bincount(minlength=10)
        spreads.append(float(((counts - 10) ** 2 / 10).sum()))
        balanced = split(images, 100, seed, conditional=True).train
        assert (images.labels[balanced].bincount(minlength=10) == 10).all()
    expected = 9 * (1000 - 100) / (1000 - 1)  # drawn without replacement
    assert abs(sum(spreads) / 50 - expected) < 4 * (2 * expected / 50) ** 0.5


def test_the_draw_depends_on_the_seed_alone():
    images = image_set(100)
    assert as_lists(split(images, 20, 1, False)) == as_lists(split(images, 20, 1, False))
    assert as_lists(split(images, 20, 1, False)) != as_lists(split(images, 20, 2, False))
    assert split(images, 20, 1, False).train.dtype == torch.int64


def test_the_draw_is_the_same_in_every_version():
    assert split(image_set(10), 5, 0, False).train.tolist() == [8, 4, 6, 1, 3]


def test_held_out_copies_of_training_images_are_dropped():
    images = image_set(40)
    images.images[20:] = images.images[:20].clone()
    train, heldout = as_lists(split(images, 10, 3, False))
    assert len(train) == 10
    assert not {index % 20 for index in train} & {index % 20 for index in heldout}
    copies = [i for i in range(40) if i not in train and i % 20 in {j % 20 for j in train}]
    assert sorted(heldout + copies + train) == list(range(40))


def test_the_whole_set_leaves_nothing_held_out():
    assert split(image_set(5), 5, 0, False).heldout.shape == (0,)


def test_a_size_above_the_set_is_refused_with_both_numbers():
    with pytest.raises(UserError, match=r"space\.train_size: 6 is more than the 5 images"):
        split(image_set(5), 6, 0, False)


def test_distinct_keeps_the_first_of_each_image_in_order():
    images = image_set(6).images
    mixed = images[[2, 0, 2, 5, 0, 2]]
    assert torch.equal(distinct(mixed), images[[2, 0, 5]])
    assert torch.equal(distinct(images), images)
