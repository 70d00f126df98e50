"""Tagging schemes such as BIO: what their letters mean, and which tag may follow which."""

_STANDARD = {"L": "E", "U": "S", "M": "I"}  # from the letters of BIOUL and BMES to BIOES
LETTERS = {
    "BIO": "BIO",
    "IOB2": "BIO",
    "IOB1": "BIO",
    "BIOES": "BIOES",
    "IOBES": "BIOES",
    "BIOUL": "BIOUL",
    "BILOU": "BIOUL",
    "BMES": "BMESO",
}


OUTSIDE = ("O", "")  # what `parse` gives for "O"


def parse(tag, scheme):
    """Split the name of a tag into (letter of BIOES, type)."""
    letter, separator, kind = tag[:1], tag[1:2], tag[2:]
    typed = separator in ("-", "_") and kind and letter != "O"
    if not letter or letter not in LETTERS[scheme] or not (tag == letter or typed):
        raise ValueError(
            f"tags must be 'O', or one of {', '.join(LETTERS[scheme])} with a type such as "
            f"'-PER' or without, for the scheme {scheme}, got {tag!r}"
        )
    return _STANDARD.get(letter, letter), kind


def scheme_of(names):
    """A scheme that has all the letters of the names."""
    for scheme in ("BIO", "BIOES"):
        if all(name[:1] in scheme for name in names):
            return scheme
    return "BMES" if any(name[:1] == "M" for name in names) else "BIOUL"


def rule_of(scheme):
    """The function that says whether a tag may follow another, both as `parse` returns them."""
    if LETTERS[scheme] != "BIO":
        return _follows_in_bioes
    return _follows_in_iob1 if scheme == "IOB1" else _follows_in_bio


def _follows_in_bio(before, after):
    return after[0] != "I" or (before[0] != "O" and before[1] == after[1])


def _follows_in_iob1(before, after):
    return after[0] != "B" or (before[0] != "O" and before[1] == after[1])


def _follows_in_bioes(before, after):
    if before[0] in "BI":  # a span is open
        return after[0] in "IE" and before[1] == after[1]
    return after[0] in "BSO"
