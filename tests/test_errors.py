import pytest

from est_analysis.errors import InputError, expanded, unknown_name


def test_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ets", "unknown method 'ets': did you mean 'est'? Known: est, full, raptr"),
        ("ful", "unknown method 'ful': did you mean 'full'? Known: est, full, raptr"),
        ("zzzzzz", "unknown method 'zzzzzz': Known: est, full, raptr"),
        ("", "unknown method '': Known: est, full, raptr"),
    ],
)
def test_unknown_name_suggests_the_nearest_and_lists_all_sorted(name, message):
    error = unknown_name("method", name, iter(["raptr", "est", "full"]))
    assert isinstance(error, InputError)
    assert str(error) == message


def test_the_home_of_nobody_is_refused():
    assert expanded("~/x").is_absolute()
    with pytest.raises(InputError, match="no home folder is known for '~nobody-of-that-name/x'; write the path out"):
        expanded("~nobody-of-that-name/x")
