from __future__ import annotations

import pytest

from reward_models import language

SENTENCES = {
    "en": "They talk about the weather, and she will call him on Monday.",
    "de": "Sie reden über das Wetter, und am Montag ruft sie ihn an.",
    "fr": "Ils parlent de la météo, et elle va lui téléphoner lundi avec son père.",
    "es": "Hablan del tiempo, y ella lo va a llamar el lunes con su padre.",
    "it": "Parlano del tempo e lunedì lei lo chiama con la sorella.",
    "pt": "Eles falam do tempo e ela vai ligar para ele na segunda.",
    "nl": "Ze praten over het weer en zij belt hem op maandag.",
    "pl": "Rozmawiają o pogodzie i ona nie wie, czy to jest prawda.",
    "sv": "De pratar om vädret och hon ringer honom på måndag.",
    "ru": "Они говорят о погоде, и в понедельник она ему позвонит.",
    "el": "Μιλούν για τον καιρό.",
    "ar": "يتحدثون عن الطقس.",
    "he": "הם מדברים על מזג האוויר.",
    "hi": "वे मौसम के बारे में बात करते हैं।",
    "th": "พวกเขาคุยกันเรื่องอากาศ",
    "zh": "他们在谈论天气。",
    "ja": "彼らは天気について話しています。",
    "ko": "그들은 날씨에 대해 이야기한다.",
}


def test_every_language_is_told_from_the_others():
    assert SENTENCES.keys() == set(language.LANGUAGES)
    for code, sentence in SENTENCES.items():
        shares = {other: language.share(sentence, other) for other in SENTENCES}
        assert all(0 <= share <= 1 for share in shares.values())
        assert max(shares, key=shares.__getitem__) == code, (code, shares)
        assert shares[code] > 0.5, (code, shares[code])


@pytest.mark.parametrize("text", ["", "42!", "Anna Schmidt"])
def test_where_nothing_tells_it_is_a_half(text):
    assert language.share(text, "en") == 0.5


def test_a_mixture_lies_between():
    mixed = f"{SENTENCES['en']} {SENTENCES['ru']}"
    assert 0.3 < language.share(mixed, "ru") < 0.7
