"""The page of ``dpotrain report``: one file, whole without a network, safe whatever is in the data, legible."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from dpotrain.report.past_run import read_run
from dpotrain.ui.page.page import page
from dpotrain.ui.page.palette import CURVES, DARK, GROUNDS, LIGHT, TEXTS
from tests.report.past_runs import HOSTILE, past_run

VOID = {"meta", "br", "img", "input", "hr", "link"}


class Parsed(HTMLParser):
    """What a browser would make of it: open elements, texts, attributes; that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append((self.elements[-1][1], data))
        elif not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        past_run(folder / "base"),
        past_run(folder / "<i>other</i>", seed=3, skill=0.3, recipe={"loss": {"beta": 0.3}}, summary=False),
    ]


@pytest.fixture(scope="module")
def one(folders) -> str:
    return page([read_run(folders[0])], now=1e9)


@pytest.fixture(scope="module")
def several(folders) -> str:
    return page([read_run(folder) for folder in folders], now=1e9)


@pytest.fixture(params=["one", "several"])
def text(request) -> str:
    return request.getfixturevalue(request.param)


def test_every_element_is_closed_and_every_section_is_reached(text):
    parsed = Parsed(text)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"] for tag, attributes in parsed.elements if tag == "a"}
    assert targets <= {f"#{each}" for each in ids}


def test_it_needs_no_network_and_no_other_file(text):
    parsed = Parsed(text)
    for tag, attributes in parsed.elements:
        assert tag not in {"link", "img", "iframe", "object", "base", "form"}, tag
        assert not {"src", "srcset", "data", "action"} & attributes.keys()
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_texts_of_data_and_models_are_shown_and_obeyed_by_nobody(one, several):
    parsed = Parsed(one)
    for hostile in HOSTILE[:5]:
        assert hostile in parsed.text
    assert "<i>other</i>" in Parsed(several).text
    for page_text in (one, several):
        assert [tag for tag, _ in Parsed(page_text).elements if tag in ("i", "img")].count("img") == 0
        assert "\x1b" not in page_text
        elements = Parsed(page_text).elements
        assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]


def test_only_the_pages_own_script_may_run(text):
    parsed = Parsed(text)
    code = [data for attributes, data in parsed.scripts if "type" not in attributes]
    assert len(code) == 1
    digest = base64.b64encode(hashlib.sha256(code[0].encode()).digest()).decode()
    (policy,) = (
        attributes["content"]
        for tag, attributes in parsed.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    for attributes, data in parsed.scripts:
        if attributes.get("type") == "application/json":
            json.loads(data)


def test_values_are_there_without_a_script(one):
    assert re.search(r"<title>eval, step 200: 51\.7 % \(39\.3 to 63\.8 %\)</title>", one)
    assert "row 18:" in one


def test_it_says_what_a_colleague_asks(one, several):
    shown = Parsed(one).text
    for said in (
        "org/tiny-chat", "lora, rank 16, alpha 32.0", "39.3 to 63.8", "(31 of 60 pairs, 95",
        "Wrong at every evaluation",
        "before training", "both answers are the same <b>", "label_smoothing = 0.0", "torch 2.13.0", "from_pretrained",
    ):  # fmt: skip
        assert said in shown, said
    shown = Parsed(several).text
    for said in ("loss.beta", "exact McNemar test: p =", "do not compare", "is killed"):
        assert said in shown, said


def luminance(colour: str) -> float:
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_curves_stand_out(colours):
    """By WCAG 2.2: text 4.5 to 1, graphics 3 to 1."""
    for ground in GROUNDS:
        for name in TEXTS:
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in CURVES:
            assert contrast(colours[name], colours[ground]) >= 3, (name, ground)
    assert contrast(colours["text"], colours["mark"]) >= 4.5
    assert contrast(colours["page"], colours["text"]) >= 4.5, "what shows under the pointer"


@pytest.mark.parametrize(
    "missing", ["evaluations", "samples.jsonl", "metrics.jsonl", "data_report.json", "environment.json"]
)
def test_a_run_that_lacks_a_file_has_a_page(missing, tmp_path):
    folder = past_run(tmp_path / "run")
    (shutil.rmtree if missing == "evaluations" else lambda path: path.unlink())(folder / missing)
    Parsed(page([read_run(folder)]))
    Parsed(page([read_run(folder), read_run(folder)]))


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_nothing_sticks_out_and_the_script_works(folders, width, tmp_path):
    """The page measures itself: its policy keeps out any other script."""
    assert BROWSER is not None
    probe = """
      const wide = document.documentElement.scrollWidth > innerWidth;
      const outside = [...document.querySelectorAll("body *")].filter((each) =>
        !each.closest(".scroll, .answers, pre, svg") && each.getBoundingClientRect().right > innerWidth + 1);
      const svg = document.querySelector(".chart svg"), box = svg.getBoundingClientRect();
      svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2, clientY: box.top + 20}));
      document.querySelector("button[data-switch]").click();
      document.title = JSON.stringify({title: document.title, width: innerWidth, wide, theme: root.dataset.theme,
        outside: outside.map((each) => each.outerHTML.slice(0, 80)), tip: document.querySelector(".tip").textContent});
    })();
    """
    text = page([read_run(folders[0])])
    own = text[text.rindex("<script>") + len("<script>") : text.rindex("</script>")]
    both = own.rstrip().removesuffix("})();") + probe
    hashes = [
        f"sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}" for code in (own, both)
    ]
    # No window of chromium is as narrow as a phone; a frame is.
    path = tmp_path / "frame.html"
    probed = html.escape(text.replace(own, both).replace(*hashes))
    path.write_text(
        f'<meta charset="utf-8"><iframe srcdoc="{probed}" style="width:{width}px; height:844px; border:0"></iframe>'
        "<script>onload = () => { document.title = frames[0].document.title }</script>",
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--window-size=1400,900", "--dump-dom", path.as_uri()),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    found = json.loads(html.unescape(title[1]))
    assert found["title"] == "base", "no text of the data has run as a script"
    assert (found["width"], found["wide"], found["outside"]) == (width, False, [])
    assert re.search(r"eval, step 100: 0\.\d+", found["tip"])
    assert found["theme"] == "dark"
