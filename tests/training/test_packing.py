"""Captions side by side in rows: the losses and gradients of padded ones, on fewer positions."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualcap_jax.models import variables
from dualcap_jax.models.variables import bind
from dualcap_jax.training.objectives.cross_entropy import cross_entropy
from dualcap_jax.training.packing import Packer, Room, lay, places_of, room_for

from .tiny import random_batch, tiny_model


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
@settings(deadline=None)
def test_no_two_texts_share_a_place_and_rows_are_well_filled(lengths):
    row_of, start_of, rows = lay(np.array(lengths), 9)
    taken = [
        (row, place)
        for row, start, length in zip(row_of, start_of, lengths, strict=True)
        for place in range(start, start + length)
    ]
    assert len(set(taken)) == sum(lengths)
    assert all(row < rows and place < 9 for row, place in taken)
    # of two rows that are half empty, the texts of one would have gone into the other
    filled = np.bincount([row for row, _ in taken], minlength=1)
    assert rows < 2 or filled.sum() > rows * 9 / 2


def packed_and_padded(merger, loss, parts, room=None):
    """Sums and gradients of a batch with an image that lacks a caption, both ways."""
    config = tiny_model(**merger)
    batch = random_batch(batch=4, captions=3, seed=1)
    batch["mask"][1, 2], batch["tokens"][1, 2] = False, 0
    whole, apart = loss == "all_positions", not config.merger.is_pointwise
    lengths = places_of(batch["mask"], whole)
    packer = Packer(room or room_for([lengths], 8, parts)[0], parts, whole, apart)
    model, objective = variables.init(config, 0), cross_entropy(loss, smoothing=0.1 * (not whole))

    def sums_and_gradients(batch):
        def total(params):
            network = bind(config, model | {"params": params})
            sums = objective.sums(network, batch, jax.random.key(0))
            return sums[objective.minimised], sums

        (_, sums), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(model["params"])
        return jax.device_get((sums, gradients))

    inputs = {name: value for name, value in batch.items() if name != "image_id"}
    packed = packer(inputs)
    rows = len(packed["tokens"]) // parts
    each = [
        {name: value.reshape(parts, -1, *value.shape[1:])[part] for name, value in packed.items()}
        for part in range(parts)
    ]
    ours = jax.tree.map(lambda *parts: sum(parts), *map(sums_and_gradients, each))
    return ours, sums_and_gradients(inputs), rows


@pytest.mark.parametrize(
    ("merger", "loss", "parts"),
    [
        ({}, "real_tokens", 1),
        ({"norm": "layer"}, "all_positions", 1),
        ({"kind": "attention", "heads": 2}, "real_tokens", 2),
        ({"kind": "gru"}, "real_tokens", 1),
    ],
)
def test_losses_and_gradients_are_those_of_padded_captions(merger, loss, parts):
    (sums, gradients), (padded_sums, padded_gradients), rows = packed_and_padded(merger, loss, parts)
    assert rows * parts < 12 or loss == "all_positions"
    for name in sums:
        assert sums[name] == pytest.approx(padded_sums[name], rel=1e-5), name
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(padded_gradients))
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(padded_gradients), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * scale)


def test_a_batch_that_needs_more_room_than_planned_is_given_it():
    (sums, _), (padded, _), rows = packed_and_padded({}, "real_tokens", 1, room=Room(2, 5))
    assert rows == 12
    assert sums["nll"] == pytest.approx(padded["nll"], rel=1e-5)


def test_a_packed_caption_is_deaf_to_its_neighbours():
    config, batch = tiny_model(), random_batch(batch=2, captions=2, seed=3)
    network = bind(config, variables.init(config, 0))
    packed = Packer(room_for([places_of(batch["mask"])], 8)[0])(batch)

    def of_first_row(batch):
        hidden = network.language.hidden(
            batch["tokens"], batch["attended"], segments=batch["segments"], positions=batch["positions"]
        )
        return np.asarray(hidden)

    before = of_first_row(packed)
    changed = replace_tokens(packed, packed["segments"] > 1)
    after = of_first_row(changed)
    first = packed["segments"] == 1
    assert (packed["segments"] > 1).any()
    np.testing.assert_array_equal(before[first], after[first])
    assert not np.array_equal(before[~first & packed["attended"]], after[~first & packed["attended"]])


def replace_tokens(batch, where):
    return batch | {"tokens": np.where(where, (batch["tokens"] + 1) % 60, batch["tokens"])}
