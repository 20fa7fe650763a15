# ruff: noqa: RUF001 -- the Russian words are what is tested
"""The generated Russian-English corpus: right forms, one translation a sentence, and honest held-out parts."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from model_build import DataError
from model_build.models.translation.grammar import generate
from model_build.models.translation.lexicon import LEXICON, read_lexicon
from model_build.models.translation.pairs import Pair
from model_build.models.translation.phrases import nouns, who, with_article
from model_build.models.translation.templates import TEMPLATES, Template, read_templates
from tests.support import ROOT

COUNT = 30_000


@cache
def corpus() -> list[Pair]:
    return generate(COUNT, 1)


def template(name: str) -> Template:
    return next(template for template in read_templates() if template.name == name)


# Written by hand: template, Russian, English, and what the sentence shows.
SENTENCES = """
present|Мальчик читает книгу.|The boy is reading the book.|accusative, feminine
present|Мы ждём автобус.|We are waiting for the bus.|accusative, inanimate; English preposition
present|Анна ищет котёнка.|Anna is looking for the kitten.|accusative, animate, fleeting vowel
present|Повара пользуются ножами.|The cooks are using the knives.|instrumental plural
present|Она помогает детям.|She is helping the children.|dative plural, irregular
present|Антон думает об уроке.|Anton is thinking about the lesson.|prepositional; "o" before a vowel
present_described|Врач моет грязные чашки.|The doctor is washing the dirty cups.|adjective, accusative plural
present_described|Я ем свежую рыбу.|I am eating the fresh fish.|adjective, accusative feminine
present_described|Женщина рисует большую собаку.|The woman is drawing the big dog.|drawn and big
state|Ольга видит чёрного зайца.|Olga sees the black hare.|adjective, accusative animate
present_question|Вы смотрите фильм?|Are you watching the movie?|question by intonation
present_negative|Иван не пьёт кофе.|Ivan is not drinking the coffee.|negation; no declension
habit|Мальчик часто теряет ключи.|The boy often loses keys.|third person, no article
habit_question|Елена всегда готовит суп?|Does Elena always cook soup?|do-support
daily|Каждый день они читают газеты.|They read newspapers every day.|habit at the end
never|Павел никогда не ест мясо.|Pavel never eats meat.|double negation
fond|Девочки любят яблоки.|The girls love apples.|generic plural
fond_negative|Я не люблю молоко.|I do not like milk.|do-support
past|Ольга нашла кольцо.|Olga found the ring.|past, feminine
past_time|Вчера я взяла словарь.|I took the dictionary yesterday.|past of a feminine I
past_negative|Художники не продали дом.|The artists did not sell the house.|past plural
past_question|Ты забыла зонт?|Did you forget the umbrella?|question in the past
past_duration|Мария весь вечер писала письма.|Maria was writing the letters all evening.|imperfective past
used_to|Раньше он каждое утро пил чай.|He used to drink tea every morning.|past habit
count_past|Я купил две книги.|I bought two books.|two with a feminine
count_past|Анна купила пять яблок.|Anna bought five apples.|five with a genitive plural
count_past|Иван потерял одну сумку.|Ivan lost one bag.|one in the accusative
future|Завтра мы купим хлеб.|We will buy the bread tomorrow.|perfective future
future_duration|Завтра ты весь день будешь решать задачу.|Tomorrow you will be solving the problem all day.|budet
when_past|Когда врач открыл окно?|When did the doctor open the window?|wh-question
who_past|Кто вчера съел торт?|Who ate the cake yesterday?|question for the subject
where_is|Где мои ключи?|Where are my keys?|possessive plural
how_many|Сколько стульев у Павла?|How many chairs does Pavel have?|genitive plural, irregular
wish|Она хочет купить платье.|She wants to buy the dress.|wish with an infinitive
must|Мария должна написать рассказ.|Maria must write the story.|agreement of a short form
need_to|Мне нужно найти ключ.|I need to find the key.|dative pronoun
need_thing|Нам нужна новая лампа.|We need a new lamp.|what is needed agrees
may|Можно взять зелёный карандаш?|May I take the green pencil?|modal without a subject
please|Закройте большое окно, пожалуйста.|Please close the big window.|imperative
order_negative|Не открывай дверь!|Do not open the door!|negative imperative
have|У меня есть старый чемодан.|I have an old suitcase.|possession, an
have_not|У него нет велосипеда.|He does not have a bicycle.|genitive after net, n-form
have_not|У Анны нет котят.|Anna does not have kittens.|genitive plural, irregular
have_kin|У них есть старший брат.|They have an older brother.|possession, n-form
have_count|У девочки три кошки.|The girl has three cats.|three with a genitive singular
like|Мне нравятся красные цветы.|I like the red flowers.|verb agrees with the liked
age|Марии двадцать лет.|Maria is twenty years old.|genitive plural of year
age|Ивану два года.|Ivan is two years old.|genitive singular of year
feeling|Им холодно.|They are cold.|impersonal
condition_past|Вчера Ольга была больна.|Olga was sick yesterday.|short form in the past
profession|Мой отец работает инженером.|My father works as an engineer.|instrumental, an
afraid|Девочка боится чёрной собаки.|The girl is afraid of the black dog.|genitive after a verb
lives|Его мать живёт в деревне.|His mother lives in the village.|location
going|Студенты идут на вокзал.|The students are going to the station.|direction with na
at_place|Иван работает в саду.|Ivan is working in the garden.|second locative
came_from|Она вернулась с завода.|She returned from the factory.|origin
company|Антон гуляет с моей дочерью.|Anton is walking with my daughter.|instrumental of the third declension
to_someone|Мария идёт ко мне.|Maria is going to me.|ko before mn
there_is_none|В шкафу нет шляпы.|There is no hat in the closet.|genitive of absence
town_has|В городе есть новый университет.|There is a new university in the city.|a before a university
because|Павел не купил билет, потому что был занят.|Pavel did not buy the ticket because he was busy.|reason
while|Анна пишет письмо, а повар режет хлеб.|Anna is writing the letter, and the cook is cutting the bread.|two clauses
relative|Женщина, которая поёт песню, живёт в Москве.|The woman who is singing the song lives in Moscow.|relative
long_because|Вчера Анна не убрала комнату, потому что весь день работала на заводе.|Anna did not clean the room yesterday because she was working at the factory all day.|reason, long
long_when|Когда Павел вернулся из театра, девочки учили слова на кухне.|When Pavel returned from the theater, the girls were learning the words in the kitchen.|time, long
relative_object|Книга, которую он купил, на столе.|The book that he bought is on the table.|relative in the accusative
"""  # noqa: E501 -- a table, a row a line


def sentences() -> list[tuple[str, str, str]]:
    rows = [line.split("|") for line in SENTENCES.strip().splitlines()]
    return [(name, russian, english) for name, russian, english, _ in rows]


def rendered(name: str, russian: str) -> dict[str, str]:
    """What the template makes of the phrases that have a form in this sentence."""
    whole = template(name)
    text = russian.lower()
    options = {
        slot: tuple(
            phrase for phrase in phrases if any(form.lower() in text for form in set(phrase.forms.values()) - {""})
        )
        for slot, phrases in whole.options.items()
    }
    narrow = replace(whole, options=options)
    return {pair.source: pair.target for pair in (narrow.render(index) for index in range(narrow.size))}


@pytest.mark.parametrize(("name", "russian", "english"), sentences())
def test_sentence_is_as_written_by_hand(name: str, russian: str, english: str) -> None:
    assert rendered(name, russian).get(russian) == english


@pytest.mark.parametrize(
    ("lemma", "number", "forms"),
    [
        ("отец", "s", "отец отца отцу отца отцом отце"),
        ("мать", "s", "мать матери матери мать матерью матери"),
        ("ребёнок", "p", "дети детей детям детей детьми детях"),
        ("заяц", "s", "заяц зайца зайцу зайца зайцем зайце"),
        ("сестра", "p", "сёстры сестёр сёстрам сестёр сёстрами сёстрах"),
        ("окно", "p", "окна окон окнам окна окнами окнах"),
        ("стул", "p", "стулья стульев стульям стулья стульями стульях"),
        ("дверь", "s", "дверь двери двери дверь дверью двери"),
        ("письмо", "p", "письма писем письмам письма письмами письмах"),
        ("статья", "p", "статьи статей статьям статьи статьями статьях"),
        ("учитель", "p", "учителя учителей учителям учителей учителями учителях"),
        ("Павел", "s", "Павел Павла Павлу Павла Павлом Павле"),
        ("кофе", "s", "кофе кофе кофе кофе кофе кофе"),
        ("словарь", "s", "словарь словаря словарю словарь словарём словаре"),
    ],
)
def test_noun_declines(lemma: str, number: str, forms: str) -> None:
    noun = next(noun for noun in read_lexicon().nouns if noun.lemma == lemma)
    assert " ".join((noun.singular if number == "s" else noun.plural).values()) == forms


def test_masculine_and_plural_accusative_is_the_genitive_of_what_is_animate() -> None:
    for noun in read_lexicon().nouns:
        assert not noun.plural or noun.plural["acc"] == noun.plural["gen" if noun.animate else "nom"], noun.lemma
        like_a_feminine = noun.singular["nom"][-1] in "ая"
        if noun.gender == "m" and not like_a_feminine:
            assert noun.singular["acc"] == noun.singular["gen" if noun.animate else "nom"], noun.lemma


def test_adjective_agrees_in_case_gender_number_and_animacy() -> None:
    blue = next(word for word in read_lexicon().adjectives if word.lemma == "синий")
    assert [blue.form(case, "m", False) for case in ("gen", "dat", "acc", "ins", "prep")] == (
        ["синего", "синему", "синий", "синим", "синем"]
    )
    assert [blue.form("acc", gender, True) for gender in "mfnp"] == ["синего", "синюю", "синее", "синих"]
    assert [blue.form(case, "f", True) for case in ("gen", "dat", "ins", "prep")] == ["синей"] * 4
    assert [blue.form(case, "p", False) for case in ("gen", "dat", "acc", "ins", "prep")] == (
        ["синих", "синим", "синие", "синими", "синих"]
    )


def test_preposition_takes_the_form_that_the_next_sound_asks_for() -> None:
    lexicon = read_lexicon()
    forms = {phrase.lemmas[0]: phrase.forms for phrase in who(lexicon, frozenset({"pronoun", "name", "person"}))}
    assert [forms[lemma]["about"] for lemma in ("я", "он", "Анна", "Елена")] == [
        "обо мне",
        "о нём",
        "об Анне",
        "о Елене",
    ]
    assert [forms[lemma]["to"] for lemma in ("я", "она")] == ["ко мне", "к ней"]
    singular = {phrase.lemmas[0]: phrase.forms for phrase in nouns(lexicon, frozenset({"person", "kin"}), "s")}
    assert [singular[lemma]["with"] for lemma in ("студент", "сестра")] == ["со студентом", "с сестрой"]
    assert forms["они"]["at"] == "у них"


def test_indefinite_article_follows_the_sound() -> None:
    words = ("book", "old book", "umbrella", "university", "engineer")
    assert [with_article(word).split(" ")[0] for word in words] == ["a", "an", "an", "a", "an"]


def test_no_sentence_has_two_translations_and_none_comes_twice() -> None:
    sources = Counter(pair.source for pair in generate(60_000, 3))
    assert sources.most_common(1)[0][1] == 1


def test_every_phrase_can_stand_in_its_template() -> None:
    for one in read_templates():
        step = 1  # by which a sentence's number grows with the slot's phrase
        for options in one.options.values():
            for which in range(0, len(options), 7):
                assert "{" not in one.render((which * step + one.size // 3) % one.size).source
            step *= len(options)


def test_sentences_are_short_capitalised_and_ended() -> None:
    for pair in corpus():
        assert 2 <= len(pair.source.split(" ")) <= 14, pair
        for text in (pair.source, pair.target):
            assert text[0].isupper(), pair
            assert text[-1] in ".?!", pair
            assert "  " not in text, pair
            assert text == text.strip(), pair


def test_no_word_of_the_lexicon_comes_twice_in_a_sentence() -> None:
    assert all(len(set(pair.lemmas)) == len(pair.lemmas) for pair in corpus())


def test_every_template_and_lemma_is_used_and_templates_get_equal_shares() -> None:
    lexicon = read_lexicon()
    lists = (lexicon.nouns, lexicon.verbs, lexicon.adjectives, lexicon.determiners, lexicon.shorts)
    words = {word.lemma for kind in (*lists, lexicon.pronouns, lexicon.numerals, lexicon.adverbs) for word in kind}
    assert {lemma for pair in corpus() for lemma in pair.lemmas} == words
    counts = Counter(pair.group for pair in corpus())
    largest = max(counts.values())
    for one in read_templates():
        assert counts[one.name] >= min(one.size, largest - 1), one.name
    assert len(counts) >= 40
    assert sum(one.size for one in read_templates()) > 100_000


def test_same_seed_gives_the_same_pairs_and_parts_in_every_process() -> None:
    program = (
        "import hashlib; from model_build.models.translation.grammar import generate\n"
        "from model_build.models.translation.division import divide\n"
        "parts = divide(generate(3000, 5), 0.03, 0.05, 5)\n"
        "print(hashlib.sha256(repr((parts.train, parts.validation, parts.test)).encode()).hexdigest())"
    )
    digests = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "77")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0].strip()) == hashlib.sha256().digest_size * 2


def test_another_seed_gives_other_pairs() -> None:
    assert {pair.source for pair in generate(500, 1)} != {pair.source for pair in generate(500, 2)}


def test_more_pairs_than_the_grammar_has_is_one_line() -> None:
    total = sum(one.size for one in read_templates())
    with pytest.raises(DataError) as caught:
        generate(total + 1, 1)
    message = str(caught.value)
    assert all(word in message for word in ("data.grammar_pairs", str(total + 1), str(total)))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("noun\tx", "noun: 14 cells"),
        ("nuon\tx", "'nuon' is none of noun, verb"),
        ("adverb\tx\ty\tz\tw", "adverb: 4 cells"),
        ("short\tx\ty\ta b c\tz", "has 3 forms, expected 4"),
    ],
)
def test_broken_line_of_the_lexicon_is_named(tmp_path: Path, broken: str, said: str) -> None:
    path = tmp_path / "lexicon.tsv"
    path.write_text(f"{LEXICON.read_text('utf-8')}{broken}\n", "utf-8")
    number = len(path.read_text("utf-8").splitlines())
    with pytest.raises(DataError) as caught:
        read_lexicon(path)
    assert f"{path} line {number}: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("x\ts=who:name\t{s.nom}", "a template has 4 cells"),
        ("x\ts=whom:name\t{s.nom}\t{s.the}", "'whom:name' is no kind of phrase"),
        ("x\ts=who:nobody\t{s.nom}\t{s.the}", "nothing in the lexicon fits"),
        ("x\ts=who:name\t{s.them}\t{s.the} {v.x:s.them}", "no such form or slot"),
        ("x\ts=who:name\t{s.nom}\t{s.them}", "no such form or slot: 'them'"),
    ],
)
def test_broken_line_of_the_templates_is_named(tmp_path: Path, broken: str, said: str) -> None:
    path = tmp_path / "templates.tsv"
    path.write_text(f"{TEMPLATES.read_text('utf-8').splitlines()[0]}\n{broken}\n", "utf-8")
    with pytest.raises(DataError) as caught:
        read_templates(path)
    assert f"{path} line 2: " in str(caught.value)
    assert said in str(caught.value)
