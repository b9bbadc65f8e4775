"""The page to draw on, in a real browser: the committed file, opened as by a double click."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.interaction import POINTER_MOUSE, POINTER_TOUCH
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from torch import nn

from model import LeNet5
from predict import load_network, recognize
from support.digits import Glyph, judge, normalize, turn, write_page
from support.terminal import UserError
from tests.test_ink import blotted

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "result_plot" / "draw.html"
WEIGHTS = ROOT / "weights" / "lenet_bn_augment.pt"


def start_browser() -> Chrome:
    """A headless Chromium; its console is kept."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(shutil.which("chromedriver")))


def open_page(page: Chrome, path=PAGE, width=1280, language="en-US", scheme="light") -> Chrome:
    """Open a file at that width, with the browser's language and colour scheme as said; below 600 it is a phone."""
    phone = width < 600
    size = {"width": width, "height": 800, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
    page.execute_cdp_cmd("Network.setUserAgentOverride", {"userAgent": "Mozilla/5.0", "acceptLanguage": language})
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    page.get(path.as_uri())
    return settled(page)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    """A browser for all tests; they are skipped where there is none, but not where it is said to be needed."""
    if not shutil.which("chromedriver") and not os.environ.get("CI_NEEDS_BROWSER"):
        pytest.skip("install chromium and chromium-driver")
    chromium = start_browser()
    yield chromium
    chromium.quit()


@pytest.fixture
def opened(chromium) -> Iterator[Callable[..., Chrome]]:
    """`open_page` in the browser of all tests; afterwards its console must be empty, of refused requests too."""
    yield lambda **how: open_page(chromium, **how)
    assert chromium.get_log("browser") == []


def settled(page: Chrome) -> Chrome:
    """After the page has shown what has changed."""
    page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    return page


def shown(page: Chrome, name: str) -> str:
    return settled(page).find_element(By.ID, name).text


# Each a stroke through points of a square, 0 to 100, x to the right, y downwards: few, as of a fast hand.
DIGITS = {
    1: "55,0 45,100",
    3: "14,16 28,4 50,0 70,8 78,25 68,42 45,50 72,56 83,74 72,92 45,100 20,95 9,83",
    5: "85,2 28,4 22,45 45,36 70,44 82,68 70,92 45,100 16,88",
    6: "70,0 45,10 27,30 17,60 20,85 47,100 70,92 77,72 70,52 47,44 25,55 18,75",
    7: "10,5 85,0 40,100",
}
LARGE, THICK = (1, (0.05, 0.05, 0.9)), (2, (0.15, 0.12, 0.72))  # which of the three pens, and the box of the strokes
MIDDLE, SMALL, CORNER = (1, (0.2, 0.2, 0.6)), (0, (0.45, 0.4, 0.18)), (0, (0.68, 0.68, 0.28))


def draw(page: Chrome, stroke: str, box=(0.2, 0.2, 0.6), kind: str = POINTER_MOUSE, lift: bool = True) -> None:
    """Draw with real events. box: left, top and side of the stroke's square, in shares of the sheet."""
    left, top, side = box
    sheet = page.find_element(By.ID, "sheet")
    width = sheet.rect["width"]
    actions = ActionChains(page, duration=0, devices=[PointerInput(kind, kind)])
    for index, point in enumerate(stroke.split()):
        x, y = (start + side * int(at) / 100 - 0.5 for start, at in zip((left, top), point.split(","), strict=True))
        actions.move_to_element_with_offset(sheet, round(x * width), round(y * width))
        if index == 0:
            actions.click_and_hold()
    if lift:
        actions.release()
    actions.perform()


def press(page: Chrome, *keys: str) -> None:
    ActionChains(page, duration=0).send_keys(*keys).perform()


def canvases(page: Chrome, selector: str) -> list[list[int]]:
    """What canvases show: of each the red of its pixels, row after row."""
    script = """
        return Array.from(document.querySelectorAll(arguments[0]), (canvas) => {
          const { width, height } = canvas;
          const copy = new OffscreenCanvas(width, height).getContext("2d");
          copy.drawImage(canvas, 0, 0);
          return Array.from(copy.getImageData(0, 0, width, height).data).filter((_, at) => at % 4 === 0);
        });"""
    return settled(page).execute_script(script, selector)


def test_the_committed_page_is_that_of_the_committed_weights_and_names_no_other_file(tmp_path):
    write_page(tmp_path / "draw.html", "lenet_bn_augment", load_network(WEIGHTS)[1])
    page = PAGE.read_bytes()
    assert (tmp_path / "draw.html").read_bytes() == page
    assert not any(word in page for word in (b"http:", b"https:", b"//cdn", b"src=", b"@import", b"url("))
    assert b"""<meta http-equiv="Content-Security-Policy" content="default-src 'none';""" in page


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"f6": nn.Sequential(nn.Linear(120, 84)), "g8": nn.Linear(1, 1)}, "whose layers are c1, c3, c5, f6.0, f7, g8"),
        ({"f7": nn.Linear(84, 26)}, "10 logits"),
        ({"norm6": nn.Tanh()}, "cannot compute my_net"),
        ({"c1": nn.Conv2d(1, 6, 5, padding=2)}, "cannot compute my_net"),  # of 28x28, and nothing of 32x32
    ],
)
def test_a_network_that_the_page_does_not_compute_is_refused(layers, said, tmp_path):
    page, network = tmp_path / "draw.html", LeNet5()
    page.write_text("as it was")
    for name, layer in layers.items():
        setattr(network, name, layer)
    with pytest.raises(UserError, match=said):
        write_page(page, "my_net", network)
    assert page.read_text() == "as it was"


