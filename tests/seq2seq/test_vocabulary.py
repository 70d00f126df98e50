"""Characters as tokens, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras.seq2seq import CharacterVocabulary

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@given(texts=st.lists(TEXTS, max_size=4), min_count=st.integers(1, 3))
def test_texts_come_back_without_their_rare_characters(texts, min_count):
    vocabulary = CharacterVocabulary.of(texts, min_count)
    counts = [sum(text.count(c) for text in texts) for c in vocabulary.characters]
    assert counts == sorted(counts, reverse=True) and min(counts, default=9) >= min_count
    assert len(vocabulary) == 4 + len(counts)
    for text in texts:
        tokens = vocabulary.encode(text, ends=True)
        assert tokens.dtype == "int32" and (tokens[0], tokens[-1]) == (2, 3)
        assert tokens[1:-1].tolist() == vocabulary.encode(text).tolist()
        known = "".join(c for c in text if c in vocabulary.characters)
        assert (tokens == 1).sum() == len(text) - len(known)
        assert vocabulary.decode([*tokens, 4, 0, 0]) == known


def test_a_saved_vocabulary_is_the_same(tmp_path):
    vocabulary = CharacterVocabulary.of(["标题\n\"'", "题🙂\u2028"])
    vocabulary.save(tmp_path / "v.json")
    assert CharacterVocabulary.load(tmp_path / "v.json").characters == vocabulary.characters
    for text in ("", "[]", "{}", '{"characters": "aa"}', '{"characters": 5}', "\xff"):
        (tmp_path / "w.json").write_text(text, "latin1")
        with pytest.raises(ValueError, match="is not a file of CharacterVocabulary"):
            CharacterVocabulary.load(tmp_path / "w.json")


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: CharacterVocabulary("abca"), "each character once, got 'a' twice"),
        (lambda: CharacterVocabulary(["ab"]), "single characters, got 'ab'"),
        (lambda: CharacterVocabulary(["a", 5]), "single characters, got 5"),
        (lambda: CharacterVocabulary.of("abc"), "list of texts, got one text: 'abc'"),
        (lambda: CharacterVocabulary.of(["a"], 0), "min_count"),
        (lambda: CharacterVocabulary("ab").decode([6]), r"integers in 0\.\.5, got 6"),
        (lambda: CharacterVocabulary("ab").decode([-1]), r"integers in 0\.\.5, got -1"),
        (lambda: CharacterVocabulary("ab").decode([4.0]), r"integers in 0\.\.5, got 4\.0"),
        (lambda: CharacterVocabulary("ab").decode([[4]]), r"integers in 0\.\.5, got \[4\]"),
    ),
)
def test_bad_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
