"""Languages are guessed by script and by frequent words, or not at all."""

import pytest

from dpotrain.data.inspection.language import LANGUAGES, language
from dpotrain.data.inspection.shingles import words


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("English", "The cat is on the mat and it was there with you."),
        ("English", "It is “quoted” — that was the answer, and the best of them."),
        ("German", "Der Hund ist nicht auf dem Dach und die Katze auch."),
        ("French", "Le chat est dans la maison et les chiens sont avec vous."),
        ("Spanish", "El perro es de los que no se van por la calle con una correa."),
        ("Portuguese", "O cão não é do tipo que vai para a rua com uma pessoa, mas também pode ser."),
        ("Italian", "Il cane non è della signora che sono andato a trovare con gli amici."),
        ("Dutch", "De hond is niet van de man en het is voor een ander."),
        ("Chinese", "我是一个语言模型。"),
        ("Japanese", "これは日本語の文章です。"),
        ("Korean", "안녕하세요, 반갑습니다."),
        ("Cyrillic", "Привет, как дела?"),
        ("Arabic", "مرحبا كيف حالك"),
        ("", "42"),
        ("", "print(x)"),
        ("", "xyzzy plugh"),
        ("", ""),
    ],
)
def test_a_language_is_guessed(expected, text):
    assert LANGUAGES[language(text, words(text))] == expected