@pytest.mark.parametrize("run", ["lenet_bn_augment", "lenet", "mlp"])
def test_the_page_of_each_network_computes_its_logits_and_shows_its_maps(run, opened, tmp_path):
    _, network = load_network(WEIGHTS.with_name(f"{run}.pt"))
    write_page(tmp_path / "draw.html", f"</script><b>{run}", network)
    page = opened(path=tmp_path / "draw.html")
    images = torch.randn(20, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    script = "return arguments[0].map((pixels) => logits(pixels))"
    logits = np.array(page.execute_script(script, images.flatten(1).tolist()))
    expected = network(images).detach().numpy()
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    draw(page, DIGITS[7])
    assert shown(page, "digit") == "7"
    assert f"</script><b>{run}" in shown(page, "name")
    assert page.find_element(By.ID, "maps").is_displayed() == (run != "mlp")


@pytest.mark.parametrize(
    ("stroke", "pen", "box", "warned"),
    [
        *((DIGITS[digit], *way, []) for digit, way in ((5, LARGE), (3, THICK), (6, SMALL), (3, CORNER))),
        ("0,30 100,33", *MIDDLE, ["not sure", "broad"]),
        ("50,50 54,51", *MIDDLE, ["blot"]),
    ],
)
def test_what_is_drawn_is_read_as_predict_reads_it(stroke, pen, box, warned, opened):
    """The same 28x28, the mean over the same three rotations, the same warnings."""
    page = opened()
    page.find_elements(By.NAME, "pen")[pen].click()
    draw(page, stroke, box)
    assert page.execute_script("return strokes[0].pen") == (0.025, 0.05, 0.1)[pen]
    ink = np.reshape(settled(page).execute_script("return Array.from(inkMask().values)"), (512, 512))
    digit = judge(Glyph(ink > 0), lambda glyph: recognize(glyph, load_network(WEIGHTS)[1]))
    assert np.abs(np.reshape(canvases(page, "#seen"), (28, 28)) - digit.prepared.astype(int)).max() <= 2  # of 255
    for degrees in (-10, 10):
        turned = page.execute_script(f"return Array.from(normalize(turn(crop(inkMask()), {degrees})).values)")
        expected = normalize(turn(digit.glyph.mask, degrees)).astype(int)
        assert np.abs(np.reshape(turned, (28, 28)) - expected).mean() < 0.5
    assert page.execute_script("return reading.probabilities") == pytest.approx(digit.probabilities, abs=0.01)
    said = shown(page, "warning")
    assert bool(said) == bool(digit.warnings) == bool(warned)
    assert all(word in text for word in warned for text in (said, " ".join(digit.warnings)))


@pytest.mark.parametrize("digit", [6, 8, 9])
def test_blots_and_narrow_loops_are_prepared_as_predict_does(digit, opened):
    mask = blotted(digit)
    seen = opened().execute_script(
        "const [width, height, ink] = arguments;"
        "return Array.from(normalize(picture(width, height, (x, y) => 255 * ink[y * width + x])).values);",
        *mask.T.shape,
        mask.ravel().astype(int).tolist(),
    )
    assert np.abs(np.reshape(seen, (28, 28)) - normalize(mask).astype(int)).max() <= 4  # Pillow rounds twice


def test_result_and_maps_follow_while_the_pen_is_down_and_undo_brings_back_what_was_cleared(opened):
    page, maps = opened(), "#c1 canvas, #c3 canvas"
    blank = canvases(page, maps)
    assert [len(values) for values in blank] == 6 * [28 * 28] + 16 * [10 * 10]
    assert len({value for values in blank for value in values}) == 1, "each is shown less what it is of a blank sheet"
    draw(page, DIGITS[1], lift=False)
    assert shown(page, "digit") == "1"
    one = canvases(page, maps)
    assert all(len(set(values)) > 10 for values in one)
    ActionChains(page).release().perform()
    draw(page, DIGITS[7], (0.4, 0.2, 0.6))
    assert shown(page, "digit") != "1"
    assert all(before != after for before, after in zip(one, canvases(page, maps), strict=True))
    for button, digit in (("undo", "1"), ("clear", ""), ("undo", "1")):
        page.find_element(By.ID, button).click()
        assert shown(page, "digit") == digit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "lang", "title"),
    [("ko-KR,ko,en", "ko", "숫자를 써 보세요 · BN-LeNet-5"), ("de", "en", "Draw a digit · BN-LeNet-5")],
)
def test_on_a_phone_all_fits_in_the_browsers_language_and_one_draws_with_a_finger(language, lang, title, opened):
    page = opened(width=360, language=language)
    assert (page.execute_script("return document.documentElement.lang"), page.title) == (lang, title)
    sheet = page.find_element(By.ID, "sheet")
    assert sheet.rect["width"] > 300
    assert sheet.rect["y"] + sheet.rect["height"] < 640
    assert sheet.value_of_css_property("touch-action") == "none"
    assert page.execute_script("return document.getElementById('sheet').width") == round(2 * sheet.rect["width"])
    draw(page, DIGITS[6], kind=POINTER_TOUCH)
    assert shown(page, "digit") == "6"
    assert page.execute_script("return [scrollY, innerWidth, document.documentElement.scrollWidth]") == [0, 360, 360]
    for button in page.find_elements(By.CSS_SELECTOR, "button, fieldset label"):
        assert min(button.rect["width"], button.rect["height"]) >= 44
    texts = page.execute_script("return TEXTS").values()
    one, other = ({key: {*re.findall(r"{\w+}", str(value))} for key, value in words.items()} for words in texts)
    assert one == other, "both languages say the same things"


