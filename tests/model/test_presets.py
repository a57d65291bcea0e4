"""The paper's shapes have its parameter counts."""

import pytest

from jaxsim.errors import UserError
from jaxsim.model import LanguageModel, preset

# 50,280 entries of the GPT-NeoX tokenizer. field.md: "102.5M by count" and
# "1.01B by count"; there is no published count of the middle one.
PAPER = {
    "paper-130m": (102_483_456, 102.5e6),
    "paper-300m": (278_398_976, None),
    "paper-1b": (1_009_782_784, 1.01e9),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_shapes_have_its_parameter_counts(name):
    model = LanguageModel(preset(name), 50_280)
    count, published = PAPER[name]
    assert model.vocab_rows == 50_304
    assert model.parameter_count() == count
    if published:
        assert count == pytest.approx(published, rel=5e-4)


def test_tiny_presets_have_the_size_of_their_name():
    for name, millions in (("tiny-0.3m", 0.3), ("tiny-5m", 5.0)):
        count = LanguageModel(preset(name), 257).parameter_count()
        assert count == pytest.approx(1e6 * millions, rel=0.65), name


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'paper'.*paper-130m"):
        preset("paper")
