"""A guess at a text's language: by its script, and of Latin script by its most frequent words."""

from __future__ import annotations

import itertools

import numpy as np

from dpotrain.data.inspection.shingles import Words

#: Frequent words that few other languages of the list have.
_FREQUENT = {
    "English": "the of and to is that it for was with you this are be have not they from your can which will",
    "German": "der die das und ist nicht ein eine zu mit den von auf für sich dem auch als wird sind oder wie sie",
    "French": "le les des est une et dans pour que qui sur pas vous avec ce cette sont au par du ne être plus",
    "Spanish": "el los las una del por para con que es en se su como más pero este esta son y lo está puede",
    "Portuguese": "os uma do da em para com não que é um por mais como se dos das ao você são ou pode também",
    "Italian": "il gli della di che è un per con non sono del una nel alla come più questo anche si i dei può",
    "Dutch": "het een van en de is dat niet zijn voor met op ook aan deze wordt door kan naar bij je u om",
}
#: Where the letters of a script begin; those before the first entry, and of scripts not listed, are no letters.
_STARTS = (
    (0x0041, "Latin"), (0x0250, ""), (0x0370, "Greek"), (0x0400, "Cyrillic"), (0x0530, ""),
    (0x0590, "Hebrew"), (0x0600, "Arabic"), (0x0700, ""), (0x0900, "Devanagari"), (0x0980, "Bengali"),
    (0x0A00, ""), (0x0B80, "Tamil"), (0x0C00, ""), (0x0E00, "Thai"), (0x0E80, ""), (0x1100, "Korean"),
    (0x1200, ""), (0x1E00, "Latin"), (0x1F00, "Greek"), (0x2000, ""), (0x3040, "Japanese"), (0x3100, ""),
    (0x3400, "Chinese"), (0x4DC0, ""), (0x4E00, "Chinese"), (0xA000, ""), (0xAC00, "Korean"),
    (0xD7B0, ""), (0xF900, "Chinese"), (0xFB00, ""),
)  # fmt: skip
_CODES = np.array([start for start, _ in _STARTS], np.uint32)
_SCRIPTS = ["", *dict.fromkeys(script for _, script in _STARTS if script)]
_SCRIPT_AT = np.array([0, *(_SCRIPTS.index(script) for _, script in _STARTS)])

#: Names of the languages and scripts that a guess may be; the first is for no guess.
LANGUAGES = ("", *_FREQUENT, *(script for script in _SCRIPTS[1:] if script != "Latin"))

_LOOKED_AT = 60  # words
_CHARACTERS = 400
_LEAST = 3  # frequent words without which there is no guess
_LEAD = 1.5  # times as many as the next language has

_SPOKEN_IN: dict[str, list[int]] = {}
for _number, _text in enumerate(_FREQUENT.values(), 1):
    for _word in _text.split():
        _SPOKEN_IN.setdefault(_word, []).append(_number)


def language(text: str, of: Words) -> int:
    """Return the place in :data:`LANGUAGES` of a text with these words; 0 where it is too short or mixed to tell."""
    if not text.isascii():
        script = _script(text)
        if script != "Latin":
            return LANGUAGES.index(script)
    counts = [0] * (len(_FREQUENT) + 1)
    for word in itertools.islice(of, _LOOKED_AT):
        for number in _SPOKEN_IN.get(word, ()):
            counts[number] += 1
    second, first = sorted(counts)[-2:]
    return counts.index(first) if first >= max(_LEAST, _LEAD * second) else 0


def _script(text: str) -> str:
    """Return the script of most letters; empty without letters. Japanese is what has kana, though most be Chinese."""
    letters = np.frombuffer(text[:_CHARACTERS].encode("utf-32-le", "surrogatepass"), np.uint32)
    counts = np.bincount(_SCRIPT_AT[np.searchsorted(_CODES, letters, "right")], minlength=len(_SCRIPTS))
    counts[0] = 0
    most = _SCRIPTS[int(counts.argmax())]
    if most == "Chinese" and counts[_SCRIPTS.index("Japanese")]:
        return "Japanese"
    return most