@pytest.mark.slow
def test_a_digit_is_drawn_undone_and_cleared_with_the_keyboard_alone(opened):
    page = opened()
    press(page, Keys.TAB)
    assert page.switch_to.active_element == page.find_element(By.ID, "sheet")
    press(page, 10 * Keys.ARROW_LEFT, 5 * Keys.ARROW_UP, Keys.SPACE, 20 * Keys.ARROW_RIGHT)
    # two keys held at once go aslant
    aslant = ActionChains(page, duration=0).key_down(Keys.ARROW_LEFT).send_keys(10 * Keys.ARROW_DOWN)
    aslant.key_up(Keys.ARROW_LEFT).perform()
    assert page.execute_script("return cursor.x") == pytest.approx(0.5 + (-10 + 20 - 11) * 0.02)
    press(page, 25 * Keys.ARROW_DOWN, Keys.SPACE)
    assert shown(page, "digit") == "7"
    said = page.find_element(By.ID, "announcement")
    WebDriverWait(page, 5).until(lambda _: said.get_attribute("textContent").startswith("Pen up. 7, "))
    press(page, 5 * Keys.ARROW_LEFT)  # the pen is up
    assert page.execute_script("return strokes.length") == 1
    undo = ActionChains(page).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL)
    undo.perform()
    assert shown(page, "digit") == ""
    undo.perform()
    press(page, Keys.SPACE, 9 * Keys.ARROW_DOWN, Keys.ESCAPE)
    assert shown(page, "digit") != ""
    assert not page.execute_script("return cursor.down")
    press(page, Keys.DELETE)
    assert shown(page, "digit") == ""
    WebDriverWait(page, 5).until(lambda _: said.get_attribute("textContent") == "Nothing drawn")


@pytest.mark.slow
def test_every_control_and_picture_has_a_name_for_screen_readers(opened):
    page = opened()
    draw(page, DIGITS[7])
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    names = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]}
    named = {"application", "image", "button", "radio", "group", "list", "heading"}
    assert {role for role, _ in names} >= named | {"main"}
    assert not {role for role, name in names if not name} & named
    assert ("radio", "Thick") in names
    assert page.find_element(By.ID, "announcement").get_attribute("role") == "status"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scheme, opened):
    page = opened(scheme=scheme)

    def luminance(name: str) -> float:
        channels = np.array(page.execute_script("return channels(arguments[0])", name)) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    assert (luminance("--page") > 0.5) == (scheme == "light")
    for text in ("--text", "--soft", "--accent", "--ink"):  # WCAG 2.2, 1.4.3
        for ground in ("--page", "--paper"):
            low, high = sorted([luminance(text), luminance(ground)])
            assert (high + 0.05) / (low + 0.05) >= 4.5
