"""Characters as numbers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastkeras._files import replacing
from fastkeras.seq2seq.arguments import integer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike, FilePath

PADDING, UNKNOWN, START, END = range(4)
FIRST = 4  # the token of the first character


class CharacterVocabulary:
    """The characters of some texts, each with a token: an integer.

    The tokens 0 to 3 are no characters: padding, an unknown character, and the start and the end of
    a sequence. For a `BeamSearch`, suppress 0, 1 and 2.

    Args:
        characters: a text, or a list of characters, each once: the first has the token 4.

    Raises:
        ValueError: a character is there twice, or is not one character.

    Example:
        >>> from fastkeras.seq2seq import CharacterVocabulary
        >>> vocabulary = CharacterVocabulary.of(["banana", "band"], min_count=2)
        >>> vocabulary.characters
        'anb'
        >>> vocabulary.encode("band"), vocabulary.encode("a", ends=True)
        (array([6, 4, 5, 1], dtype=int32), array([2, 4, 3], dtype=int32))
        >>> vocabulary.decode([6, 4, 5, 3, 4])
        'ban'

    Source: Su Jianlin, 2018, https://kexue.fm/archives/5861.
    """

    def __init__(self, characters: str | Sequence[str]) -> None:
        wrong = [c for c in characters if not isinstance(c, str) or len(c) != 1]
        if wrong:
            raise ValueError(f"characters must be single characters, got {wrong[0]!r}")
        self.characters: str = "".join(characters)
        self._tokens = {c: token for token, c in enumerate(self.characters, FIRST)}
        if len(self._tokens) < len(self.characters):
            twice = Counter(self.characters).most_common(1)[0][0]
            raise ValueError(f"characters must have each character once, got {twice!r} twice")

    @classmethod
    def of(cls, texts: Iterable[str], min_count: int = 1) -> Self:
        """The vocabulary of the characters that occur often enough, the most frequent first.

        Args:
            texts: texts.
            min_count: how often a character must occur to have a token, at least 1.

        Raises:
            ValueError: `texts` is one text, or `min_count` is below 1.
        """
        integer("min_count", min_count, 1)
        if isinstance(texts, str):
            raise ValueError(f"texts must be a list of texts, got one text: {texts[:20]!r}")
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        known = [c for c, count in counts.items() if count >= min_count]
        return cls(sorted(known, key=lambda c: (-counts[c], c)))

    def __len__(self) -> int:
        """The number of tokens: the `vocabulary_size` of a model."""
        return FIRST + len(self.characters)

    def encode(self, text: str, ends: bool = False) -> NDArray[np.int32]:
        """The tokens of a text, int32; with `ends` between the start and the end token."""
        tokens = [self._tokens.get(c, UNKNOWN) for c in text]
        return np.array([START, *tokens, END] if ends else tokens, np.int32)

    def decode(self, tokens: ArrayLike) -> str:
        """The text of some tokens, up to the end token; without those that are no characters.

        Raises:
            ValueError: a token is not in the vocabulary.
        """
        characters = []
        for token in np.asarray(tokens).tolist():
            if token == END:
                break
            if not isinstance(token, int) or not 0 <= token < len(self):
                raise ValueError(f"tokens must be integers in 0..{len(self) - 1}, got {token}")
            if token >= FIRST:
                characters.append(self.characters[token - FIRST])
        return "".join(characters)

    def save(self, path: FilePath) -> None:
        """Write a JSON file: the characters in the order of their tokens."""
        with replacing(path, "w", encoding="utf-8") as file:
            json.dump({"characters": self.characters}, file, ensure_ascii=False)

    @classmethod
    def load(cls, path: FilePath) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is another one.
        """
        try:
            return cls(json.loads(Path(path).read_text("utf-8"))["characters"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a file of CharacterVocabulary.save: {error}") from None
