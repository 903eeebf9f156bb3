"""The study of tokenizers: trained once, measured once, and a twin without codes."""

from dataclasses import replace

import pytest
import torch

from srdd.data import fashion_slice
from srdd.tokenizer_study import TRAINING, ContinuousTokenizer, TokenizerStudy

TINY = replace(TRAINING, steps=2, batch=8, save_every=2, warmup=1)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = TokenizerStudy(tmp_path_factory.mktemp("runs"), training=TINY)
    made.train = fashion_slice().subset(range(64))
    made.test = fashion_slice().subset(range(64, 264))
    return made


def test_variants_differ_only_in_the_number_of_codes(study):
    few, many = (study.config(vocab) for vocab in (16, 64))
    assert replace(few, vocab=64) == many and few.vocab == 16


def test_what_was_trained_and_measured_is_found_again(study, monkeypatch):
    first = study.measured(16, [0, 1])
    assert len(first) == 2 and first[0] != first[1]
    monkeypatch.setattr("srdd.tokenizer_study.fit", lambda *a, **k: pytest.fail("fit"))
    monkeypatch.setattr(
        "srdd.tokenizer_study.reconstruction", lambda *a: pytest.fail("measured")
    )
    assert study.measured(16, [0, 1]) == first


def test_without_a_quantizer_the_codebook_has_no_say(study):
    twin = study.trained(None, 0)
    assert isinstance(twin, ContinuousTokenizer)
    images = study.test.batch([0, 1])[0]
    with torch.no_grad():
        before = twin.reconstruct(images)
        twin.quantize.embedding.weight.zero_()
        assert torch.equal(twin.reconstruct(images), before)
        assert not torch.equal(twin.decode(twin.encode(images)), before)
