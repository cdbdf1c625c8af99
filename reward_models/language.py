"""In which language is a text? By its script, and among those of the Latin script by their commonest words.

No model and no data file: enough to see that a policy has left the language it should speak, in a sentence or more.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

SCRIPTS = {
    "ru": ("CYRILLIC",),
    "el": ("GREEK",),
    "ar": ("ARABIC",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "th": ("THAI",),
    "zh": ("CJK",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK", "KATAKANA-HIRAGANA"),
    "ko": ("HANGUL",),
}
"""As Unicode names its letters. A script stands for one language here; only those of Latin script are told apart.
(Chinese alone is Japanese, too.)"""

_COMMON = {
    "en": "the and of to is was are were be have has had that this it he she they we you i not with for on from at by "
    "his her their will would what there do did all can an as so who said",
    "de": "der die das und ist nicht ein eine einen den dem des mit von zu sich auf ich sie wir es auch als an er so "
    "dass war wird sind im für bei nur noch wie aber haben hat werden kann oder",
    "fr": "le la les et est des un une du de que qui dans il elle ne pas pour au ce se sur avec sont plus par je nous "
    "vous on mais ou son sa ses être avoir cette aux ont fait",
    "es": "el la los las y es un una de que en no se por con para su al lo como más del pero sus le ya o este sí "
    "porque esta son entre está cuando muy sin sobre también me hay",
    "it": "il la lo gli le e è un una di che in non si per con del della da sono i al come più ma anche alla nel dei "
    "delle questo ha o se io mi ci nella ho cosa",
    "pt": "o a os as e é um uma de que em não se por com para seu sua ao como mais do da mas dos das no na foi ele ela "
    "são também já está muito eu você isso",
    "nl": "de het een en is van niet dat die in te op aan met voor zijn er ik je hij was maar ook als bij nog naar dan "
    "om wat zij ze worden heeft hebben wordt deze of",
    "pl": "i w nie na się z jest to że do o jak po co tak za od ale przez był już może tylko dla jego jej są oraz być "
    "czy ten pan które który także",
    "sv": "och är att det en ett som på för inte med av i jag han hon den till var har de om men sig så kan vi från "
    "eller när ska också efter vid hade mycket",
}
_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}

LANGUAGES = (*_COMMON, *SCRIPTS)


def share(text: str, language: str) -> float:
    """How much of a text seems to be in a language (`en`, `de`, `zh`, …): 0 to 1, and 0.5 where nothing tells.

    The share of letters in the language's script; times, for a Latin one, what its common words are against those of
    the likeliest other language which it does not have itself.
    """
    scripts = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    if not scripts:
        return 0.5
    written = sum(scripts[name] for name in SCRIPTS.get(language, ("LATIN",))) / scripts.total()
    if language in SCRIPTS:
        return written
    own, said = _WORDS[language], re.findall(r"[^\W\d_]+", text.lower())
    speaks_for = sum(word in own for word in said)
    against = max(sum(word in words - own for word in said) for words in _WORDS.values())
    return written * (speaks_for / (speaks_for + against) if speaks_for or against else 0.5)
