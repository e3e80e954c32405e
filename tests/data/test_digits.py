import pytest
import torch

from est_analysis.data.digits import NUM_CLASSES, all_digits, split_digits
from est_analysis.errors import InputError


def test_all_digits_are_there():
    data = all_digits()
    assert data.x.shape == (1797, 64)
    assert data.y.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # scikit-learn's manual
    assert len(data.y.unique()) == NUM_CLASSES
    assert data.x.mean(0).abs().max() < 1e-6  # float32


def test_a_split_divides_by_seed_alone():
    train, test = split_digits(3, held_out=500)
    assert (len(train.y), len(test.y)) == (1297, 500)
    together = torch.cat([train.x, test.x]).sort(0).values
    assert torch.equal(together, all_digits().x.sort(0).values)
    assert torch.equal(split_digits(3, held_out=500)[1].x, test.x)
    assert not torch.equal(split_digits(4, held_out=500)[1].x, test.x)


@pytest.mark.parametrize("held_out", [0, 1797])
def test_a_split_into_nothing_is_refused(held_out):
    with pytest.raises(InputError, match="cannot be held out"):
        split_digits(0, held_out=held_out)
